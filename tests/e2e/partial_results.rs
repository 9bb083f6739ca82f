//! `get-results --partial` on hosts of a lab: it fetches an exact prefix of the results, of a running and of a stopped job.

use std::fmt::Write;
use std::io::Write as _;
use std::process::Command;

use serde_json::Value;
use tests::eventually;
use tests::stack::Stack;

/// Unpacks the archive: results, rejects, summary.
fn archived(stack: &Stack) -> (Vec<u8>, Vec<u8>, Value) {
    let file = |name: &str| {
        let archive = stack.path("out/results.partial.tgz");
        let tar = Command::new("tar").arg("-xzOf").arg(archive).arg(name).output().unwrap();
        assert!(tar.status.success(), "{name}: {}", String::from_utf8_lossy(&tar.stderr));
        tar.stdout
    };
    let summary = serde_json::from_slice(&file("results.partial.json")).unwrap();
    (file("results.log"), file("results.rejects.csv"), summary)
}

#[test]
fn complete_batches_are_fetched_while_a_job_runs_and_when_it_is_stopped() {
    let name = "complete_batches_are_fetched_while_a_job_runs_and_when_it_is_stopped";
    let Some(stack) = Stack::new(name, "2") else { return };
    stack.up(&[]);
    let get = ["--partial", "--output", "out"];
    let said = stack.fail("get-results", &get);
    assert!(said.contains("has nothing of a job: no batch is complete"), "{said}");

    // Every hundredth row has one field too many.
    let lines = 100_000;
    let (mut input, mut results, mut rejects) = (String::from("ID,NAME\n"), String::new(), String::new());
    rejects.push_str("row,reason,record\n");
    for i in 0..lines {
        if i % 100 == 50 {
            writeln!(input, "{i},x,y").unwrap();
            continue;
        }
        writeln!(input, "{i},x").unwrap();
        writeln!(results, "{i},x,0.0").unwrap();
    }
    std::fs::write(stack.path("in.csv"), input).unwrap();
    let mut job =
        stack.start("run-cluster", &["--input", "in.csv", "--classifier", "sleep:1000", "--workers", "2"]);
    let output = stack.lab.folder().join("h1/home/.provisioned-classifier/output");
    let durable = |rows: u64| {
        let file = std::fs::read(output.join("results.checkpoint")).ok()?;
        (protocol::checkpoint::slots(&file).first()?.position.next_row >= rows).then_some(())
    };
    let check = |why: &str| {
        let (log, rejected, summary) = archived(&stack);
        assert!(!log.is_empty() && results.as_bytes().starts_with(&log), "{why}: {summary}");
        let rows = log.iter().filter(|byte| **byte == b'\n').count() as u64;
        let count = rejected.iter().filter(|byte| **byte == b'\n').count() as u64 - 1;
        assert!(rejected.starts_with(rejects.as_bytes()) && count > 0, "{why}: {summary}");
        assert_eq!(summary["rows"].as_u64(), Some(rows + count), "{why}: {summary}");
        assert_eq!(summary["rejects"].as_u64(), Some(count), "{why}: {summary}");
        rows
    };
    eventually("rows", || durable(2000));
    let said = stack.run("get-results", &get);
    assert!(said.contains("partial    out/results.partial.tgz"), "{said}");
    let running = check("while it runs");
    assert!(job.is_running(), "the job continues");
    eventually("more rows", || durable(2 * running));

    let said = stack.run("stop", &[]);
    assert!(said.contains("cargo xtask get-results --partial fetches it"), "{said}");
    job.failure();
    // Bytes beyond the checkpoint do not count.
    let mut log = std::fs::File::options().append(true).open(output.join("results.log")).unwrap();
    log.write_all(b"half a ba").unwrap();
    let said = stack.run("get-results", &get);
    assert!(check("when it is stopped") > running, "{said}");
    let (_, _, summary) = archived(&stack);
    assert!(summary["receiver"].as_str().unwrap().starts_with("stopped; "), "{summary}");
    assert_eq!(summary["columns"][2], "CLASSIFICATION", "{summary}");

    // With a time limit of zero, the archive is empty, and says so.
    let said = stack.run("get-results", &[&get[..], &["--within", "0s"]].concat());
    assert!(said.contains("cut        0 B of "), "{said}");
    let (log, _, summary) = archived(&stack);
    assert!(
        log.is_empty() && summary["bytes"] == 0 && summary["complete_bytes"].as_u64() > Some(0),
        "{summary}"
    );

    // Modified results are refused.
    let mut bytes = std::fs::read(output.join("results.log")).unwrap();
    bytes[0] ^= 1;
    std::fs::write(output.join("results.log"), bytes).unwrap();
    let said = stack.fail("get-results", &get);
    assert!(said.contains("differs from its checkpoint"), "{said}");
    assert!(!stack.path("out/results.partial.tgz.part").exists());
    stack.down();
}
