//! `cargo xtask job` when a lost machine, the user or the time to live ends it: complete batches are fetched, and nothing is
//! left in the cloud.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tests::cloud::Cloud;
use tests::cluster::{Setup, results_in};
use tests::eventually;
use tests::lab::Lab;
use tests::program::Program;

/// Rows of disturbed jobs. Each row takes a worker a millisecond.
const ROWS: &str = "240000";

/// A cloud whose instances are hosts of a lab.
struct Site {
    cloud: Cloud,
    lab: Lab,
}

impl Site {
    fn new(test: &str, hosts: &str) -> Option<Self> {
        let lab = Lab::up(test, hosts)?;
        Some(Self { cloud: Cloud::start(Some(&lab)), lab })
    }

    /// Starts a long job in a folder of its own.
    fn begin(&self, folder: &str, more: &[&str]) -> Program {
        let args = [
            "job",
            "--ssh-from",
            "10.213.0.0/16",
            "--ssh-user",
            "root",
            "--settle",
            "1s",
            "--output",
            "out",
            "--classifier",
            "sleep:1000",
        ];
        let rows = ["--input-lines", ROWS];
        let rows = if more.contains(&"--input-lines") { &[] } else { &rows[..] };
        self.cloud.begin(folder, &[&args, rows, more].concat())
    }

    /// The machine of a role: the id of its instance, and the name of its host in the lab.
    fn machine(&self, role: &str) -> (String, String) {
        for id in self.cloud.ids("instance") {
            let (_, instance) = self.cloud.ask("GET", &format!("instance?id={id}"), &Value::Null);
            if instance["tags"]["provisioned-classifier-role"] == role {
                let addresses = self.lab.values("address");
                let host = addresses.iter().position(|address| instance["address"] == **address).unwrap();
                return (id, self.lab.values("name")[host].clone());
            }
        }
        panic!("there is no {role}")
    }

    /// Waits until this many rows are durable on the metrics host.
    fn await_rows(&self, rows: u64) {
        let (_, host) = self.machine("metrics");
        let checkpoint =
            self.lab.folder().join(host).join("home/.provisioned-classifier/output/results.checkpoint");
        eventually("rows", || {
            let file = std::fs::read(&checkpoint).ok()?;
            (protocol::checkpoint::slots(&file).first()?.position.next_row >= rows).then_some(())
        });
    }

    /// Terminates the machine of a role, as EC2 does: its host is powered off.
    fn end(&self, role: &str) {
        let (id, _) = self.machine(role);
        self.cloud.ask("POST", "terminate", &json!({"id": id}));
    }

    /// Sends a signal to the metrics host's sshd. While it is stopped, logins wait.
    fn sshd(&self, signal: &str) {
        let (_, host) = self.machine("metrics");
        let namespace = format!("{}{host}", self.lab.bridge());
        let pids = Command::new("ip").args(["netns", "pids", &namespace]).output().unwrap();
        let pids = String::from_utf8(pids.stdout).unwrap();
        let is_master = |pid: &&str| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"sshd: /usr/sbin/sshd -D") || line.starts_with(b"/usr/sbin/sshd")
        };
        let master = pids.split_whitespace().find(is_master).expect("the host has an sshd");
        assert!(Command::new("kill").args([&format!("-{signal}"), master]).status().unwrap().success());
    }

    fn assert_nothing_is_left(&self, said: &str) {
        assert!(said.contains("nothing is left of provisioned-classifier in us-west-2"), "{said}");
        assert!(self.cloud.resources().is_empty(), "{:?}\n{said}", self.cloud.resources());
    }
}

/// Waits until a program ends with this exit code; returns its output.
fn ends_with(program: &mut Program, code: i32) -> String {
    let status = program.wait();
    assert_eq!(status.code(), Some(code), "{}", program.output());
    program.output()
}

/// The complete results of a disturbed job.
fn whole() -> Vec<u8> {
    Setup::default().args(["--classifier", "sleep:1"]).run(["--lines", ROWS]).log
}

/// Checks that an archive of partial results has a proper prefix of the complete results; returns its summary.
fn check_partial(archive: &Path, whole: &[u8]) -> Value {
    let results = results_in(archive);
    assert!(!results.is_empty() && results.len() < whole.len(), "{} of {}", results.len(), whole.len());
    assert!(whole.starts_with(&results), "{} bytes are not those of the whole", results.len());
    let tar = Command::new("tar").arg("-xzOf").arg(archive).arg("results.partial.json").output().unwrap();
    let summary: Value = serde_json::from_slice(&tar.stdout).unwrap();
    let (hash, length) = protocol::hash::of_all(&results[..]).unwrap();
    assert_eq!(summary["sha256"], protocol::hash::finish(hash));
    assert_eq!((summary["bytes"].as_u64(), &summary["bytes"]), (Some(length), &summary["complete_bytes"]));
    let rows = results.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!((summary["rows"].as_u64(), summary["rejects"].as_u64()), (Some(rows as u64), Some(0)));
    assert_eq!(summary["rows_in_all"].to_string(), ROWS);
    summary
}

#[test]
fn a_lost_worker_does_not_change_the_results() {
    let Some(site) = Site::new("a_lost_worker_does_not_change_the_results", "4") else { return };
    let mut job = site.begin("job", &["CLUSTER_SIZE=3"]);
    job.await_output("fake rows, on 21 workers");
    site.await_rows(80_000);
    site.end("worker");
    let said = job.success();
    site.assert_nothing_is_left(&said);
    assert!(results_in(&site.cloud.path("job/out/results.tgz")) == whole());
    assert!(!site.cloud.path("job/out/results.partial.tgz").exists());
}

#[test]
fn a_lost_initializer_fails_the_job_and_complete_batches_are_fetched() {
    let name = "a_lost_initializer_fails_the_job_and_complete_batches_are_fetched";
    let Some(site) = Site::new(name, "3") else { return };
    let out = site.cloud.path("job/out");
    std::fs::create_dir_all(&out).unwrap();
    std::fs::write(out.join("results.tgz"), "precious").unwrap();
    let mut job = site.begin("job", &["CLUSTER_SIZE=2"]);
    job.await_output("fake rows, on 14 workers");
    site.await_rows(40_000);
    site.end("initializer");
    let said = ends_with(&mut job, 1);
    assert!(said.contains("no contact with initializer for 60s"), "{said}");
    assert!(said.contains("the job has failed, and the stack is down"), "{said}");
    site.assert_nothing_is_left(&said);
    let summary = check_partial(&out.join("results.partial.tgz"), &whole());
    assert_eq!(summary["why"], "cargo xtask run-cluster ended with exit status: 1");
    assert!(summary["receiver"].as_str().unwrap().starts_with("stopped; "), "{summary}");
    assert!(std::fs::read(out.join("results.tgz")).unwrap() == b"precious");
    // The output must not promise anything that is destroyed.
    for lie in ["--resume", "--attach", "kept on", "cargo xtask stop", "cargo xtask logs"] {
        assert!(!said.contains(lie), "{lie}: {said}");
    }
}

#[test]
fn a_lost_metrics_host_fails_the_job_and_nothing_is_fetched() {
    let name = "a_lost_metrics_host_fails_the_job_and_nothing_is_fetched";
    let Some(site) = Site::new(name, "2") else { return };
    let mut job = site.begin("job", &["CLUSTER_SIZE=1"]);
    job.await_output("fake rows, on 7 workers");
    site.await_rows(10_000);
    site.end("metrics");
    let said = ends_with(&mut job, 1);
    assert!(said.contains("no contact with metrics for 120s"), "{said}");
    assert!(said.contains("nothing was fetched: ") && said.contains("connecting to metrics"), "{said}");
    site.assert_nothing_is_left(&said);
    assert!(!site.cloud.path("job/out/results.partial.tgz").exists());
    assert!(!said.contains("--attach") && !said.contains("the job continues without this command"), "{said}");
}

#[test]
fn one_interruption_fetches_two_do_not_and_three_leave_the_stack() {
    let name = "one_interruption_fetches_two_do_not_and_three_leave_the_stack";
    let Some(site) = Site::new(name, "2") else { return };
    let begin = |folder: &str, rows| {
        let job = site.begin(folder, &["CLUSTER_SIZE=1"]);
        job.await_output("fake rows, on 7 workers");
        site.await_rows(rows);
        job
    };
    let mut job = begin("once", 20_000);
    job.signal("INT");
    let said = ends_with(&mut job, 130);
    assert!(said.contains("interrupted: all programs of the job have ended\n"), "{said}");
    assert!(said.ends_with("interrupted; the stack is down\n"), "{said}");
    site.assert_nothing_is_left(&said);
    let summary = check_partial(&site.cloud.path("once/out/results.partial.tgz"), &whole());
    assert_eq!(summary["why"], "interrupted");

    // Logins wait, so that there is time for a second interruption.
    let mut job = begin("twice", 1000);
    site.sshd("STOP");
    job.signal("INT");
    job.await_output("fetching the complete batches, for at most 10 min 00 s (Ctrl-C skips that)");
    job.signal("INT");
    job.await_output("interrupted twice: the stack is taken down");
    site.sshd("CONT");
    let said = ends_with(&mut job, 130);
    site.assert_nothing_is_left(&said);
    assert!(!site.cloud.path("twice/out/results.partial.tgz").exists(), "{said}");

    let mut job = begin("thrice", 1000);
    site.sshd("STOP");
    job.signal("INT");
    job.await_output("fetching the complete batches");
    site.cloud.faults(&json!([{"service": "ec2", "operation": "TerminateInstances", "kind": "hold"}]));
    job.signal("INT");
    assert_eq!(site.cloud.held(&mut job).as_deref(), Some("TerminateInstances"));
    site.sshd("CONT");
    job.signal("INT");
    let said = ends_with(&mut job, 130);
    site.cloud.release();
    site.cloud.no_faults();
    let end = "interrupted three times: the stack is left as it is; its machines end by themselves at 20";
    assert!(said.contains(end) && said.contains("(in 3 h 5"), "{said}");
    assert_eq!(site.cloud.ids("instance").len(), 2, "{said}");
    let said = site.cloud.run("thrice", &["down", "--discard-results"]);
    site.assert_nothing_is_left(&said);
}

#[test]
fn keep_on_failure_keeps_the_stack() {
    let Some(site) = Site::new("keep_on_failure_keeps_the_stack", "2") else { return };
    let mut job = site.begin("job", &["CLUSTER_SIZE=1", "--keep-on-failure", "--ttl", "2h"]);
    job.await_output("fake rows, on 7 workers");
    site.await_rows(10_000);
    // After the step is killed, the job's programs continue.
    kill_step(&job);
    let said = ends_with(&mut job, 1);
    assert!(
        said.contains(
            "the stack is left up, as --keep-on-failure asks; its machines end by themselves at 20"
        ),
        "{said}"
    );
    assert!(said.contains("(in 1 h 5"), "{said}");
    assert_eq!(site.cloud.ids("instance").len(), 2, "{said}");
    // The machines are still usable.
    let said = site.cloud.run("job", &["get-results", "--partial", "--output", "out"]);
    let summary = check_partial(&site.cloud.path("job/out/results.partial.tgz"), &whole());
    assert_eq!((&summary["why"], &summary["receiver"]), (&Value::Null, &json!("running")), "{said}");
    site.cloud.run("job", &["stop"]);
    let said = site.cloud.run("job", &["run-cluster", "--resume"]);
    assert!(said.contains("rows out   240,000"), "{said}");
    // Only partial results were fetched so far.
    let said = ends_with(&mut site.cloud.begin("job", &["down"]), 3);
    assert!(said.contains("has results of 240,000 rows that were not fetched"), "{said}");
    assert_eq!(site.cloud.ids("instance").len(), 2, "{said}");
    let said = site.cloud.run("job", &["down", "--discard-results"]);
    site.assert_nothing_is_left(&said);
}

#[test]
fn a_job_that_meets_another_one_leaves_it_alone() {
    let Some(site) = Site::new("a_job_that_meets_another_one_leaves_it_alone", "2") else { return };
    let mut first = site.begin("job", &["CLUSTER_SIZE=1", "--input-lines", "100000", "--keep"]);
    first.await_output("fake rows, on 7 workers");
    site.await_rows(1000);
    let said = ends_with(&mut site.begin("job", &["CLUSTER_SIZE=1"]), 4);
    assert!(said.contains("another job or command uses the stack, which is left as it is"), "{said}");
    let said = first.success();
    assert!(said.contains("rows out   100,000"), "{said}");
    // Its results were fetched, so down does not refuse.
    let said = site.cloud.run("job", &["down"]);
    site.assert_nothing_is_left(&said);
}

#[test]
fn an_invalid_job_is_refused_before_anything_is_made() {
    let cloud = Cloud::start(None);
    std::fs::create_dir_all(cloud.path("job")).unwrap();
    std::fs::write(cloud.path("job/in.csv"), "A,B\n1,2\n").unwrap();
    for (args, code, words) in [
        (&["--no-such-option"][..], 2, "unexpected argument"),
        (&["LINES=3"], 2, "job does not accept LINES"),
        (&["--input", "nowhere.csv", "--model", "native"], 3, "opening the input nowhere.csv"),
        (&["--input", "-", "--model", "native"], 3, "standard input cannot be shipped"),
        (&["--input", "in.csv"], 3, "--model native"),
        (&["CLUSTER_SIZE=1", "--model", "python:no_such_module"], 3, "there is no module no_such_module"),
    ] {
        let said = ends_with(&mut cloud.begin("job", &[&["job", "--output", "out"], args].concat()), code);
        assert!(said.contains(words), "{args:?}: {said}");
    }
    assert!(cloud.resources().is_empty() && cloud.changes_since(0).is_empty());
}

#[test]
fn a_job_refused_on_its_hosts_keeps_earlier_results_and_takes_the_stack_down() {
    let name = "a_job_refused_on_its_hosts_keeps_earlier_results_and_takes_the_stack_down";
    let Some(site) = Site::new(name, "2") else { return };
    std::fs::create_dir_all(site.cloud.path("job/out")).unwrap();
    std::fs::write(site.cloud.path("job/out/results.tgz"), "precious").unwrap();
    std::fs::write(site.cloud.path("job/empty.csv"), "").unwrap();
    let args = ["CLUSTER_SIZE=1", "--input", "empty.csv", "--input-lines", "1"];
    let said = ends_with(&mut site.begin("job", &args), 3);
    assert!(said.contains("empty.csv is empty") && said.contains("the stack is down"), "{said}");
    site.assert_nothing_is_left(&said);
    assert!(std::fs::read(site.cloud.path("job/out/results.tgz")).unwrap() == b"precious");
}

#[test]
fn a_job_warns_if_its_machines_end_before_it_is_done() {
    let name = "a_job_warns_if_its_machines_end_before_it_is_done";
    let Some(site) = Site::new(name, "2") else { return };
    // On seven workers, five million rows take twelve minutes.
    let mut job = site.begin("job", &["CLUSTER_SIZE=1", "--ttl", "10m", "--input-lines", "5000000"]);
    job.await_output("the machines end by themselves at 20");
    job.await_output(", and the job still takes 1");
    job.signal("INT");
    let said = ends_with(&mut job, 130);
    // The warning is printed only once.
    assert_eq!(said.matches("and the job still takes").count(), 1, "{said}");
    assert!(
        said.contains("shortly before that, the complete batches are fetched to results.partial.tgz"),
        "{said}"
    );
    site.assert_nothing_is_left(&said);
    assert!(!results_in(&site.cloud.path("job/out/results.partial.tgz")).is_empty(), "{said}");
}

/// Kills a job's current step.
fn kill_step(job: &Program) {
    let pid = job.pid();
    let step = eventually("a step", || {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().next().map(str::to_owned)
    });
    assert!(Command::new("kill").args(["-KILL", &step]).status().unwrap().success());
}

#[test]
fn a_killed_step_or_an_interrupted_job_takes_the_stack_down() {
    let Some(site) = Site::new("a_killed_step_or_an_interrupted_job_takes_the_stack_down", "3") else {
        return;
    };
    let whole = whole();
    for signal in ["TERM", "step"] {
        let mut job = site.begin(signal, &["CLUSTER_SIZE=2"]);
        job.await_output("fake rows, on 14 workers");
        site.await_rows(10_000);
        match signal {
            "step" => kill_step(&job),
            signal => job.signal(signal),
        }
        let said = ends_with(&mut job, if signal == "step" { 1 } else { 130 });
        site.assert_nothing_is_left(&said);
        check_partial(&site.cloud.path(signal).join("out/results.partial.tgz"), &whole);
    }
    // The job is interrupted during up.
    site.cloud
        .faults(&json!([{"service": "ec2", "operation": "RunInstances", "kind": "hold", "when": "after"}]));
    let mut job = site.begin("up", &["CLUSTER_SIZE=2"]);
    assert_eq!(site.cloud.held(&mut job).as_deref(), Some("RunInstances"));
    job.signal("INT");
    site.cloud.release();
    let said = ends_with(&mut job, 130);
    assert!(said.contains("interrupted; undoing what was made\n"), "{said}");
    assert!(site.cloud.resources().is_empty(), "{:?}", site.cloud.resources());
    // With --keep, the stack stays.
    let said = site.cloud.run(
        "keep",
        &[
            "job",
            "--ssh-from",
            "10.213.0.0/16",
            "--ssh-user",
            "root",
            "--output",
            "out",
            "CLUSTER_SIZE=1",
            "INPUT_LINES=1000",
            "--keep",
        ],
    );
    assert!(
        said.contains("the stack is left up, as --keep asks; its machines end by themselves at 20"),
        "{said}"
    );
    assert_eq!(site.cloud.ids("instance").len(), 2);
    let said = site.cloud.run("keep", &["down"]);
    site.assert_nothing_is_left(&said);
}
