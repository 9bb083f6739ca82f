//! Stacks in several accounts, and folders that refer to one set of hosts.

use serde_json::Value;
use tests::cloud::{Cloud, DOWN};
use tests::lab::Lab;

// Nothing answers at the addresses of these machines; `up` creates alarms while it waits for them.
const UP: [&str; 8] =
    ["up", "CLUSTER_SIZE=2", "--ssh-from", "203.0.113.7", "--boot-time", "60s", "--settle", "1s"];
const OTHER: [(&str, &str); 1] = [("AWS_ACCESS_KEY_ID", "other")];

/// Makes a stack without ready hosts, by killing `up`.
fn make(cloud: &Cloud, folder: &str) {
    cloud.kill_at("PutMetricAlarm", folder, &UP);
}

#[test]
fn credentials_of_another_account_are_refused_and_both_are_named() {
    let cloud = Cloud::start(None);
    make(&cloud, "up");
    let there = cloud.resources().len();
    for words in
        [&UP[..], &["down"], &["down", "--region", "us-west-2,eu-west-1"], &["status"], &["plan", "--json"]]
    {
        let said = cloud.begin_with("up", words, &OTHER).failure();
        assert!(
            said.contains(
                "is in the account 123456789012, and the credentials are of the account 210987654321"
            ),
            "{words:?}: {said}"
        );
        assert!(!said.contains("nothing is left"), "{words:?}: {said}");
    }
    assert_eq!(cloud.resources().len(), there);
    // Nothing is left in the account that was searched, and the message names that account.
    let said = cloud.begin_with("empty", &DOWN, &OTHER).success();
    assert!(
        said.contains("nothing is left of provisioned-classifier in us-west-2, account 210987654321"),
        "{said}"
    );
    assert_eq!(cloud.resources().len(), there);
    let said = cloud.run("up", &["down", "--settle", "0s"]);
    assert!(said.contains("in us-west-2, account 123456789012"), "{said}");
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
    // While nothing is up, another account is fine.
    let plan = cloud.begin_with("up", &["plan", "--ssh-from", "203.0.113.7"], &OTHER).failure();
    assert!(plan.contains("provisioned-classifier in us-west-2, account 210987654321: "), "{plan}");
}

#[test]
fn a_plan_says_account_and_region() {
    let cloud = Cloud::start(None);
    let plan = ["plan", "CLUSTER_SIZE=1", "--ssh-from", "203.0.113.7", "--region", "eu-west-1"];
    let said = cloud.fail("up", &plan);
    assert!(said.contains("provisioned-classifier in eu-west-1, account 123456789012: "), "{said}");
    let output = cloud.xtask("up", &[&plan[..], &["--json"]].concat()).output().unwrap();
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&plan["account"], &plan["region"]), (&"123456789012".into(), &"eu-west-1".into()));
}

#[test]
fn a_folder_without_a_key_has_no_stack_of_its_own() {
    let cloud = Cloud::start(None);
    make(&cloud, "up");
    let there = cloud.resources().len();
    for words in [&["down"][..], &["down", "--region", "all"]] {
        let said = cloud.fail("empty", words);
        assert!(said.contains("has no SSH key") && said.contains("down --stack NAME"), "{said}");
    }
    assert_eq!(cloud.resources().len(), there);
    cloud.down();
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
}

#[test]
fn hosts_of_a_stack_are_not_cleared_as_hosts_of_a_file() {
    let Some(lab) = Lab::up("hosts_of_a_stack_are_not_cleared_as_hosts_of_a_file", "2") else { return };
    let cloud = Cloud::start(Some(&lab));
    let up = ["up", "CLUSTER_SIZE=1", "--ssh-from", "10.213.0.0/16", "--ssh-user", "root", "--stack", "mine"];
    cloud.run("up", &[&up[..], &["--region", "eu-west-1"]].concat());
    for words in [&["down", "--provider", "ssh"][..], &["down", "--provider", "ssh", "--force"]] {
        let said = cloud.fail("up", words);
        assert!(said.contains("which --provider ssh would leave running"), "{said}");
    }
    assert!(cloud.path("up/inventory.toml").exists());
    assert_eq!(cloud.ids("instance").len(), 2);
    // The inventory alone identifies the stack.
    let stack_file = cloud.path("up/stack.toml");
    let remembered = std::fs::read(&stack_file).unwrap();
    std::fs::remove_file(&stack_file).unwrap();
    let said = cloud.begin_with("up", &["down", "--settle", "0s"], &[("AWS_REGION", "us-east-1")]).success();
    assert!(said.contains("nothing is left of mine in eu-west-1"), "{said}");
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
    std::fs::write(&stack_file, remembered).unwrap();
    // A folder does not forget its stack for hosts of a file either.
    let hosts = lab.folder().join("hosts.toml").display().to_string();
    let said = cloud.fail("up", &["up", "--hosts", &hosts]);
    assert!(said.contains("a stack of this folder may be up in the cloud"), "{said}");
    cloud.run("up", &["down", "--settle", "0s"]);
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
}
