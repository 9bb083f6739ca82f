//! The life of a stack, from `up` to `down`, with real SSH to hosts of a lab.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tests::cloud::{Cloud, DOWN};
use tests::cluster::{Setup, results_in};
use tests::lab::Lab;

/// Options of every stack in a lab.
const IN_LAB: [&str; 6] = ["--ssh-from", "10.213.0.0/16", "--ssh-user", "root", "--settle", "1s"];
/// Options of a stack without hosts: nothing answers at its addresses.
const WITHOUT_HOSTS: [&str; 6] = ["--ssh-from", "203.0.113.7", "--boot-time", "0s", "--settle", "1s"];

fn words<'a>(command: &'a str, more: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
    [&[command], more, rest].concat()
}

/// How often each operation was called.
fn counts(cloud: &Cloud, since: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for call in cloud.calls().into_iter().skip(since) {
        *counts.entry(call.operation).or_default() += 1;
    }
    counts
}

#[test]
fn a_job_from_the_first_call_to_the_last() {
    let Some(lab) = Lab::up("a_job_from_the_first_call_to_the_last", "4") else { return };
    let cloud = Cloud::start(Some(&lab));
    // Everything takes a while, as in EC2.
    cloud.settings(
        &json!({"unseen": 1, "pending": 2, "no_address": 1, "shutting_down": 2, "boot_seconds": 1}),
    );
    let said = cloud
        .run("job", &words("job", &IN_LAB, &["CLUSTER_SIZE=3", "INPUT_LINES=100000", "--output", "out"]));
    let native = Setup::default().run(["--lines", "100000"]);
    assert!(said.contains("100,000 fake rows, on 21 workers (3 machines of 7), through native"), "{said}");
    assert!(results_in(&cloud.path("job/out/results.tgz")) == native.log);
    assert!(said.contains("nothing is left of provisioned-classifier in us-west-2"), "{said}");
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
    assert!(!cloud.path("job/inventory.toml").exists() && !cloud.path("job/urls.txt").exists());
    // Calls that list resources must ask for pages.
    let unpaged: Vec<_> = cloud.calls().into_iter().filter(|call| call.unpaged).collect();
    assert!(unpaged.is_empty(), "{unpaged:?}");
    // The settings are remembered, and a plan shows what another `up` would create.
    let plan = cloud.xtask("job", &["plan", "--json"]).output().unwrap();
    assert_eq!(plan.status.code(), Some(2), "{}", String::from_utf8_lossy(&plan.stderr));
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(plan["changes"].as_array().unwrap().len(), 4 + 3 + 8 + 1);
    assert_eq!(plan["changes"][0]["call"], "ImportKeyPair");
    assert!(
        (plan["usd_per_hour"].as_f64().unwrap() - 4.0 * (0.685 + 30.0 * 0.08 / 730.0)).abs() < 1e-9,
        "{plan}"
    );
}

/// The folder `up` in a cloud, for a stack.
struct Folder<'a>(&'a Cloud);

impl Folder<'_> {
    /// Runs `plan`; returns the calls that it lists.
    fn plan(&self, rest: &[&str]) -> Vec<String> {
        let output = self.0.xtask("up", &words("plan", &["--json"], rest)).output().unwrap();
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
        let changes = plan["changes"].as_array().unwrap();
        let calls: Vec<_> =
            changes.iter().map(|change| change["call"].as_str().unwrap().to_owned()).collect();
        assert_eq!(output.status.code(), Some(if calls.is_empty() { 0 } else { 2 }));
        calls
    }

    /// Runs `up`, and checks that its calls are those of the plan; returns them, sorted.
    fn up(&self, rest: &[&str]) -> Vec<String> {
        let mut planned = self.plan(rest);
        let before = self.0.calls().len();
        let said = self.0.run("up", &words("up", &[], rest));
        let mut made = self.0.changes_since(before);
        planned.sort();
        made.sort();
        assert_eq!(made, planned, "{said}");
        made
    }

    fn on_call(&self, numbers: &str) {
        std::fs::write(self.0.path("up/ONCALL.json"), numbers).unwrap();
    }
}

#[test]
fn the_calls_that_up_makes_are_those_of_its_plan() {
    let Some(lab) = Lab::up("the_calls_that_up_makes_are_those_of_its_plan", "6") else { return };
    let cloud = Cloud::start(Some(&lab));
    let folder = Folder(&cloud);
    folder.up(&words("CLUSTER_SIZE=2", &IN_LAB, &[]));
    for seed in 0..8_u32 {
        let done = cloud.by_hand(seed);
        folder
            .on_call(["[]", "[\"+14155550100\"]", "[\"+14155550100\", \"+4930123456\"]"][seed as usize % 3]);
        let size = format!("CLUSTER_SIZE={}", 1 + seed % 3);
        let made = folder.up(&[&size]);
        assert!(!made.is_empty(), "seed {seed}: {done}");
        assert!(folder.up(&[]).is_empty(), "seed {seed}: {done}");
        assert_eq!(cloud.ids("alarm").len(), 2 * (2 + seed as usize % 3), "seed {seed}: {done}");
    }
    cloud.run("up", &["down", "--settle", "0s"]);
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
}

#[test]
fn up_repairs_every_difference_and_changes_nothing_else() {
    let Some(lab) = Lab::up("up_repairs_every_difference_and_changes_nothing_else", "6") else { return };
    let cloud = Cloud::start(Some(&lab));
    let folder = Folder(&cloud);
    let up = |rest: &[&str]| folder.up(rest);
    std::fs::create_dir(cloud.path("up")).unwrap();
    folder.on_call("[\"+14155550100\"]");
    up(&words("CLUSTER_SIZE=2", &IN_LAB, &["--ttl", "2h"]));
    assert!(up(&[]).is_empty());
    assert_eq!(cloud.ids("instance").len(), 3);
    let urls = std::fs::read_to_string(cloud.path("up/urls.txt")).unwrap();
    let dashboard = "https://us-west-2.console.aws.amazon.com/cloudwatch/home?region=us-west-2#dashboards:name=provisioned-classifier";
    assert!(urls.contains(dashboard), "{urls}");
    for file in ["ssh_key.pem", "ssh_pubkey_in_ec2_format.pub", "stack.toml", "inventory.toml"] {
        assert!(cloud.path("up").join(file).exists(), "{file}");
    }

    // Each machine has no role, requires IMDSv2, terminates itself, and deletes its disk.
    for id in cloud.ids("instance") {
        let (_, instance) = cloud.ask("GET", &format!("instance?id={id}"), &Value::Null);
        let text = instance.to_string();
        assert!(text.contains("\"required\"") && text.contains("\"terminate\""), "{text}");
        let (_, data) = cloud.ask("GET", &format!("user-data?id={id}"), &Value::Null);
        let data = data.to_string();
        assert!(data.contains("shutdown, -h") && data.contains("+120"), "{data}");
    }
    let said = cloud.run("up", &["status"]);
    assert!(said.contains("3 instances, $2.06 an hour at list price, $0.0"), "{said}");
    assert!(said.contains("ends itself in 1 h") || said.contains("ends itself in 2 h 00 min"), "{said}");
    let json = cloud.run("up", &["status", "--json"]);
    let status: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(status[0]["role"], "metrics");
    assert_eq!(status[2]["machine"]["instance_type"], "c5.4xlarge");

    // Another folder cannot take it over.
    let said = cloud.fail("other", &words("up", &IN_LAB, &["CLUSTER_SIZE=2"]));
    assert!(said.contains("has another SSH key than this folder has"), "{said}");

    // More machines, fewer machines, other phone numbers, and a change by hand.
    let made = up(&["CLUSTER_SIZE=4"]);
    assert_eq!(made.iter().filter(|call| *call == "RunInstances").count(), 1);
    assert_eq!(cloud.ids("instance").len(), 5);
    let said = cloud.run("up", &["run-cluster", "INPUT_LINES=10000"]);
    assert!(said.contains("on 28 workers (4 machines of 7)"), "{said}");
    let made = up(&["CLUSTER_SIZE=1"]);
    assert_eq!(made, ["DeleteAlarms", "PutDashboard", "TerminateInstances"]);
    folder.on_call("[\"+4930123456\"]");
    assert_eq!(up(&[]), ["Subscribe", "Unsubscribe"]);
    assert_eq!(
        up(&["--ssh-from", "10.0.0.0/8"]),
        ["AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"]
    );
    let initializer = status[1]["machine"]["instance"].as_str().unwrap();
    cloud.ask("POST", "terminate", &json!({"id": initializer}));
    let said = cloud.fail("up", &["status"]);
    assert!(said.contains("has ended; cargo xtask up launches another one"), "{said}");
    let made = up(&[]);
    assert_eq!(made.iter().filter(|call| *call == "RunInstances").count(), 1);
    let said = cloud.run("up", &["run-cluster", "INPUT_LINES=1000"]);
    assert!(said.contains("rows out   1,000"), "{said}");

    // Another folder takes it down by name, and may also name a region without a stack.
    let said = cloud.run("empty", &[&DOWN[..], &["--region", "eu-west-1,us-west-2"]].concat());
    assert!(said.contains("nothing is left of provisioned-classifier in eu-west-1"), "{said}");
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
}

#[test]
fn calls_for_three_hundred_machines() {
    let cloud = Cloud::start(None);
    let plan = words("plan", &WITHOUT_HOSTS, &["CLUSTER_SIZE=299"]);
    let said = cloud.fail("up", &plan);
    assert!(said.contains("+ 298 × c5.4xlarge for workers"), "{said}");
    assert!(said.contains("+ 600 alarms for 300 instances"), "{said}");
    let planned = cloud.calls().len();
    let said = cloud.fail("up", &words("up", &WITHOUT_HOSTS, &["CLUSTER_SIZE=299"]));
    assert!(said.contains("300 of 300 hosts failed"), "{said}");
    assert!(said.contains("everything created for it is destroyed again"), "{said}");
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
    let counts = counts(&cloud, planned);
    let of = |operation: &str| counts.get(operation).copied().unwrap_or(0);
    for once in [
        "GetCallerIdentity",
        "ImportKeyPair",
        "CreateSecurityGroup",
        "AuthorizeSecurityGroupIngress",
        "CreateTopic",
        "PutDashboard",
        "DescribeInstanceTypes",
        "DescribeInstanceTypeOfferings",
    ] {
        assert_eq!(of(once), 1, "{once}");
    }
    // One call ends many instances.
    assert_eq!(of("TerminateInstances"), 2);
    // A hundred instances a call, and separate calls for each role.
    assert_eq!(of("RunInstances"), 3 + 2);
    // up gives the machines up before most alarms are made. One call deletes a hundred alarms.
    let others: usize = counts.values().sum::<usize>() - of("PutMetricAlarm") - of("DeleteAlarms");
    assert!(of("DescribeInstances") <= 16 && others < 90, "{others}: {counts:?}");
}

#[test]
fn invalid_options_are_refused_before_any_call() {
    let cloud = Cloud::start(None);
    for size in ["0", "-1", "x", "10000", ""] {
        let size = format!("CLUSTER_SIZE={size}");
        let said = cloud.fail("up", &words("up", &WITHOUT_HOSTS, &[&size]));
        assert!(said.contains("cluster-size"), "{size}: {said}");
    }
    for numbers in ["[\"14155550100\"]", "[\"+0123\"]", "{}", "[1]", "["] {
        std::fs::write(cloud.path("up/ONCALL.json"), numbers).unwrap();
        let said = cloud.fail("up", &words("up", &WITHOUT_HOSTS, &["CLUSTER_SIZE=1"]));
        assert!(said.contains("ONCALL.json"), "{numbers}: {said}");
    }
    std::fs::write(cloud.path("up/ONCALL.json"), "[]").unwrap();
    let refused = |rest: &[&str], why: &str| {
        let said = cloud.fail("up", &words("up", &["CLUSTER_SIZE=1"], rest));
        assert!(said.contains(why), "{rest:?}: {said}");
    };
    refused(&["--ssh-from", "0.0.0.0/0"], "--ssh-from anywhere");
    refused(&["--region", "oregon"], "is not a region of AWS");
    refused(&["--ttl", "1m"], "between 10m and 7days");
    refused(&["--classifier", "python:no_such_model"], "there is no module no_such_model");
    refused(&["--provider", "aws", "--hosts", "hosts.toml"], "not for --provider aws");
    let said = cloud.fail("up2", &words("up", &WITHOUT_HOSTS, &[]));
    assert!(said.contains("no cluster size is set"), "{said}");
    assert!(cloud.calls().is_empty(), "{:?}", cloud.calls());
}

#[test]
fn each_refusal_names_its_cause_and_nothing_is_created() {
    let cloud = Cloud::start(None);
    let args = words("up", &WITHOUT_HOSTS, &["CLUSTER_SIZE=1"]);
    let fail = |why: &str| {
        let said = cloud.fail("up", &args);
        assert!(said.contains(why), "{said}");
        assert!(cloud.resources().is_empty(), "{why}: {:?}", cloud.resources());
        cloud.no_faults();
        said
    };
    let error = |operation: &str, code: &str, status: u32| {
        let fault = json!({
            "service": "*", "operation": operation, "kind": "error", "code": code, "status": status,
            "message": "the cloud's own words", "times": null,
        });
        cloud.faults(&json!([fault]));
    };
    let mut without = cloud.xtask("up", &args);
    without.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let output = without.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("there are no credentials for AWS; set AWS_ACCESS_KEY_ID"), "{said}");
    assert!(cloud.calls().is_empty());

    error("*", "RequestExpired", 400);
    fail("the credentials have expired; log in again");
    error("*", "AuthFailure", 401);
    fail("AWS does not accept these credentials");
    for (operation, call) in [
        ("DescribeInstances", "ec2:DescribeInstances"),
        ("RunInstances", "ec2:RunInstances"),
        ("CreateTopic", "sns:CreateTopic"),
    ] {
        error(operation, if call.starts_with("ec2") { "UnauthorizedOperation" } else { "AccessDenied" }, 403);
        let said = fail(&format!("the credentials do not allow {call}; "));
        assert!(said.contains("iam-policy.json") && said.contains("the cloud's own words"), "{said}");
    }
    error("RunInstances", "VcpuLimitExceeded", 400);
    fail("a quota of the account; ask for more");

    let unknown = words("up", &WITHOUT_HOSTS, &["CLUSTER_SIZE=1", "--region", "us-wets-2"]);
    let said = cloud.fail("elsewhere", &unknown);
    assert!(said.contains("in us-wets-2") && said.contains("check that the region exists"), "{said}");
    cloud.settings(&json!({"default_vpc": false, "region": "us-west-2"}));
    fail("no default VPC in us-west-2; make one");
}
