//! `up` refuses settings that cannot work before it creates anything: image, type, zone, network, text messages.

use serde_json::{Value, json};
use tests::cloud::Cloud;
use tests::lab::Lab;

const WITHOUT_HOSTS: [&str; 7] =
    ["CLUSTER_SIZE=1", "--ssh-from", "203.0.113.7", "--boot-time", "0s", "--settle", "1s"];
/// An image and an instance type of the other architecture.
const OTHER_IMAGE: &str =
    if cfg!(target_arch = "aarch64") { "ubuntu-noble-24.04-amd64" } else { "ubuntu-noble-24.04-arm64" };
const OTHER_TYPE: &str = if cfg!(target_arch = "aarch64") { "c5.4xlarge" } else { "c7g.4xlarge" };
const OWN_TYPE: &str = if cfg!(target_arch = "aarch64") { "c7g.4xlarge" } else { "c5.4xlarge" };

/// Checks that `plan` and `up` refuse for this reason, before anything is created.
fn refused(cloud: &Cloud, rest: &[&str], why: &str) {
    let before = cloud.calls().len();
    let said = cloud.fail("up", &[&["plan"], &WITHOUT_HOSTS[..], rest].concat());
    assert!(said.contains(why), "plan {rest:?}: {said}");
    let mut up = cloud.begin("up", &[&["up"], &WITHOUT_HOSTS[..], rest].concat());
    // The exit code for a refusal before any change.
    assert_eq!(up.wait().code(), Some(3), "{rest:?}: {}", up.output());
    assert!(up.output().contains(why), "up {rest:?}: {}", up.output());
    assert_eq!(cloud.changes_since(before), Vec::<String>::new(), "{rest:?}");
}

fn subnet(cloud: &Cloud, zone: &str) -> String {
    let code = format!(
        "import boto3
ec2 = boto3.client('ec2', region_name='us-west-2')
print(ec2.describe_subnets(Filters=[{{'Name': 'availability-zone', 'Values': ['{zone}']}}])['Subnets'][0]['SubnetId'])"
    );
    cloud.python(&code).trim().to_owned()
}

fn image(cloud: &Cloud, name: &str) -> String {
    let code = format!(
        "import boto3
ec2 = boto3.client('ec2', region_name='us-west-2')
print(ec2.describe_images(Filters=[{{'Name': 'name', 'Values': ['*{name}*']}}])['Images'][0]['ImageId'])"
    );
    cloud.python(&code).trim().to_owned()
}

#[test]
fn invalid_settings_are_refused_before_anything_is_made() {
    let cloud = Cloud::start(None);
    refused(&cloud, &["--ami", "ami-00000000"], "finding the image ami-00000000");
    let image = image(&cloud, OTHER_IMAGE);
    refused(&cloud, &["--ami", &image], "and the programs built on this machine are for");
    refused(
        &cloud,
        &["--instance-type", OTHER_TYPE],
        &format!("machines of type {OTHER_TYPE} cannot boot the image"),
    );
    refused(&cloud, &["--instance-type", "c5.nosuch"], "finding machines of --instance-type c5.nosuch");
    cloud.settings(&json!({"unoffered": {OWN_TYPE: ["us-west-2a"]}}));
    let subnet = subnet(&cloud, "us-west-2a");
    refused(&cloud, &["--subnet", &subnet], "no zone of the network vpc-");
    cloud.settings(&json!({"unoffered": {}}));

    std::fs::write(cloud.path("up/ONCALL.json"), "[\"+14155550100\", \"+4930123456\"]").unwrap();
    cloud.settings(&json!({"sms_sandbox": ["+4930123456"]}));
    refused(&cloud, &[], "only verified numbers get any, and these are not verified: +14155550100;");
    cloud.settings(&json!({"sms_sandbox": ["+4930123456", "+14155550100"]}));
    // A plan with changes exits with 2.
    let plan = cloud.xtask("up", &[&["plan"], &WITHOUT_HOSTS[..]].concat()).output().unwrap();
    assert_eq!(plan.status.code(), Some(2), "{}", String::from_utf8_lossy(&plan.stderr));

    cloud.settings(&json!({"route_to_internet": false, "region": "us-west-2"}));
    refused(&cloud, &[], "the internet reaches no subnet of the default VPC");
}

#[test]
fn machines_are_launched_only_in_zones_that_have_their_type() {
    let Some(lab) = Lab::up("machines_are_launched_only_in_zones_that_have_their_type", "2") else { return };
    let cloud = Cloud::start(Some(&lab));
    cloud.settings(&json!({"unoffered": {OWN_TYPE: ["us-west-2a", "us-west-2b"]}}));
    let said =
        cloud.run("up", &["up", "CLUSTER_SIZE=1", "--ssh-from", "10.213.0.0/16", "--ssh-user", "root"]);
    assert!(!said.contains("trying elsewhere"), "{said}");
    for id in cloud.ids("instance") {
        let (_, instance) = cloud.ask("GET", &format!("instance?id={id}"), &Value::Null);
        assert_eq!(instance["zone"], "us-west-2c");
        assert_eq!(instance["type"], OWN_TYPE);
    }
    cloud.run("up", &["down", "--settle", "0s"]);
}
