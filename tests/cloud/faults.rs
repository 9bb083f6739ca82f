//! Faults of the cloud, alone and mixed: `up` still succeeds, or fails with the cause and leaves nothing.

use serde_json::{Value, json};
use tests::cloud::Cloud;
use tests::lab::Lab;

// By default this cloud lists new resources at once; settings may hide instances for a number of answers.
const UP: [&str; 8] =
    ["up", "CLUSTER_SIZE=1", "--ssh-from", "10.213.0.0/16", "--ssh-user", "root", "--settle", "1s"];

fn fault(operation: &str, kind: &str, more: &Value) -> Value {
    let mut fault = json!({"service": "*", "operation": operation, "kind": kind});
    fault.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    fault
}

fn throttled(operation: &str, times: u32) -> Value {
    let more =
        json!({"code": "RequestLimitExceeded", "status": 503, "message": "Slow down.", "times": times});
    fault(operation, "error", &more)
}

/// Brings up a complete stack, and takes it down.
fn up_and_down(cloud: &Cloud, more: &[&str], what: &str) -> String {
    let said = cloud.run("up", &[&UP, more].concat());
    assert_eq!(cloud.ids("instance").len(), 2, "{what}: {said}");
    assert_eq!(cloud.ids("alarm").len(), 4, "{what}: {said}");
    assert_eq!(cloud.ids("key-pair").len() + cloud.ids("security-group").len(), 2, "{what}: {said}");
    cloud.run("up", &["down", "--settle", "0s"]);
    assert!(cloud.resources().is_empty(), "{what}: {:?}", cloud.resources());
    cloud.no_faults();
    said
}

#[test]
fn up_and_down_survive_each_fault() {
    let Some(lab) = Lab::up("up_and_down_survive_each_fault", "4") else { return };
    let cloud = Cloud::start(Some(&lab));
    for operation in [
        "ImportKeyPair",
        "CreateSecurityGroup",
        "AuthorizeSecurityGroupIngress",
        "CreateTopic",
        "RunInstances",
        "PutMetricAlarm",
        "PutDashboard",
        "TerminateInstances",
        "DeleteSecurityGroup",
        "DeleteKeyPair",
        "DeleteTopic",
        "DeleteAlarms",
    ] {
        // The call takes effect, and its answer is lost.
        cloud.faults(&json!([fault(operation, "lost", &json!({}))]));
        up_and_down(&cloud, &[], &format!("lost answer to {operation}"));
    }
    cloud.faults(&json!([throttled("*", 4), throttled("RunInstances", 2), throttled("PutMetricAlarm", 2)]));
    up_and_down(&cloud, &[], "throttling");
    cloud.faults(&json!([fault("DescribeInstances", "unreachable", &json!({"times": 2}))]));
    up_and_down(&cloud, &[], "no connection");
    cloud.settings(&json!({"unseen": 3, "pending": 2, "no_address": 4, "shutting_down": 3}));
    up_and_down(&cloud, &[], "everything takes its time");
    cloud.settings(&json!({"unseen": 0, "pending": 0, "no_address": 0, "shutting_down": 0}));

    // No capacity: in one zone, of one type, for spot instances, for some of the instances, and anywhere.
    let none = |more: Value| {
        let mut more = more;
        more["times"] = Value::Null;
        cloud.faults(&json!([fault("RunInstances", "no_capacity", &more)]));
    };
    none(json!({"zones": ["us-west-2a"]}));
    let said = up_and_down(&cloud, &[], "a full zone");
    assert!(said.contains("no c5.4xlarge in us-west-2a now") && said.contains("trying elsewhere"), "{said}");
    none(json!({"types": ["c5.4xlarge"]}));
    let types = ["--instance-type", "c5.4xlarge,c5.9xlarge"];
    let said = up_and_down(&cloud, &types, "a type that is out");
    assert!(said.contains("no c5.4xlarge in us-west-2d now"), "{said}");
    none(json!({"market": "spot"}));
    // Only workers may be spot instances.
    let said = cloud.run("up", &[&["up", "CLUSTER_SIZE=2", "--spot"], &UP[2..]].concat());
    assert!(said.contains("no spot c5.4xlarge in us-west-2a now"), "{said}");
    assert_eq!(cloud.ids("instance").len(), 3, "{said}");
    cloud.run("up", &["down", "--settle", "0s"]);
    cloud.no_faults();
    // One instance starts and the other does not; `up` terminates the first.
    none(json!({"zones": ["us-west-2a", "us-west-2b"], "most": 1}));
    let said = up_and_down(&cloud, &["--spot=false"], "half a cluster");
    assert!(said.contains("in us-west-2b now"), "{said}");
    none(json!({}));
    let said = cloud.fail("up", &UP);
    assert!(said.contains("there is no room for 2 instances in us-west-2 now"), "{said}");
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
    cloud.no_faults();

    // A call fails while instances still boot.
    cloud.settings(&json!({"pending": 3}));
    cloud.faults(&json!([fault(
        "PutDashboard",
        "error",
        &json!({"code": "InternalServiceFault", "status": 500, "message": "Oh.", "times": null})
    )]));
    let said = cloud.fail("up", &UP);
    assert!(said.contains("cloudwatch:PutDashboard in us-west-2: Oh."), "{said}");
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
}

#[test]
fn up_and_down_survive_random_mixes_of_faults() {
    let Some(lab) = Lab::up("up_and_down_survive_random_mixes_of_faults", "4") else { return };
    let cloud = Cloud::start(Some(&lab));
    for seed in 0..8_u32 {
        // Each fault has its own random numbers, from a fixed seed.
        let chance = |i: u32, probability: f64| json!({"seed": seed * 100 + i, "probability": probability, "times": null});
        let mut throttle = throttled("*", 0);
        throttle.as_object_mut().unwrap().extend(chance(1, 0.1).as_object().unwrap().clone());
        let mut no_room = chance(2, 0.3);
        no_room["zones"] = json!(["us-west-2a", "us-west-2b", "us-west-2c"]);
        cloud.faults(&json!([
            throttle,
            fault("*", "lost", &chance(3, 0.1)),
            fault("*", "unreachable", &chance(4, 0.1)),
            fault("RunInstances", "no_capacity", &no_room),
        ]));
        let some = |i: u32| (seed * 7 + i * 3) % 4;
        let settings =
            json!({"unseen": some(0), "pending": some(1), "no_address": some(2), "shutting_down": some(3)});
        cloud.settings(&settings);
        let mut up = cloud.begin("up", &UP);
        let has_succeeded = up.wait().success();
        let said = up.output();
        if !has_succeeded {
            assert!(said.contains("everything created for it is destroyed again"), "seed {seed}: {said}");
            assert!(cloud.resources().is_empty(), "seed {seed}: {:?}\n{said}", cloud.resources());
            cloud.no_faults();
            continue;
        }
        assert_eq!((cloud.ids("instance").len(), cloud.ids("alarm").len()), (2, 4), "seed {seed}: {said}");
        // `down` has the same faults.
        let said = cloud.run("up", &["down", "--settle", "0s"]);
        assert!(cloud.resources().is_empty(), "seed {seed}: {:?}\n{said}", cloud.resources());
        cloud.no_faults();
    }
}
