//! A command in the cloud is killed at every call that it makes: once it has taken effect, and before it is answered. Then
//! `down`, in a folder that knows nothing, leaves nothing.

use serde_json::json;
use tests::cloud::Cloud;
use tests::eventually;
use tests::lab::Lab;
use tests::program::Program;

const UP: [&str; 6] = ["up", "CLUSTER_SIZE=2", "--ssh-from", "203.0.113.7", "--boot-time", "0s"];

/// Kills a program when it has made its n-th call; gives what that was, or `None` if there was none.
fn kill_at(cloud: &Cloud, n: usize, start: impl Fn() -> Program) -> Option<String> {
    cloud.hold(n);
    let mut program = start();
    let held = cloud.held(&mut program);
    if held.is_some() {
        program.signal("KILL");
    }
    program.wait();
    cloud.no_faults();
    cloud.let_go();
    held
}

fn assert_empty(cloud: &Cloud, when: &str) {
    let left = cloud.resources();
    assert!(left.is_empty(), "{when}: {left:?}");
}

#[test]
fn up_killed_at_every_call() {
    let cloud = Cloud::start(None);
    // An instance that was launched is not seen at once.
    cloud.settings(&json!({"unseen": 1, "shutting_down": 1}));
    let mut killed = Vec::new();
    for n in 1.. {
        let Some(call) = kill_at(&cloud, n, || cloud.begin("up", &UP)) else { break };
        cloud.run("empty", &["down"]);
        assert_empty(&cloud, &format!("killed at call {n}, {call}"));
        killed.push(call);
    }
    // It has come to its end, which without hosts is a failure after which all is undone.
    assert_empty(&cloud, "not killed");
    for call in
        ["RunInstances", "PutMetricAlarm", "PutDashboard", "TerminateInstances", "DeleteSecurityGroup"]
    {
        assert!(killed.iter().any(|killed| killed == call), "{call} is not among {killed:?}");
    }
}

#[test]
fn down_killed_at_every_call() {
    let cloud = Cloud::start(None);
    cloud.settings(&json!({"shutting_down": 1}));
    let mut killed = Vec::new();
    for n in 1.. {
        // A whole stack, but for its hosts.
        let hold = json!({"service": "*", "operation": "PutDashboard", "kind": "hold", "when": "after"});
        cloud.faults(&json!([hold]));
        let mut up = cloud.begin("up", &UP);
        assert_eq!(cloud.held(&mut up).as_deref(), Some("PutDashboard"));
        up.signal("KILL");
        up.wait();
        cloud.no_faults();
        cloud.let_go();
        let call = kill_at(&cloud, n, || cloud.begin("empty", &["down"]));
        cloud.run("empty", &["down"]);
        assert_empty(&cloud, &format!("killed at call {n}, {call:?}"));
        let Some(call) = call else { break };
        killed.push(call);
    }
    for call in ["TerminateInstances", "DeleteAlarms", "DeleteTopic", "DeleteKeyPair", "DeleteSecurityGroup"]
    {
        assert!(killed.iter().any(|killed| killed == call), "{call} is not among {killed:?}");
    }
}

#[test]
fn a_job_killed_at_every_call() {
    let Some(lab) = Lab::up("a_job_killed_at_every_call", "2") else { return };
    let cloud = Cloud::start(Some(&lab));
    let args =
        ["job", "CLUSTER_SIZE=1", "INPUT_LINES=1000", "--ssh-from", "10.213.0.0/16", "--ssh-user", "root"];
    let mut killed = Vec::new();
    for n in 1.. {
        let call = kill_at(&cloud, n, || cloud.begin("job", &args));
        let Some(call) = call else { break };
        // The step that was at work ends with the job.
        eventually("the step to end", || {
            let folder = cloud.path("job").display().to_string();
            let alive = tests::command_lines().any(|line| line.contains(&folder));
            (!alive).then_some(())
        });
        cloud.run("empty", &["down"]);
        assert_empty(&cloud, &format!("killed at call {n}, {call}"));
        killed.push(call);
    }
    assert_empty(&cloud, "not killed");
    for call in ["RunInstances", "PutDashboard", "TerminateInstances", "DeleteSecurityGroup"] {
        assert!(killed.iter().any(|killed| killed == call), "{call} is not among {killed:?}");
    }
}
