//! A command in the cloud is killed at every call that it makes: once it has taken effect, and before it is answered. Then
//! `down`, in a folder that knows nothing, leaves nothing.

use serde_json::json;
use tests::cloud::Cloud;
use tests::eventually;
use tests::lab::Lab;
use tests::program::Program;

const UP: [&str; 6] = ["up", "CLUSTER_SIZE=2", "--ssh-from", "203.0.113.7", "--boot-time", "0s"];

/// Kills a program at the call that is held; gives what that was, or `None` if there was none.
fn kill(cloud: &Cloud, mut program: Program) -> Option<String> {
    let held = cloud.held(&mut program);
    if held.is_some() {
        program.signal("KILL");
    }
    program.wait();
    cloud.no_faults();
    cloud.let_go();
    held
}

/// Kills a command at its first call, its second, and so on to its last; and again at the first of each of these
/// operations, since calls that are made at the same time have no order. `killed` is told how to have the call held, and
/// gives the one at which it has killed the command.
fn at_every_call(cloud: &Cloud, operations: &[&str], killed: impl Fn(&dyn Fn()) -> Option<String>) {
    for n in 1.. {
        let call = killed(&|| cloud.hold(n));
        assert_empty(cloud, &format!("killed at call {n}, {call:?}"));
        cloud.forget();
        if call.is_none() {
            break;
        }
    }
    for operation in operations {
        let call = killed(&|| cloud.hold_first(operation));
        assert_eq!(call.as_deref(), Some(*operation));
        assert_empty(cloud, &format!("killed at the first {operation}"));
    }
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
    // It comes to its end without hosts, which is a failure after which all is undone.
    let operations =
        ["RunInstances", "PutMetricAlarm", "PutDashboard", "TerminateInstances", "DeleteSecurityGroup"];
    at_every_call(&cloud, &operations, |hold| {
        hold();
        let call = kill(&cloud, cloud.begin("up", &UP));
        if call.is_some() {
            cloud.run("empty", &["down"]);
        }
        call
    });
}

#[test]
fn down_killed_at_every_call() {
    let cloud = Cloud::start(None);
    cloud.settings(&json!({"shutting_down": 1}));
    let operations =
        ["TerminateInstances", "DeleteAlarms", "DeleteTopic", "DeleteKeyPair", "DeleteSecurityGroup"];
    let down = || cloud.begin("empty", &["down"]);
    at_every_call(&cloud, &operations, |hold| {
        // A stack that has all but its hosts.
        cloud.hold_first("PutDashboard");
        assert_eq!(kill(&cloud, cloud.begin("up", &UP)).as_deref(), Some("PutDashboard"));
        hold();
        let call = kill(&cloud, down());
        down().success();
        call
    });
}

#[test]
fn a_job_killed_at_every_call() {
    let Some(lab) = Lab::up("a_job_killed_at_every_call", "2") else { return };
    let cloud = Cloud::start(Some(&lab));
    let args =
        ["job", "CLUSTER_SIZE=1", "INPUT_LINES=1000", "--ssh-from", "10.213.0.0/16", "--ssh-user", "root"];
    let operations = ["RunInstances", "PutDashboard", "TerminateInstances", "DeleteSecurityGroup"];
    at_every_call(&cloud, &operations, |hold| {
        hold();
        let call = kill(&cloud, cloud.begin("job", &args));
        if call.is_some() {
            // The step that was at work ends with the job.
            let folder = cloud.path("job").display().to_string();
            eventually("the step to end", || {
                let alive = tests::command_lines().any(|line| line.contains(&folder));
                (!alive).then_some(())
            });
            cloud.run("empty", &["down"]);
        }
        call
    });
}
