//! A receiver that is started again goes on with its job, and with no other.

use std::process::{Command, Stdio};

use tests::cluster::{Setup, read_results};
use tests::program::Program;
use tests::{eventually, send_frames};

fn receiver(folder: &std::path::Path) -> Program {
    let log = folder.join("results.log");
    Program::start_server("receiver", folder, ["--listen", "127.0.0.1:0", "--output", log.to_str().unwrap()])
}

fn classifier(folder: &std::path::Path, receiver: &mut Program, args: &[&str]) -> Program {
    let out = receiver.address("results");
    let own = ["--cluster-initializer", "--in", "127.0.0.1:0", "--control", "127.0.0.1:0", "--out", &out];
    Program::start_server("classifier", folder, own.iter().chain(args))
}

#[test]
fn the_same_job_goes_on_and_another_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut first = receiver(path);
    let mut cluster = classifier(path, &mut first, &["--slowness", "1", "--chunk-size", "10"]);
    let mut frames = vec![&b"ID,NAME"[..]];
    frames.resize(101, b"1,a");
    let sender = send_frames(&cluster.address("rows"), &frames);
    let checkpoint = path.join("results.checkpoint");
    eventually("100 durable rows", || {
        std::fs::read_to_string(&checkpoint).ok()?.contains("\"next_row\":100,").then_some(())
    });
    // Another receiver does not touch the files while this one has them.
    let args = ["--listen", "127.0.0.1:0", "--output", path.join("results.log").to_str().unwrap()]
        .map(str::to_owned);
    let said = Program::start("receiver", path, &args).failure();
    assert!(said.contains("another receiver writes these results"), "{said}");
    first.signal("KILL");
    first.wait();
    cluster.failure();
    drop(sender);

    let mut second = receiver(path);
    let mut other = classifier(path, &mut second, &["--slowness", "2", "--chunk-size", "10"]);
    let said = other.failure();
    assert!(said.contains("goes on with results of a job that had other settings than these"), "{said}");
    let mut cluster = classifier(path, &mut second, &["--slowness", "1", "--chunk-size", "10"]);
    let rows = cluster.address("rows");
    std::fs::write(path.join("other.csv"), format!("KEY,TITLE\n{}", "1,a\n".repeat(200))).unwrap();
    let said =
        Program::start("sender", path, [rows.as_str(), path.join("other.csv").to_str().unwrap()]).failure();
    assert!(said.contains("rows with another header are durable already"), "{said}");
    frames.extend([&b"2,b"[..], b"\x04"]);
    let _sender = send_frames(&rows, &frames);
    cluster.success();
    second.success();
    let results = read_results(&path.join("results.log"));
    assert_eq!((results.summary.rows, results.log.split(|&b| b == b'\n').count()), (101, 102));
}

#[test]
fn talk_that_nobody_can_hear_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(tests::program_path("receiver"));
    let log = folder.path().join("results.log");
    command.args(["--listen", "127.0.0.1:0", "--output", log.to_str().unwrap(), "--ready-file"]);
    command.arg(folder.path().join("ready"));
    // Nobody reads what it says.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = command.stderr(writer).stdout(Stdio::null()).spawn().unwrap();
    let ready =
        eventually("the receiver", || wire::program::Ready::read(&folder.path().join("ready")).unwrap());
    let out = ready.addresses["results"].to_string();
    // It has something to say about this one.
    drop(send_frames(&out, &[b"\x05not an opening"]));
    let args = ["--cluster-initializer", "--in", "127.0.0.1:0", "--control", "127.0.0.1:0", "--out", &out];
    let mut cluster = Program::start_server("classifier", folder.path(), args);
    let rows = cluster.address("rows");
    Program::start("sender", folder.path(), [rows.as_str(), "--lines", "10"]).success();
    cluster.success();
    assert!(child.wait().unwrap().success());
}

#[test]
fn nohup_keeps_a_receiver_alive() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("nohup");
    command.arg(tests::program_path("receiver")).args(["--listen", "127.0.0.1:0"]);
    let mut receiver = Program::start_server_command("receiver", folder.path(), command);
    receiver.address("results");
    receiver.signal("HUP");
    receiver.signal("HUP");
    assert!(receiver.is_running());
    receiver.signal("TERM");
    receiver.success();
}

#[test]
fn a_sender_that_waits_for_its_input_hears_that_the_job_has_failed() {
    let cluster = Setup::default().start();
    let mut command = Command::new(tests::program_path("sender"));
    command.args([&cluster.rows, "-", "--patience", "1"]);
    let (input, mut pipe) = std::io::pipe().unwrap();
    let output = std::fs::File::create(cluster.path("sender.out")).unwrap();
    let mut sender = command.stdin(input).stderr(output).spawn().unwrap();
    std::io::Write::write_all(&mut pipe, b"A\n1\n").unwrap();
    eventually("the first row to be taken", || {
        let log = cluster.classifiers[0].output();
        let log = log + &std::fs::read_to_string(cluster.path("results.log")).unwrap_or_default();
        (!log.is_empty()).then_some(())
    });
    cluster.classifiers[0].signal("KILL");
    let status = eventually("the sender to end", || sender.try_wait().unwrap());
    assert!(!status.success());
    // Its input is open still.
    drop(pipe);
}
