//! Hosts read objects and upload results without credentials, also when no machine of the user's is watching.

use tests::eventually;
use tests::program::Program;
use tests::stack::Stack;

use crate::server::{Effect, Fault, Point, Server};

/// Rows that take two workers some seconds.
fn rows() -> String {
    let rows: String = (0..20_000).map(|row| format!("{row},x\n")).collect();
    format!("id,x\n{rows}")
}

#[test]
fn hosts_upload_results_also_when_nobody_watches() {
    let Some(stack) = Stack::new("hosts_upload_results_also_when_nobody_watches", "2") else { return };
    let server = Server::start_at(stack.lab.own_address());
    let bucket = server.bucket("data");
    bucket.put("in.csv", rows().as_bytes());
    let run = |command: &str, args: &[&str]| {
        let mut words = stack.command(command, args);
        server.apply_to(&mut words);
        Program::start_command(command, &stack.path(""), words)
    };
    stack.up(&[]);
    let words = [
        "--input",
        "s3://data/in.csv",
        "--model",
        "sleep:2000",
        "--workers",
        "2",
        "--upload",
        "s3://data/out",
        "--format",
        "zst",
    ];
    // After those of the check, the sender's first request.
    let reading = server.on(Fault::new(Effect::Pause(Point::Arrived)).method("GET").from(3));
    let mut job = run("run-cluster", &words);
    reading.wait_in(&mut job, 1);
    job.signal("KILL");
    job.wait();
    reading.release();
    // The metrics host completes the objects by itself.
    eventually("the results", || bucket.get("out/results.json"));
    let said = run("run-cluster", &["--attach"]).success();
    assert!(
        said.contains("uploaded   s3://data/out/results.log.zst, with rejects and results.json"),
        "{said}"
    );
    let results = stack.results();
    let zst = bucket.get("out/results.log.zst").unwrap();
    assert!(unpacked(&stack, &zst) == results);
    assert_eq!(server.open_uploads(), 0);
    // No host has what the user's machine has.
    let secret = &server.environment()[2].1;
    let found = stack.lab.values("name").iter().any(|name| {
        let home = stack.lab.folder().join(name).join("home");
        let grep = std::process::Command::new("grep").args(["-r", "-l", secret]).arg(home).output().unwrap();
        !grep.stdout.is_empty()
    });
    assert!(!found);
    // An unfinished job: down aborts its uploads.
    let paused =
        server.on(Fault::new(Effect::Pause(Point::Arrived)).method("POST").with("uploadId=").times(1));
    let mut job = run("run-cluster", &words);
    paused.wait_in(&mut job, 1);
    job.signal("INT");
    job.exit(130);
    paused.release();
    eventually("the last completion", || (server.open_uploads() <= 2).then_some(()));
    assert!(server.open_uploads() > 0);
    run("down", &["--discard-results"]).success();
    assert_eq!(server.open_uploads(), 0);
    let said = run("get-results", &["--output", stack.path("out").to_str().unwrap()]).exit(3);
    assert!(said.contains("the 20,000 rows of the job that ended at "), "{said}");
    assert!(said.contains("the results that were fetched for the job of "), "{said}");
}

fn unpacked(stack: &Stack, zst: &[u8]) -> Vec<u8> {
    let (packed, plain) = (stack.path("packed.zst"), stack.path("plain"));
    std::fs::write(&packed, zst).unwrap();
    let script = "import sys, zstandard; zstandard.ZstdDecompressor().copy_stream(open(sys.argv[1], 'rb'), open(sys.argv[2], 'wb'))";
    let python =
        std::process::Command::new(tests::python()).args(["-c", script]).args([&packed, &plain]).status();
    assert!(python.unwrap().success());
    std::fs::read(plain).unwrap()
}
