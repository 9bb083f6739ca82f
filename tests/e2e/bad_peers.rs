//! Peers that lie, disconnect, or do not belong to the cluster: an error names them, and the cluster stays up.

use std::io::{Read, Write};
use std::net::TcpStream;

use protocol::frame::{self, FrameReader};
use protocol::handshake::{self, ControlHello, DataHello, ResultsHello, SenderHello, SourceAnswer};
use protocol::token::Token;
use tests::cluster::{Cluster, Setup};
use tests::program::Program;
use tests::send_frames;

/// The patience of programs in tests of timeouts. Within it, even a busy machine must start a program, connect it, and
/// accept a row.
const PATIENCE_SECONDS: &str = "10";

/// Sends bytes to an address, and waits until the other side closes the connection.
fn send_raw(address: &str, bytes: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let me = stream.local_addr().unwrap().to_string();
    stream.write_all(bytes).unwrap();
    // Closing with unread bytes causes a reset, which counts as closed.
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    (me, answer)
}

/// Checks that the job still succeeds.
fn finishes(mut cluster: Cluster) {
    cluster.sender(["--lines", "1000"]).success();
    assert_eq!(cluster.results().summary.rows, 1000);
}

#[test]
fn a_frame_over_the_limit_is_refused_by_name() {
    let cluster = Setup::default().start();
    let (me, _) = send_raw(&cluster.rows, &[&[0, 0, 0, 1, b'A'][..], &u32::MAX.to_be_bytes()].concat());
    cluster.classifiers[0]
        .await_output(&format!("rows from {me}: {me} announced a frame of 4294967295 bytes"));
    finishes(cluster);
}

#[test]
fn a_stream_that_ends_inside_a_frame_is_an_error() {
    let cluster = Setup::default().start();
    let stream = TcpStream::connect(&cluster.rows).unwrap();
    let me = stream.local_addr().unwrap().to_string();
    (&stream).write_all(&[0, 0, 0, 41]).unwrap();
    (&stream).write_all(b"ID,SKU,FLUX,MANUFACTURER_NAME,DESCRIPTION\0\0\0\x09half").unwrap();
    drop(stream);
    cluster.classifiers[0].await_output(&format!(
        "rows from {me}: the connection to {me} ended inside a frame, 5 bytes before its end"
    ));
    finishes(cluster);
}

#[test]
fn peers_without_the_token_are_refused_at_every_port() {
    let mut cluster = Setup { processes: 2, token: Some("the secret".into()), ..Setup::default() }.start();
    let control = cluster.classifiers[0].address("control");
    let receiver = cluster.receiver.address("results");
    let wrong = Token::new("another secret");
    let refused = |address: &str, send: &dyn Fn(&TcpStream)| {
        let stream = TcpStream::connect(address).unwrap();
        send(&stream);
        let mut reader = FrameReader::new(stream, "the port", 1 << 16);
        let payload = reader.next_frame().unwrap().expect("a reason");
        let error = handshake::answer::<serde_json::Value>(&payload, "the port").unwrap_err().to_string();
        assert_eq!(error, "the port refused the connection: the token is missing or wrong");
    };
    for token in [None, Some(&wrong)] {
        refused(&cluster.rows, &|s| handshake::send(s, token, &SenderHello::default()).unwrap());
        refused(&receiver, &|s| handshake::send(s, token, &ResultsHello::Observer {}).unwrap());
        let worker = ResultsHello::Worker { name: "me".into(), generation: u64::MAX };
        refused(&receiver, &|s| handshake::send(s, token, &worker).unwrap());
        refused(&control, &|s| handshake::send(s, token, &ControlHello::Shutdown {}).unwrap());
    }
    let data = cluster.classifiers[0].address("data");
    for token in [None, Some(&wrong)] {
        refused(&data, &|s| handshake::send(s, token, &DataHello { generation: 1, process: 1 }).unwrap());
        let member = protocol::handshake::Member {
            name: "me".into(),
            data: "127.0.0.1:1".into(),
            workers: 1,
            build: "x".into(),
            settings: "y".into(),
        };
        refused(&control, &|s| handshake::send(s, token, &ControlHello::Join(member.clone())).unwrap());
    }
    // Plain clients cannot show a token.
    let (me, answer) = send_raw(&cluster.rows, &[0, 0, 0, 1, b'A', 0, 0, 0, 1, 4]);
    assert_eq!(answer, b"");
    cluster.classifiers[0].await_output(&format!("rows from {me}: refused, since it sent no token"));
    let (me, _) = send_raw(&receiver, &[0, 0, 0, 1, b'A']);
    cluster.receiver.await_output(&format!("{me}: refused, since it sent no token"));
    finishes(cluster);
}

#[test]
fn a_second_sender_is_refused_while_one_is_sending() {
    let mut cluster = Setup::default().args(["--chunk-size", "1", "--slowness", "0"]).start();
    let mut first = TcpStream::connect(&cluster.rows).unwrap();
    handshake::send(&first, None, &SenderHello::default()).unwrap();
    let mut answers = FrameReader::new(first.try_clone().unwrap(), "the source", 1 << 16);
    let next: SourceAnswer = handshake::answer(&answers.next_frame().unwrap().unwrap(), "it").unwrap();
    assert_eq!(next, SourceAnswer::NextRow(0));
    // The first sender has ten seconds for its header.
    let said = cluster.sender(["--lines", "5", "--patience", "5"]).failure();
    assert!(said.contains("another sender is sending"), "{said}");
    let mut rows = Vec::new();
    for payload in [&b"ID"[..], b"0", b"1", b"\x04"] {
        frame::push(&mut rows, payload);
    }
    first.write_all(&rows).unwrap();
    let done = loop {
        match handshake::answer(&answers.next_frame().unwrap().unwrap(), "it").unwrap() {
            // These come each second until the job is done.
            SourceAnswer::Waiting | SourceAnswer::Durable(_) => {}
            answer => break answer,
        }
    };
    assert_eq!(done, SourceAnswer::Done(2));
    assert_eq!(cluster.results().summary.rows, 2);
}

#[test]
fn a_returning_sender_takes_over_from_its_old_connection() {
    let mut cluster = Setup::default().args(["--chunk-size", "1", "--slowness", "0"]).start();
    let connect = |session: &str| {
        let stream = TcpStream::connect(&cluster.rows).unwrap();
        handshake::send(
            &stream,
            None,
            &SenderHello { session: Some(session.into()), ..SenderHello::default() },
        )
        .unwrap();
        let mut reader = FrameReader::new(stream.try_clone().unwrap(), "the source", 1 << 16);
        let answer: SourceAnswer = handshake::answer(&reader.next_frame().unwrap().unwrap(), "it").unwrap();
        (stream, reader, answer)
    };
    let (old, mut old_reader, answer) = connect("mine");
    assert_eq!(answer, SourceAnswer::NextRow(0));
    assert_eq!(connect("another").2, SourceAnswer::Busy);
    frame::write(&old, b"ID").unwrap();
    frame::write(&old, b"0").unwrap();
    tests::eventually("the first row", || {
        let log = std::fs::read(cluster.path("results.log")).ok()?;
        log.starts_with(b"0,").then_some(())
    });
    // For the source, the old connection is still alive.
    let (new, mut new_reader, answer) = connect("mine");
    assert_eq!(answer, SourceAnswer::NextRow(1));
    while let Ok(Some(_)) = old_reader.next_frame() {}
    for payload in [&b"ID"[..], b"1", b"2", b"\x04"] {
        frame::write(&new, payload).unwrap();
    }
    while handshake::answer::<SourceAnswer>(&new_reader.next_frame().unwrap().unwrap(), "it").unwrap()
        != SourceAnswer::Done(3)
    {}
    assert_eq!(cluster.results().summary.rows, 3);
}

#[test]
fn the_source_sends_signs_of_life_while_it_waits_for_rows() {
    let cluster = Setup::default().start();
    let stream = TcpStream::connect(&cluster.rows).unwrap();
    handshake::send(&stream, None, &SenderHello::default()).unwrap();
    let mut reader = FrameReader::new(stream.try_clone().unwrap(), "the source", 1 << 16);
    let mut next =
        || handshake::answer::<SourceAnswer>(&reader.next_frame().unwrap().unwrap(), "it").unwrap();
    assert_eq!(next(), SourceAnswer::NextRow(0));
    // It also sends them before rows arrive, and while rows wait for a slow model.
    assert_eq!(next(), SourceAnswer::Waiting);
    assert_eq!(next(), SourceAnswer::Waiting);
}

#[test]
fn a_silent_sender_is_given_up() {
    let mut cluster = Setup::default().args(["--patience", PATIENCE_SECONDS]).start();
    let stream = send_frames(&cluster.rows, &[b"ID", b"0"]);
    let me = stream.local_addr().unwrap();
    let said = cluster.classifiers[0].failure();
    assert!(
        said.contains(&format!("rows from {me}: no complete frame from {me} within {PATIENCE_SECONDS}s")),
        "{said}"
    );
    assert!(said.contains("waiting for a sender to come back"), "{said}");
}

#[test]
fn a_stopped_receiver_is_given_up_at_the_end() {
    let mut cluster = Setup::default().args(["--patience", PATIENCE_SECONDS]).start();
    cluster.receiver.signal("STOP");
    let _sender = send_frames(&cluster.rows, &[b"ID", b"\x04"]);
    let said = cluster.classifiers[0].failure();
    let wanted = format!("and for the receiver to finish the job: nothing for {PATIENCE_SECONDS}s");
    assert!(said.contains(&wanted), "{said}");
    cluster.receiver.signal("CONT");
}

#[test]
fn a_sender_that_lost_its_connection_at_the_end_is_told_the_outcome() {
    let mut cluster = Setup::default().args(["--classifier", "sleep:1000000", "--chunk-size", "1"]).start();
    let connect = |session: &str| {
        let stream = TcpStream::connect(&cluster.rows).unwrap();
        handshake::send(
            &stream,
            None,
            &SenderHello { session: Some(session.into()), ..SenderHello::default() },
        )
        .unwrap();
        stream
    };
    let first = connect("mine");
    for payload in [&b"ID"[..], b"0", b"1", b"2", b"\x04"] {
        frame::write(&first, payload).unwrap();
    }
    cluster.classifiers[0].await_output("all 3 rows are here");
    drop(first);
    // All rows have arrived, so another sender is refused.
    let said = cluster.sender(["--lines", "5"]).failure();
    assert!(said.contains("all rows of this job are here already, from another sender"), "{said}");
    let mut answers = FrameReader::new(connect("mine"), "the source", 1 << 16);
    while handshake::answer::<SourceAnswer>(&answers.next_frame().unwrap().unwrap(), "it").unwrap()
        != SourceAnswer::Done(3)
    {}
    assert_eq!(cluster.results().summary.rows, 3);
}

#[test]
fn a_sender_with_another_header_is_refused() {
    let cluster = Setup::default().args(["--chunk-size", "1", "--slowness", "0"]).start();
    drop(send_frames(&cluster.rows, &[b"ID", b"0"]));
    cluster.classifiers[0].await_output("the connection ended without the end of the rows");
    let said = cluster.sender(["--lines", "5"]).failure();
    assert!(said.contains("but the rows before had \"ID\""), "{said}");
}

#[test]
fn a_process_with_other_settings_cannot_join() {
    let folder = tempfile::tempdir().unwrap();
    let args =
        ["--cluster-initializer", "--in", "127.0.0.1:0", "--control", "127.0.0.1:0", "--worker-count", "2"];
    let mut initializer = Program::start_server("classifier", folder.path(), args);
    let control = initializer.address("control");
    let join = |more: &[&str]| {
        let args = ["--control", &control, "--worker-count", "2"];
        Program::start("classifier", folder.path(), args.iter().chain(more)).failure()
    };
    let said = join(&["--slowness", "11"]);
    assert!(said.contains("its settings are --model Native --chunk-size 100 --slowness 11"), "{said}");
    let said = join(&["--workers", "3"]);
    assert!(said.contains("it has 3 workers, but the initializer has 1"), "{said}");
    let said = join(&["--name", "initializer"]);
    assert!(said.contains("there is a process named initializer already"), "{said}");
    assert!(initializer.is_running());
}

#[test]
fn a_process_that_dies_before_the_cluster_is_complete_makes_room_for_its_successor() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("results.log");
    let args = ["--listen", "127.0.0.1:0", "--output", log.to_str().unwrap()];
    let mut receiver = Program::start_server("receiver", folder.path(), args);
    let out = receiver.address("results");
    let args = ["--cluster-initializer", "--in", "127.0.0.1:0", "--control", "127.0.0.1:0", "--out", &out];
    let count = ["--worker-count", "3"];
    let mut initializer = Program::start_server("classifier", folder.path(), args.iter().chain(&count));
    let control = initializer.address("control");
    let join = |name: &str| {
        let args = ["--control", &control, "--worker-count", "3", "--name", name, "--out", &out];
        Program::start("classifier", folder.path(), args)
    };
    let mut first = join("w1");
    tests::eventually("a process to join", || (tests::connections(&control) > 0).then_some(()));
    first.signal("KILL");
    first.wait();
    let mut others = [join("w1"), join("w2")];
    let rows = initializer.address("rows");
    Program::start("sender", folder.path(), [rows.as_str(), "--lines", "10"]).success();
    initializer.success();
    others.iter_mut().for_each(|other| drop(other.success()));
    receiver.success();
}

#[test]
fn an_incomplete_cluster_names_the_processes_that_joined() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["--cluster-initializer", "--in", "127.0.0.1:0", "--control", "127.0.0.1:0"];
    let more = ["--worker-count", "3", "--join-patience", "5"];
    let mut initializer = Program::start_server("classifier", folder.path(), args.iter().chain(&more));
    let control = initializer.address("control");
    let args = ["--control", &control, "--worker-count", "3", "--name", "w1"];
    let mut member = Program::start("classifier", folder.path(), args);
    let said = initializer.failure();
    assert!(
        said.contains("waiting for 3 processes to join: after 5s there are 2: initializer, w1"),
        "{said}"
    );
    member.failure();
}

#[test]
fn foreign_connections_at_the_data_port_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let mut receiver = {
        let log = folder.path().join("results.log");
        let args = ["--listen", "127.0.0.1:0", "--output", log.to_str().unwrap()];
        Program::start_server("receiver", folder.path(), args)
    };
    let out = receiver.address("results");
    let args = ["--cluster-initializer", "--in", "127.0.0.1:0", "--control", "127.0.0.1:0"];
    let more = ["--worker-count", "2", "--out", &out];
    let mut initializer = Program::start_server("classifier", folder.path(), args.iter().chain(&more));
    let (control, data) = (initializer.address("control"), initializer.address("data"));
    // Before the cluster forms, the port accepts connections, but does not answer them yet.
    let mut early = TcpStream::connect(&data).unwrap();
    early.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let forged = TcpStream::connect(&data).unwrap();
    handshake::send(&forged, None, &DataHello { generation: 1, process: 1 }).unwrap();
    let args = ["--control", &control, "--worker-count", "2", "--out", &out];
    let mut member = Program::start_server("classifier", folder.path(), args);
    let rows = initializer.address("rows");
    initializer.await_output("at the data port: it belongs to generation 1");
    Program::start("sender", folder.path(), [rows.as_str(), "--lines", "1000"]).success();
    initializer.success();
    member.success();
    receiver.success();
}

#[test]
fn a_process_that_dies_takes_the_others_with_it() {
    let mut cluster = Setup { processes: 3, ..Setup::default() }.args(["--classifier", "sleep:1000"]).start();
    let _sender = cluster.sender(["--lines", "1000000"]);
    tests::eventually("the first results", || {
        let log = std::fs::metadata(cluster.path("results.log")).ok()?;
        (log.len() > 0).then_some(())
    });
    cluster.classifiers[1].signal("KILL");
    let start = std::time::Instant::now();
    for classifier in &mut cluster.classifiers {
        classifier.failure();
    }
    assert!(start.elapsed().as_secs() < 5, "the others ended after {:?}", start.elapsed());
}

#[test]
fn the_control_port_accepts_a_shutdown() {
    let mut cluster = Setup { processes: 2, ..Setup::default() }.start();
    let control = TcpStream::connect(cluster.classifiers[0].address("control")).unwrap();
    handshake::send(&control, None, &ControlHello::Shutdown {}).unwrap();
    for classifier in &mut cluster.classifiers {
        let said = classifier.failure();
        assert!(said.contains("shut down"), "{said}");
    }
}

#[test]
fn a_job_fails_if_no_sender_connects_in_time() {
    let mut cluster = Setup::default().args(["--patience", PATIENCE_SECONDS]).start();
    let said = cluster.classifiers[0].failure();
    let wanted =
        format!("waiting for a sender to connect: nothing for {PATIENCE_SECONDS}s, so the job fails");
    assert!(said.contains(&wanted), "{said}");
    // Nothing listens at port 1. A port that was released could be in use by another program.
    let folder = tempfile::tempdir().unwrap();
    let args = ["127.0.0.1:1", "--lines", "1", "--patience", PATIENCE_SECONDS];
    let said = Program::start("sender", folder.path(), args).failure();
    assert!(said.contains("connecting to the source at 127.0.0.1:1: no success within"), "{said}");
}

#[test]
fn silent_peers_keep_no_others_out() {
    let mut cluster = Setup { processes: 2, token: Some("the secret".into()), ..Setup::default() }.start();
    let ports = [
        cluster.rows.clone(),
        cluster.receiver.address("results"),
        cluster.classifiers[0].address("control"),
    ];
    let crowd = |port: &String| (0..400).map(|_| TcpStream::connect(port).unwrap()).collect::<Vec<_>>();
    let crowds: Vec<_> = ports.iter().map(crowd).collect();
    cluster.receiver.await_output("it was silent, and 100 others that have come since need the room");
    finishes(cluster);
    drop(crowds);
}
