//! `down` leaves other people's resources alone, and finds all of ours.

use serde_json::{Value, json};
use tests::cloud::{Cloud, DOWN};
use tests::lab::Lab;

const UP: [&str; 8] =
    ["up", "CLUSTER_SIZE=2", "--ssh-from", "203.0.113.7", "--boot-time", "0s", "--settle", "1s"];
const JOB: [&str; 8] =
    ["job", "CLUSTER_SIZE=2", "--ssh-from", "203.0.113.7", "--boot-time", "0s", "--settle", "1s"];

/// Makes a stack without ready hosts, by killing `up`.
fn make(cloud: &Cloud, folder: &str) {
    cloud.kill_at("PutDashboard", folder, &UP);
}

#[test]
fn a_stack_with_another_key_stays() {
    let cloud = Cloud::start(None);
    make(&cloud, "theirs");
    let theirs = cloud.resources().len();
    let said = cloud.fail("ours", &JOB);
    assert!(said.contains("has another SSH key") && said.contains("so nothing is taken down"), "{said}");
    let said = cloud.fail("ours", &["down"]);
    assert!(
        said.contains("may be somebody else's") && said.contains("--stack provisioned-classifier"),
        "{said}"
    );
    let said = cloud.fail("ours", &["down", "--stack", "provisioned-classifier", "--own"]);
    assert!(said.contains("may be somebody else's"), "{said}");
    assert_eq!(cloud.resources().len(), theirs);
    cloud.run("ours", &DOWN);
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());

    // Of two ups at the same time, the second notices at its first change.
    cloud
        .faults(&json!([{"service": "ec2", "operation": "ImportKeyPair", "kind": "hold", "when": "before"}]));
    let mut ours = cloud.begin("ours", &UP);
    assert_eq!(cloud.held(&mut ours).as_deref(), Some("ImportKeyPair"));
    cloud.no_faults();
    let code = "
import boto3
ec2, sns = (boto3.client(name, region_name='us-west-2') for name in ('ec2', 'sns'))
name, tags = 'provisioned-classifier', [{'Key': 'provisioned-classifier-stack', 'Value': 'provisioned-classifier'}]
ec2.create_key_pair(KeyName=name, TagSpecifications=[{'ResourceType': 'key-pair', 'Tags': tags}])
sns.create_topic(Name=name, Tags=tags)
";
    cloud.python(code);
    let theirs = cloud.resources().len();
    cloud.ask("POST", "release", &json!({"drop": false}));
    let said = ours.failure();
    assert!(said.contains("that is not of this stack"), "{said}");
    assert_eq!(cloud.resources().len(), theirs);
    cloud.down();

    // Resources with the stack's name that belong to no stack.
    let code = "
import boto3
c = {name: boto3.client(name, region_name='us-west-2') for name in ('sns', 'cloudwatch', 'ec2')}
arn = c['sns'].create_topic(Name='prod')['TopicArn']
c['sns'].subscribe(TopicArn=arn, Protocol='sms', Endpoint='+14155550100')
c['cloudwatch'].put_dashboard(DashboardName='prod', DashboardBody='{\"widgets\": []}')
c['cloudwatch'].put_metric_alarm(AlarmName='prod database is down', MetricName='x', Namespace='y', Statistic='Sum',
    Period=60, EvaluationPeriods=1, Threshold=1, ComparisonOperator='GreaterThanThreshold')
c['ec2'].create_key_pair(KeyName='prod')
";
    cloud.python(code);
    let unrelated = cloud.resources().len();
    let said = cloud.run("empty", &["down", "--stack", "prod", "--settle", "0s"]);
    assert!(said.contains("of the same name, but not of the stack, and left alone: key pair"), "{said}");
    assert_eq!(cloud.resources().len(), unrelated);
    let said = cloud.fail("prod", &[&UP[..], &["--stack", "prod"]].concat());
    assert!(said.contains("that is not of this stack"), "{said}");
    assert_eq!(cloud.resources().len(), unrelated);
}

#[test]
fn a_stack_that_may_be_up_is_not_forgotten() {
    let cloud = Cloud::start(None);
    make(&cloud, "up");
    let said = cloud.fail("up", &[&UP[..], &["--region", "us-east-1"]].concat());
    assert!(said.contains("this folder is for the stack provisioned-classifier in us-west-2"), "{said}");
    let said = cloud.run("up", &["status"]);
    assert!(said.contains("3 instances") && said.contains("they are not ready"), "{said}");
    let machines: Value = serde_json::from_str(&cloud.run("up", &["status", "--json"])).unwrap();
    assert_eq!(machines.as_array().unwrap().len(), 3);
    cloud.begin("up", &["plan", "CLUSTER_SIZE=0"]).exit(1);
    let said = cloud.begin("up", &["plan", "--ttl", "20m"]).exit(2);
    assert!(said.contains("for machines that are launched from now on; the 3 existing ones stay"), "{said}");
    cloud.run("up", &["down", "--settle", "0s"]);
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
    // Nothing is up, so the next stack may be elsewhere.
    cloud.begin("up", &["plan", "--region", "us-east-1", "--ssh-from", "203.0.113.7"]).exit(2);
}

#[test]
fn a_protected_instance_does_not_block_the_others() {
    let cloud = Cloud::start(None);
    make(&cloud, "up");
    let id = &cloud.ids("instance")[1];
    let protect = |value: bool| {
        let value = if value { "True" } else { "False" };
        cloud.python(&format!(
            "import boto3; boto3.client('ec2', region_name='us-west-2').modify_instance_attribute(InstanceId='{id}', \
             DisableApiTermination={{'Value': {value}}})"
        ));
    };
    protect(true);
    let said = cloud.fail("empty", &DOWN);
    assert!(said.contains(&format!("instance {id}")) && said.contains("termination protection"), "{said}");
    assert_eq!(&cloud.ids("instance"), std::slice::from_ref(id));
    protect(false);
    cloud.down();
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
}

#[test]
fn launches_whose_answer_was_lost_are_ended() {
    let Some(lab) = Lab::up("launches_whose_answer_was_lost_are_ended", "5") else { return };
    let cloud = Cloud::start(Some(&lab));
    let up = ["up", "CLUSTER_SIZE=1", "--ssh-from", "10.213.0.0/16", "--ssh-user", "root"];
    // New resources are not known everywhere at once.
    let unknown = |operation: &str, code: &str| json!({"service": "ec2", "operation": operation, "kind": "error", "code": code, "message": "Not yet.", "times": 2});
    cloud.faults(&json!([
        unknown("AuthorizeSecurityGroupIngress", "InvalidGroup.NotFound"),
        unknown("RunInstances", "InvalidKeyPair.NotFound"),
    ]));
    cloud.run("up", &up);
    let before = cloud.ids("instance");
    cloud.no_faults();
    let lost = json!({"service": "ec2", "operation": "RunInstances", "kind": "lost", "times": null});
    cloud.faults(&json!([lost]));
    let said = cloud.fail("up", &["up", "CLUSTER_SIZE=3"]);
    assert!(said.contains("the instances launched for it are terminated again"), "{said}");
    assert_eq!(cloud.ids("instance"), before);
    cloud.no_faults();
    cloud.run("up", &["up", "CLUSTER_SIZE=1"]);
    cloud.run("up", &["down", "--settle", "0s"]);
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
}
