//! The test cloud refuses requests that do not conform to AWS's models and calls that the policy does not allow, as AWS
//! does.

use serde_json::{Value, json};
use tests::cloud::Cloud;

/// Sends requests like those of `up`, first valid, then each with a mistake, and prints the error codes.
const MUTATE: &str = r#"
import json, os, urllib.error, urllib.request
import boto3, cbor2
from botocore.config import Config
from botocore.exceptions import ClientError

config = Config(parameter_validation=False, retries={"total_max_attempts": 1})
ec2, cloudwatch, sns = (boto3.client(n, region_name="us-west-2", config=config) for n in ("ec2", "cloudwatch", "sns"))
tags = [{"Key": "provisioned-classifier-stack", "Value": "x"}]
launch = {
    "ImageId": "ami-0c0ffee0000000009", "InstanceType": "c5.large", "MinCount": 1, "MaxCount": 1,
    "ClientToken": "0123456789abcdef", "InstanceInitiatedShutdownBehavior": "terminate",
    "MetadataOptions": {"HttpTokens": "required"},
    "TagSpecifications": [{"ResourceType": "instance", "Tags": tags}],
}
alarm = {
    "AlarmName": "a", "Namespace": "AWS/EC2", "MetricName": "StatusCheckFailed", "Statistic": "Maximum",
    "Period": 60, "EvaluationPeriods": 2, "Threshold": 1.0,
    "ComparisonOperator": "GreaterThanOrEqualToThreshold", "Tags": tags,
}

def body(client, operation, change):
    """Changes the requests of an operation after they are encoded."""
    client.meta.events.register_last(f"before-call.{client.meta.service_model.service_name}.{operation}", change)

def refused(call, **parameters):
    try:
        call(**parameters)
        print("allowed")
    except ClientError as error:
        print("refused:", error.response["Error"]["Code"])

def in_form(name, value):
    return lambda params, **_: params["body"].update({name: value})

def in_json(name, value):
    return lambda params, **_: params.update(body=json.dumps({name: value}).encode())

def refused_in_cbor(operation, **parameters):
    """Calls CloudWatch in the protocol of the Rust SDK, which boto3 does not use."""
    url = f"{os.environ['AWS_ENDPOINT_URL']}/service/GraniteServiceVersion20100801/operation/{operation}"
    scope = "AWS4-HMAC-SHA256 Credential=byhand/20260801/us-west-2/monitoring/aws4_request"
    headers = {"Authorization": scope, "smithy-protocol": "rpc-v2-cbor", "Content-Type": "application/cbor"}
    try:
        urllib.request.urlopen(urllib.request.Request(url, cbor2.dumps(parameters), headers)).close()
        print("allowed")
    except urllib.error.HTTPError as error:
        print("refused:", cbor2.loads(error.read())["__type"])

# Unchanged, the requests are valid.
ec2.describe_vpcs(MaxResults=5)
sns.create_topic(Name="t", Tags=tags)
cloudwatch.put_metric_alarm(**alarm)
ec2.run_instances(**launch)
print("unchanged")
refused(ec2.run_instances, **launch | {"InstanceInitiatedShutdownBehavior": "explode"})
refused(ec2.run_instances, **launch | {"MinCount": "some"})
refused(ec2.run_instances, **{name: of for name, of in launch.items() if name != "MaxCount"})
refused(ec2.run_instances, **launch | {"TagSpecifications": [{"ResourceType": "machine", "Tags": tags}]})
refused(ec2.describe_vpcs, MaxResults=1001)
refused(cloudwatch.put_metric_alarm, **alarm | {"Namespace": ":AWS/EC2"})
refused(cloudwatch.put_metric_alarm, **alarm | {"AlarmName": "x" * 256})
refused(cloudwatch.delete_alarms, AlarmNames=["x"] * 101)
for client, operation, change in (
    (ec2, "DescribeRegions", in_form("NoSuchMember", "1")),
    (ec2, "DescribeSubnets", in_form("SubnetId.2", "subnet-0")),
    (ec2, "DescribeVolumes", in_form("Version", "2009-01-01")),
    (ec2, "DescribeImages", in_form("DryRun", "yes")),
    (sns, "ListTopics", in_form("Tags.member.1.Key", "x")),
    (cloudwatch, "DescribeAlarms", in_json("NoSuchMember", 1)),
):
    body(client, operation, change)
    refused(getattr(client, "".join(f"_{c.lower()}" if c.isupper() else c for c in operation)[1:]))
refused_in_cbor("PutMetricAlarm", **alarm | {"Threshold": "high"})
"#;

#[test]
fn a_malformed_request_is_refused() {
    let cloud = Cloud::start(None);
    cloud.expect_problems();
    let said = cloud.python(MUTATE);
    let problems: Vec<String> =
        cloud.problems().iter().map(|found| found["problem"].as_str().unwrap().to_owned()).collect();
    for wrong in [
        "InstanceInitiatedShutdownBehavior: 'explode' is not one of ShutdownBehavior",
        "RunInstances.MinCount: 'some' is not of type integer",
        "Missing required parameter in input: \"MaxCount\"",
        "RunInstances.TagSpecifications[].ResourceType: 'machine' is not one of ResourceType",
        "DescribeVpcs.MaxResults is 1001; the maximum is 1000",
        "PutMetricAlarm.Namespace: ':AWS/EC2' does not match [^:].*",
        "the length of PutMetricAlarm.AlarmName is 256; the maximum is 255",
        "the length of DeleteAlarms.AlarmNames is 101; the maximum is 100",
        "DescribeRegions.NoSuchMember: there is no such member",
        "DescribeSubnets.SubnetIds: its items are numbered ['2']",
        "its version is 2009-01-01, not 2016-11-15",
        "DescribeImages.DryRun: 'yes' is not of type boolean",
        "ListTopics.Tags: there is no such member",
        "Unknown parameter in input: \"NoSuchMember\"",
        "Invalid type for parameter Threshold",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(wrong)), "{wrong}: {problems:#?}");
    }
    let (before, after) = said.split_once("unchanged\n").unwrap();
    assert_eq!(before, "");
    assert_eq!(after.matches("refused: ").count(), 15, "{said}");
    assert!(!after.contains("allowed"), "{said}");
}

#[test]
fn the_test_cloud_behaves_as_aws_does() {
    let cloud = Cloud::start(None);
    let check = std::fs::read_to_string(tests::root().join("tests/python/check_cloud.py")).unwrap();
    cloud.python(&check);
}

#[test]
fn each_statement_of_the_policy_is_needed() {
    let cloud = Cloud::start(None);
    let (_, policy) = cloud.ask("GET", "policy", &Value::Null);
    if policy["available"] == false {
        tests::skip(
            "each_statement_of_the_policy_is_needed",
            "there is no node with @cloud-copilot/iam-simulate",
        );
        return;
    }
    std::fs::create_dir(cloud.path("up")).unwrap();
    std::fs::write(cloud.path("up/ONCALL.json"), "[\"+14155550100\"]").unwrap();
    // up makes everything that a stack needs, including alarms and a spot worker. Since no host answers, it destroys all of
    // it again.
    let said = cloud.fail(
        "up",
        &[
            "up",
            "CLUSTER_SIZE=2",
            "--ssh-from",
            "203.0.113.7",
            "--boot-time",
            "2s",
            "--settle",
            "1s",
            "--spot",
        ],
    );
    assert!(said.contains("everything created for it is destroyed again"), "{said}");
    assert!(cloud.denials().is_empty(), "{:#?}", cloud.denials());

    let policy = std::fs::read(tests::root().join("crates/deploy-aws/iam-policy.json")).unwrap();
    let policy: Value = serde_json::from_slice(&policy).unwrap();
    let statements = policy["Statement"].as_array().unwrap();
    let denied_by = |statements: &[Value]| {
        let policy = json!({"Version": policy["Version"], "Statement": statements});
        let (status, answer) = cloud.ask("POST", "policy", &policy);
        assert_eq!(status, 200, "{answer}");
        answer["denied"].as_array().unwrap().len()
    };
    assert_eq!(denied_by(statements), 0);
    for (i, statement) in statements.iter().enumerate() {
        let mut others = statements.clone();
        others.remove(i);
        assert!(denied_by(&others) > 0, "everything is still allowed without {}", statement["Sid"]);
    }
}

#[test]
fn calls_outside_the_policy_are_refused() {
    let cloud = Cloud::start(None);
    let (_, policy) = cloud.ask("GET", "policy", &Value::Null);
    if policy["available"] == false {
        tests::skip(
            "calls_outside_the_policy_are_refused",
            "there is no node with @cloud-copilot/iam-simulate",
        );
        return;
    }
    cloud.expect_denials();
    let nothing = json!({"Version": "2012-10-17", "Statement": []});
    std::fs::write(cloud.path("nothing.json"), nothing.to_string()).unwrap();
    cloud.settings(&json!({"policy": cloud.path("nothing.json")}));
    let said = cloud.fail("up", &["up", "CLUSTER_SIZE=1", "--ssh-from", "203.0.113.7"]);
    assert!(said.contains("the credentials do not allow "), "{said}");
    assert!(!cloud.denials().is_empty());
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
}
