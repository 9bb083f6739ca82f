//! Clients of 2018, which use frames only.

use std::process::Command;

use tests::cluster::Setup;
use tests::program::Program;
use tests::send_frames;

#[test]
fn ten_lines_of_python_can_feed_the_cluster() {
    let mut cluster = Setup::default().start();
    let csv = Program::start("sender", cluster.folder.path(), ["--stdout", "--lines", "1234"]).success();
    std::fs::write(cluster.path("rows.csv"), csv).unwrap();
    let mut client = Command::new("python3");
    client
        .arg(tests::root().join("tests/python/plain_client.py"))
        .arg(&cluster.rows)
        .arg(cluster.path("rows.csv"));
    Program::start_command("client", cluster.folder.path(), client).success();
    let results = cluster.results();
    assert_eq!(results.summary.rows, 1234);
    assert!(results.log == Setup::default().run(["--lines", "1234"]).log);
}

#[test]
fn a_client_that_starts_over_does_not_send_rows_twice() {
    let mut cluster = Setup::default().args(["--chunk-size", "2", "--slowness", "0"]).start();
    drop(send_frames(&cluster.rows, &[b"ID", b"0", b"1", b"2", b"3", b"4"]));
    cluster.classifiers[0].await_output("the connection ended without the end of the rows");
    drop(send_frames(&cluster.rows, &[b"ID", b"0", b"1", b"2", b"3", b"4", b"5", b"\x04"]));
    let results = cluster.results();
    let ids: Vec<_> = std::str::from_utf8(&results.log).unwrap().lines().map(|l| &l[..1]).collect();
    assert_eq!(ids, ["0", "1", "2", "3", "4", "5"]);
    assert!(cluster.classifiers[0].output().contains("4 rows are here, waiting for the rest"));
}

#[test]
fn the_receiver_writes_a_line_for_each_frame() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("plain.log");
    let args = ["--framed", "--listen", "127.0.0.1:0", "--output", log.to_str().unwrap()];
    let mut receiver = Program::start_server("receiver", folder.path(), args);
    let address = receiver.address("results");
    drop(send_frames(&address, &[b"one", b"", b"two,2"]));
    tests::eventually("the lines", || (std::fs::read(&log).ok()? == b"one\n\ntwo,2\n").then_some(()));
    drop(send_frames(&address, &[b"three"]));
    tests::eventually("the fourth line", || {
        (std::fs::read(&log).ok()? == b"one\n\ntwo,2\nthree\n").then_some(())
    });
    receiver.signal("TERM");
    receiver.success();
}

#[test]
fn the_receiver_keeps_the_frames_before_an_incomplete_one() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("plain.log");
    let args = ["--listen", "127.0.0.1:0", "--output", log.to_str().unwrap()];
    let mut receiver = Program::start_server("receiver", folder.path(), args);
    let mut client = send_frames(&receiver.address("results"), &[b"A", b"B", b"C"]);
    std::io::Write::write_all(&mut client, &[0, 0, 0, 9, b'h', b'a']).unwrap();
    drop(client);
    receiver.await_output("ended inside a frame");
    receiver.signal("TERM");
    receiver.success();
    assert_eq!(std::fs::read(&log).unwrap(), b"A\nB\nC\n");
}

#[test]
fn the_receiver_without_an_output_writes_to_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    let mut receiver = Program::start_server("receiver", folder.path(), ["--listen", "127.0.0.1:0"]);
    drop(send_frames(&receiver.address("results"), &[b"seen"]));
    receiver.await_output("seen\n");
    receiver.signal("INT");
    receiver.success();
}
