//! Kills commands at every call that they make, after the call has taken effect and before it is answered. Then `down`, in
//! an empty folder, must leave nothing.

use serde_json::json;
use tests::cloud::Cloud;
use tests::eventually;
use tests::lab::Lab;
use tests::program::Program;

// Nothing answers at the addresses of these machines; `up` creates alarms while it waits for them.
const UP: [&str; 8] =
    ["up", "CLUSTER_SIZE=2", "--ssh-from", "203.0.113.7", "--boot-time", "1s", "--settle", "1s"];
/// Takes the stack down from any folder. The cloud's answers lag by less than a second; see [`be_late`].
const DOWN_LATER: [&str; 5] = ["down", "--stack", "provisioned-classifier", "--settle", "1s"];

/// Kills a program at the call that is held; returns the call, or `None` if there was none.
fn kill(cloud: &Cloud, mut program: Program) -> Option<String> {
    let held = cloud.held(&mut program);
    if held.is_some() {
        program.signal("KILL");
    }
    program.wait();
    cloud.no_faults();
    cloud.release();
    held
}

/// Number of clouds that are tested in parallel; commands mostly wait.
const CLOUDS: usize = 3;
/// Makes the cloud's answers lag like AWS's at its worst, but for a shorter time. New resources are not listed for a while,
/// by tag for longer than by id, and deleted ones stay visible.
fn be_late(cloud: &Cloud) {
    cloud.settings(&json!({
        "unseen": 1, "shutting_down": 1, "late_by_id": 0.2, "late_by_tag": 0.6, "late_gone": 0.6,
    }));
}

/// Kills a command at its first call, its second, and so on to its last. Then kills it at the first call of each of these
/// operations, since concurrent calls have no fixed order. `killed` calls its last argument to hold a call, and returns the
/// call at which it killed the command.
fn at_every_call(
    clouds: &[Cloud],
    operations: &[&str],
    killed: impl Fn(&Cloud, &dyn Fn()) -> Option<String> + Sync,
) {
    std::thread::scope(|scope| {
        for (i, cloud) in clouds.iter().enumerate() {
            let killed = &killed;
            scope.spawn(move || {
                for n in (1 + i..).step_by(clouds.len()) {
                    let call = killed(cloud, &|| cloud.hold(n));
                    assert_empty(cloud, &format!("killed at call {n}, {call:?}"));
                    cloud.forget();
                    if call.is_none() {
                        break;
                    }
                }
                for operation in operations.iter().skip(i).step_by(clouds.len()) {
                    let call = killed(cloud, &|| cloud.hold_first(operation));
                    assert_eq!(call.as_deref(), Some(*operation));
                    assert_empty(cloud, &format!("killed at the first {operation}"));
                }
            });
        }
    });
}

fn assert_empty(cloud: &Cloud, when: &str) {
    let left = cloud.resources();
    assert!(left.is_empty(), "{when}: {left:?}");
}

fn clouds() -> Vec<Cloud> {
    (0..CLOUDS).map(|_| Cloud::start(None)).inspect(be_late).collect()
}

#[test]
fn up_is_killed() {
    // At its end it fails, since no host answers, and undoes everything.
    let operations =
        ["RunInstances", "PutMetricAlarm", "PutDashboard", "TerminateInstances", "DeleteSecurityGroup"];
    at_every_call(&clouds(), &operations, |cloud, hold| {
        hold();
        let call = kill(cloud, cloud.begin("up", &UP));
        if call.is_some() {
            cloud.run("empty", &DOWN_LATER);
        }
        call
    });
}

#[test]
fn down_is_killed() {
    let operations =
        ["TerminateInstances", "DeleteAlarms", "DeleteTopic", "DeleteKeyPair", "DeleteSecurityGroup"];
    at_every_call(&clouds(), &operations, |cloud, hold| {
        // A stack without ready hosts.
        cloud.kill_at("PutMetricAlarm", "up", &UP);
        hold();
        let call = kill(cloud, cloud.begin("empty", &DOWN_LATER));
        cloud.run("empty", &DOWN_LATER);
        call
    });
}

#[test]
fn a_job_is_killed() {
    let labs: Option<Vec<_>> = (0..CLOUDS).map(|_| Lab::up("a_job_is_killed", "2")).collect();
    let Some(labs) = labs else { return };
    let clouds: Vec<_> = labs.iter().map(|lab| Cloud::start(Some(lab))).inspect(be_late).collect();
    let lab = ["--ssh-from", "10.213.0.0/16", "--ssh-user", "root", "--settle", "1s"];
    let args = [&["job", "CLUSTER_SIZE=1", "INPUT_LINES=1000"], &lab[..]].concat();
    let operations = ["RunInstances", "PutDashboard", "TerminateInstances", "DeleteSecurityGroup"];
    at_every_call(&clouds, &operations, |cloud, hold| {
        hold();
        let call = kill(cloud, cloud.begin("job", &args));
        if call.is_some() {
            // The current step ends with the job.
            let folder = cloud.path("job").display().to_string();
            eventually("the step to end", || {
                let alive = tests::command_lines().any(|line| line.contains(&folder));
                (!alive).then_some(())
            });
            cloud.run("empty", &DOWN_LATER);
        }
        call
    });
}
