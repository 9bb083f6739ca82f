//! Launching machines, their alarms, and terminating them.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tests::cloud::{Cloud, DOWN};
use tests::lab::Lab;

const IN_LAB: [&str; 6] = ["--ssh-from", "10.213.0.0/16", "--ssh-user", "root", "--settle", "1s"];
/// Another type of the same size as the default.
const OTHER_SIZE: &str = if cfg!(target_arch = "aarch64") { "c6g.4xlarge" } else { "c6i.4xlarge" };
const WITHOUT_HOSTS: [&str; 6] = ["--ssh-from", "203.0.113.7", "--boot-time", "0s", "--settle", "1s"];

/// A property of the instances, by role.
fn by_role(cloud: &Cloud, key: &str) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for id in cloud.ids("instance") {
        let (_, instance) = cloud.ask("GET", &format!("instance?id={id}"), &Value::Null);
        let role = instance["tags"]["provisioned-classifier-role"].as_str().unwrap().to_owned();
        found.entry(role).or_default().push(instance[key].as_str().unwrap().to_owned());
    }
    found
}

/// All alarms in CloudWatch.
fn alarms(cloud: &Cloud) -> Vec<Value> {
    let code = "
import boto3, json
pages = boto3.client('cloudwatch', region_name='us-west-2').get_paginator('describe_alarms').paginate()
print(json.dumps([alarm for page in pages for alarm in page['MetricAlarms']], default=str))
";
    serde_json::from_str(&cloud.python(code)).unwrap()
}

#[test]
fn each_machine_has_one_alarm_to_notify_and_one_to_terminate() {
    let Some(lab) = Lab::up("each_machine_has_one_alarm_to_notify_and_one_to_terminate", "3") else { return };
    let cloud = Cloud::start(Some(&lab));
    // If alarms are denied, the stack is up without them.
    let denied = json!({"service": "cloudwatch", "operation": "PutMetricAlarm", "kind": "error", "code": "AccessDenied",
        "status": 403, "message": "the cloud's own words", "times": null});
    cloud.faults(&json!([denied]));
    let up = [&["up", "CLUSTER_SIZE=2", "--spot"], &IN_LAB[..]].concat();
    let said = cloud.run("up", &up);
    assert!(said.contains("the stack is up, but 6 of 6 calls for alarms failed"), "{said}");
    assert!(said.contains("the credentials do not allow cloudwatch:PutMetricAlarm"), "{said}");
    assert!(alarms(&cloud).is_empty());
    cloud.no_faults();
    cloud.run("up", &up);
    let alarms = alarms(&cloud);
    assert_eq!(alarms.len(), 6);
    for alarm in &alarms {
        let name = alarm["AlarmName"].as_str().unwrap();
        let id = alarm["Dimensions"][0]["Value"].as_str().unwrap();
        let (_, instance) = cloud.ask("GET", &format!("instance?id={id}"), &Value::Null);
        let is_metrics = instance["tags"]["provisioned-classifier-role"] == "metrics";
        let (action, minutes) = match name.rsplit(' ').next().unwrap() {
            "notify" => ("arn:aws:sns:us-west-2:123456789012:provisioned-classifier", 2),
            _ => ("arn:aws:automate:us-west-2:ec2:terminate", if is_metrics { 60 } else { 15 }),
        };
        assert_eq!(alarm["AlarmActions"], json!([action]), "{name}");
        assert_eq!(alarm["MetricName"], "StatusCheckFailed");
        assert_eq!((&alarm["Period"], &alarm["EvaluationPeriods"]), (&json!(60), &json!(minutes)), "{name}");
    }
    // Only workers may be spot instances: losing another role would end the job.
    let markets = by_role(&cloud, "market");
    assert_eq!(markets["worker"], ["spot"]);
    assert_eq!([&markets["initializer"], &markets["metrics"]], [&["on-demand"]; 2]);
    cloud.run("up", &["down", "--settle", "0s"]);
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
}

#[test]
fn alarms_are_made_within_the_rate_limit_of_cloudwatch() {
    let cloud = Cloud::start(None);
    let args = ["up", "CLUSTER_SIZE=9", "--ssh-from", "203.0.113.7", "--boot-time", "10s"];
    cloud.fail("up", &args);
    let calls: Vec<_> = cloud.calls().into_iter().filter(|call| call.operation == "PutMetricAlarm").collect();
    assert!(calls.len() > 10, "{}", calls.len());
    // On a busy machine, several calls may arrive at once.
    let refused = calls.iter().filter(|call| call.error.is_some()).count();
    assert!(refused <= 1, "{calls:?}");
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
}

#[test]
fn workers_are_launched_first_and_a_hundred_at_once() {
    let cloud = Cloud::start(None);
    cloud.hold_first("RunInstances");
    let mut up = cloud.begin("up", &[&["up", "CLUSTER_SIZE=150"], &WITHOUT_HOSTS[..]].concat());
    assert_eq!(cloud.held(&mut up).as_deref(), Some("RunInstances"));
    let roles = by_role(&cloud, "id");
    assert_eq!(roles.keys().collect::<Vec<_>>(), ["worker"]);
    assert_eq!(roles["worker"].len(), 100);
    cloud.ask("POST", "release", &json!({"drop": false}));
    up.failure();
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
    let launches = cloud.calls().iter().filter(|call| call.operation == "RunInstances").count();
    assert_eq!(launches, 4);
}

#[test]
fn a_machine_that_ends_at_once_counts_as_no_capacity() {
    let Some(lab) = Lab::up("a_machine_that_ends_at_once_counts_as_no_capacity", "4") else { return };
    let cloud = Cloud::start(Some(&lab));
    cloud.settings(&json!({"pending": 1}));
    cloud.faults(&json!([{"kind": "dies", "zones": ["us-west-2a"], "times": null}]));
    let said = cloud.run("up", &[&["up", "CLUSTER_SIZE=1"], &IN_LAB[..]].concat());
    assert!(
        said.contains("no c5.4xlarge in us-west-2a now")
            && said.contains("(Server.InsufficientInstanceCapacity)"),
        "{said}"
    );
    assert_eq!(by_role(&cloud, "zone").into_values().flatten().collect::<Vec<_>>(), ["us-west-2b"; 2]);
    cloud.run("up", &["down", "--settle", "0s"]);
    // Any other reason would be the same in other zones, so up fails.
    cloud.no_faults();
    cloud.faults(&json!([{"kind": "dies", "times": null, "code": "Client.InternalError", "message": "Client error on launch"}]));
    let said = cloud.fail("up", &[&["up", "CLUSTER_SIZE=1"], &IN_LAB[..]].concat());
    assert!(said.contains("Client error on launch") && said.contains("encryption key"), "{said}");
    assert!(!said.contains("trying elsewhere"), "{said}");
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
}

#[test]
fn machines_that_have_just_ended_may_count_towards_the_quota() {
    let Some(lab) = Lab::up("machines_that_have_just_ended_may_count_towards_the_quota", "3") else { return };
    let cloud = Cloud::start(Some(&lab));
    let count_for = |seconds: f64| cloud.settings(&json!({"vcpu_quota": 32, "quota_lag": seconds}));
    // Ended machines count towards the quota until the first try of `up` has failed.
    let up_after_a_while = |args: &[&str]| {
        count_for(3600.0);
        let mut up = cloud.begin("up", args);
        up.await_output("may still count towards the quota; trying again");
        count_for(0.0);
        up.success();
    };
    count_for(0.0);
    let up = [&["up", "CLUSTER_SIZE=1"], &IN_LAB[..]].concat();
    cloud.run("up", &up);
    cloud.run("up", &["down", "--settle", "0s"]);
    up_after_a_while(&up);
    // Replaced machines count as well.
    up_after_a_while(&["up", "--instance-type", OTHER_SIZE]);
    cloud.run("up", &["down", "--settle", "0s"]);
    cloud.forget();
    // Without such machines, waiting would not help.
    let said = cloud.fail("up", &[&["up", "CLUSTER_SIZE=2"], &IN_LAB[..]].concat());
    assert!(said.contains("a quota of the account") && !said.contains("trying again"), "{said}");
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
}

#[test]
fn down_looks_again_before_it_reports_leftovers() {
    let cloud = Cloud::start(None);
    let up = [&["up", "CLUSTER_SIZE=1"], &WITHOUT_HOSTS[..]].concat();
    cloud.kill_at("PutDashboard", "up", &up);
    // Deleted resources stay visible for a while, disks as being deleted.
    cloud.settings(&json!({"late_gone": 3.0}));
    let said = cloud.down();
    assert!(!said.contains("these are left"), "{said}");
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
}

#[test]
fn each_region_has_its_own_dashboard() {
    let cloud = Cloud::start(None);
    let make = |folder: &str, region: &str| {
        let args = [&["up", "CLUSTER_SIZE=1", "--region", region], &WITHOUT_HOSTS[..]].concat();
        cloud.kill_at("PutDashboard", folder, &args);
    };
    // The same name in two regions means two stacks.
    make("west", "us-west-2");
    make("ireland", "eu-west-1");
    let dashboards = || {
        let resources = cloud.resources().into_iter().filter(|resource| resource.kind == "dashboard");
        resources.map(|resource| resource.id.rsplit('/').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(dashboards(), ["provisioned-classifier-us-west-2", "provisioned-classifier-eu-west-1"]);
    cloud.run("ireland", &["down", "--settle", "0s"]);
    assert_eq!(dashboards(), ["provisioned-classifier-us-west-2"]);
    // A dashboard alone does not count as a stack, so `up` undoes everything that it made.
    let body = "
import boto3
cloudwatch = boto3.client('cloudwatch', region_name='us-west-2')
body = cloudwatch.get_dashboard(DashboardName='provisioned-classifier-us-west-2')['DashboardBody']
cloudwatch.put_dashboard(DashboardName='provisioned-classifier-eu-west-1', DashboardBody=body.replace('us-west-2', 'eu-west-1'))
";
    cloud.python(body);
    let args = [&["up", "CLUSTER_SIZE=1", "--region", "eu-west-1"], &WITHOUT_HOSTS[..]].concat();
    let said = cloud.fail("ireland", &args);
    assert!(said.contains("everything created for it is destroyed again"), "{said}");
    cloud.down();
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
}

#[test]
fn an_error_for_unreachable_hosts_names_ssh_from() {
    let Some(lab) = Lab::up("an_error_for_unreachable_hosts_names_ssh_from", "2") else { return };
    let cloud = Cloud::start(Some(&lab));
    cloud.run("up", &[&["up", "CLUSTER_SIZE=1"], &IN_LAB[..]].concat());
    // Like a security group that allows another address: packets are dropped.
    for name in lab.values("name") {
        lab.set_link(&name, "down");
    }
    for words in [&["run-cluster", "INPUT_LINES=10"][..], &["get-results"], &["logs"]] {
        let said = cloud.fail("up", words);
        assert!(
            said.contains(
                "let in SSH from 10.213.0.0/16; if your address has changed, let it in with: cargo xtask up"
            ),
            "{words:?}: {said}"
        );
    }
    let said = cloud.run("up", &DOWN);
    assert!(said.contains("nothing is left"), "{said}");
}
