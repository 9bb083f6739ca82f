//! Machines with a real systemd and a real cloud-init boot with the user data that `up` sends.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tests::cloud::Cloud;
use tests::lab::Lab;
use tests::machine::{INSTANCE, Machine};

/// The script that `up` runs on each machine at its first login.
const ARMED: &str = include_str!("../../crates/deploy-aws/src/apply/boot/armed.sh");
const TIMER: &str = "/etc/systemd/system/provisioned-classifier-time-to-live.timer";
/// The shortest time to live of a restarted machine, and by how much the process ends it later than the timer.
const LEAST_LEFT: Duration = Duration::from_secs(5);
const HEAD_START: Duration = Duration::from_secs(15);

/// What `up` sends to launch a machine.
struct Launch {
    user_data: String,
    /// The fingerprint of the host key in the user data.
    fingerprint: String,
}

/// Runs `up` until it launches machines, and reads what it sent for one of them.
static LAUNCH: LazyLock<Launch> = LazyLock::new(|| {
    let cloud = Cloud::start(None);
    cloud.hold_first("RunInstances");
    let mut up = cloud.begin("up", &["up", "CLUSTER_SIZE=1", "--ssh-from", "203.0.113.7", "--ttl", "4h"]);
    assert_eq!(cloud.held(&mut up).as_deref(), Some("RunInstances"), "{}", up.output());
    let id = &cloud.ids("instance")[0];
    let (_, instance) = cloud.ask("GET", &format!("instance?id={id}"), &Value::Null);
    let tags = instance["tags"].as_object().unwrap();
    let mut values = tags.values().map(|value| value.as_str().unwrap());
    let fingerprint = values.find(|value| value.starts_with("SHA256:")).unwrap().to_owned();
    let (_, user_data) = cloud.ask("GET", &format!("user-data?id={id}"), &Value::Null);
    up.signal("KILL");
    up.wait();
    Launch { user_data: user_data.as_str().unwrap().to_owned(), fingerprint }
});

/// The file in which a machine notes when it expires.
fn note(machine: &Machine) -> std::path::PathBuf {
    machine.file(&format!("/var/lib/provisioned-classifier-{INSTANCE}-expires"))
}

/// Makes a machine believe that it expired long ago.
fn expire(machine: &Machine) {
    let before: u64 = std::fs::read_to_string(note(machine)).unwrap().trim().parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!((now + 4 * 3600 - 600..=now + 4 * 3600).contains(&before), "{before}, {now}");
    std::fs::write(note(machine), "1000000000\n").unwrap();
}

#[test]
fn a_machine_ends_in_time_even_after_a_restart() {
    let test = "a_machine_ends_in_time_even_after_a_restart";
    for mut machine in Machine::of_each_release(test, &LAUNCH.user_data) {
        machine.boot();
        let booted = machine.await_booted();
        let versions = machine.run(
            ". /etc/os-release; echo $PRETTY_NAME, $(systemctl --version | head -n 1), $(cloud-init --version 2>&1)",
        );
        assert_cloud_init_is_content(&machine);
        assert_only_our_key_is_shown(&machine);
        assert_eq!(machine.run(ARMED), "timer waiting\nprocess running");
        let left = machine.run(&format!(
            "systemctl list-timers --no-legend {0}; cat /run/systemd/shutdown/scheduled; \
             cat /proc/$(cat /run/provisioned-classifier-time-to-live.pid)/cgroup",
            "provisioned-classifier-time-to-live.timer"
        ));
        assert!(left.contains("3h 5") && left.contains("MODE=poweroff"), "{left}");
        // The process is not in cloud-init's control group, so it survives cloud-init.
        assert!(left.ends_with("/init.scope"), "{left}");

        // Without cloud-init, a restarted machine still has the timer.
        machine.cut_power();
        std::fs::write(machine.file("/etc/cloud/cloud-init.disabled"), "").unwrap();
        machine.boot();
        machine.run("until [ -S /run/systemd/private ]; do sleep 0.05; done");
        tests::eventually("the timer to be armed", || {
            (machine.run(ARMED) == "timer waiting\nprocess missing").then_some(())
        });

        machine.cut_power();
        std::fs::remove_file(machine.file("/etc/cloud/cloud-init.disabled")).unwrap();
        expire(&machine);
        machine.boot();
        let off = machine.await_off();
        assert!(off >= LEAST_LEFT, "{off:?}");
        eprintln!("{versions}: booted after {booted:.1?}; restarted too late, off after {off:.1?}");
    }
}

fn assert_cloud_init_is_content(machine: &Machine) {
    let status = machine.run("cloud-init status --wait --long");
    assert!(status.contains("status: done"), "{status}\n{}", machine.said());
    let result = machine.run("cat /run/cloud-init/result.json");
    let result: Value = serde_json::from_str(&result).unwrap();
    assert_eq!(result["v1"]["errors"].as_array().map(Vec::len), Some(0), "{result}");
    let failed = machine.run("systemctl list-units --failed --plain --no-legend");
    assert_eq!(failed, "");
}

fn assert_only_our_key_is_shown(machine: &Machine) {
    let keys = machine.run("for key in /etc/ssh/ssh_host_*_key; do ssh-keygen -l -f $key; done");
    assert_eq!(keys.lines().count(), 1, "{keys}");
    assert!(keys.contains(&LAUNCH.fingerprint), "{keys}");
    let active = machine.run("systemctl is-active ssh.service ssh.socket || true");
    assert!(active.lines().any(|state| state == "active"), "{active}");
    let shown = machine.run("ssh-keyscan 127.0.0.1 2> /dev/null | ssh-keygen -l -f -");
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert!(shown.contains(&LAUNCH.fingerprint), "{shown}");
}

/// Sabotages one of the two means to end a machine. The machine still boots, `up` would refuse it, and the other means ends
/// it.
fn the_other_means_suffices(test: &str, sabotage: impl Fn(&Machine), armed: &str, earliest: Duration) {
    for mut machine in Machine::of_each_release(test, &LAUNCH.user_data) {
        sabotage(&machine);
        machine.boot();
        machine.await_booted();
        assert_only_our_key_is_shown(&machine);
        assert_eq!(machine.run(ARMED), armed);
        machine.cut_power();
        expire(&machine);
        for unit in ["dbus.service", "dbus.socket"] {
            machine.link(&format!("/etc/systemd/system/{unit}"), "/dev/null");
        }
        machine.boot();
        let off = machine.await_off();
        assert!(off >= earliest, "{off:?}");
        eprintln!("{armed:?}, without D-Bus: restarted too late, off after {off:.1?}");
    }
}

#[test]
fn the_timer_alone_ends_a_machine() {
    let test = "the_timer_alone_ends_a_machine";
    let no_process = |machine: &Machine| machine.link("/usr/bin/setsid", "false");
    the_other_means_suffices(test, no_process, "timer waiting\nprocess missing", LEAST_LEFT);
}

#[test]
fn the_process_alone_ends_a_machine() {
    let test = "the_process_alone_ends_a_machine";
    let no_timer = |machine: &Machine| machine.link(TIMER, "/dev/null");
    // The uptime is read in whole seconds.
    let least = LEAST_LEFT + HEAD_START - Duration::from_secs(1);
    let armed = "timer dead\nprocess running\n\
                 Failed to restart provisioned-classifier-time-to-live.timer: Unit provisioned-classifier-time-to-live.timer is masked.";
    the_other_means_suffices(test, no_timer, armed, least);
}

#[test]
fn a_machine_without_its_time_to_live_is_refused() {
    let Some(lab) = Lab::up("a_machine_without_its_time_to_live_is_refused", "2") else { return };
    let cloud = Cloud::start(Some(&lab));
    let up = ["up", "CLUSTER_SIZE=1", "--ssh-from", "10.213.0.0/16", "--ssh-user", "root"];
    cloud.settings(&json!({"time_to_live_armed": false}));
    let said = cloud.fail("up", &up);
    assert!(said.contains("2 of 2 hosts failed"), "{said}");
    let reason = "checking the time to live of initializer: it is not armed by both means (its timer is dead, its process is missing)";
    assert!(said.contains(reason), "{said}");
    assert!(said.contains("everything created for it is destroyed again"), "{said}");
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
    // On the same hosts, but with an armed time to live, up succeeds.
    cloud.settings(&json!({"time_to_live_armed": true}));
    cloud.run("up", &up);
    cloud.run("up", &["down"]);
    assert!(cloud.resources().is_empty(), "{:?}", cloud.resources());
}
