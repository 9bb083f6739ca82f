//! A restarted receiver continues its job, and refuses any other.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use protocol::frame::{DEFAULT_LIMIT, FrameReader};
use protocol::handshake::{self, ResultsHello};
use protocol::results::{self, FromReceiver, Identity, Outcome, ResultBatch, Totals, Welcome};
use tests::cluster::{Setup, read_results};
use tests::program::Program;
use tests::{PATIENCE, eventually, send_frames};

fn receiver(folder: &Path) -> Program {
    let log = folder.join("results.log");
    Program::start_server("receiver", folder, ["--listen", "127.0.0.1:0", "--output", log.to_str().unwrap()])
}

fn classifier(folder: &Path, receiver: &mut Program, args: &[&str]) -> Program {
    let out = receiver.address("results");
    let own = ["--cluster-initializer", "--in", "127.0.0.1:0", "--control", "127.0.0.1:0", "--out", &out];
    Program::start_server("classifier", folder, own.iter().chain(args))
}

#[test]
fn a_restarted_receiver_continues_its_job_and_refuses_another() {
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
    // Another receiver does not touch the files while this one has locked them.
    let args = ["--listen", "127.0.0.1:0", "--output", path.join("results.log").to_str().unwrap()]
        .map(str::to_owned);
    let said = Program::start("receiver", path, &args).failure();
    assert!(said.contains("another receiver is writing these results"), "{said}");
    first.signal("KILL");
    first.wait();
    cluster.failure();
    drop(sender);

    let mut second = receiver(path);
    let mut other = classifier(path, &mut second, &["--slowness", "2", "--chunk-size", "10"]);
    let said = other.failure();
    assert!(said.contains("has results of a job with other settings than these"), "{said}");
    let mut cluster = classifier(path, &mut second, &["--slowness", "1", "--chunk-size", "10"]);
    let rows = cluster.address("rows");
    std::fs::write(path.join("other.csv"), format!("KEY,TITLE\n{}", "1,a\n".repeat(200))).unwrap();
    let said =
        Program::start("sender", path, [rows.as_str(), path.join("other.csv").to_str().unwrap()]).failure();
    assert!(said.contains("but rows with another header are durable already"), "{said}");
    frames.extend([&b"2,b"[..], b"\x04"]);
    let _sender = send_frames(&rows, &frames);
    cluster.success();
    second.success();
    let results = read_results(&path.join("results.log"));
    assert_eq!((results.summary.rows, results.log.split(|&b| b == b'\n').count()), (101, 102));
}

#[test]
fn a_closed_standard_error_does_not_end_the_receiver() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(tests::program_path("receiver"));
    let log = folder.path().join("results.log");
    command.args(["--listen", "127.0.0.1:0", "--output", log.to_str().unwrap(), "--ready-file"]);
    command.arg(folder.path().join("ready"));
    // The reader of its standard error is gone.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = command.stderr(writer).stdout(Stdio::null()).spawn().unwrap();
    let ready =
        eventually("the receiver", || process::ready::Ready::read(&folder.path().join("ready")).unwrap());
    let out = ready.addresses["results"].to_string();
    // It logs a line about this connection.
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
fn a_sender_that_waits_for_input_notices_that_the_job_has_failed() {
    let cluster = Setup::default().args(["--chunk-size", "1"]).start();
    let mut command = Command::new(tests::program_path("sender"));
    command.args([&cluster.rows, "-", "--patience", "1"]);
    let (input, mut pipe) = std::io::pipe().unwrap();
    let output = std::fs::File::create(cluster.path("sender.out")).unwrap();
    let mut sender = command.stdin(input).stderr(output).spawn().unwrap();
    std::io::Write::write_all(&mut pipe, b"A\n1\n").unwrap();
    eventually("the first row's result", || {
        let results = std::fs::read_to_string(cluster.path("results.log")).unwrap_or_default();
        results.starts_with("1,").then_some(())
    });
    assert!(sender.try_wait().unwrap().is_none(), "it waits for its input");
    cluster.classifiers[0].signal("KILL");
    let status = eventually("the sender to end", || sender.try_wait().unwrap());
    assert!(!status.success());
    // Its input stays open until here.
    drop(pipe);
}

/// A receiver that also writes an archive.
fn archiving_receiver(folder: &Path) -> Program {
    let path = |name| folder.join(name).display().to_string();
    let output = ["--output".to_owned(), path("results.log"), "--archive".to_owned(), path("results.tgz")];
    let args = ["--listen", "127.0.0.1:0"].map(str::to_owned);
    Program::start_server("receiver", folder, args.iter().chain(&output))
}

/// A process of a cluster from the receiver's view, controlled by a test.
struct Peer {
    stream: TcpStream,
    reader: FrameReader<TcpStream>,
    welcome: Welcome,
}

impl Peer {
    fn new(receiver: &mut Program, who: &ResultsHello) -> Self {
        let stream = net::connect("the receiver", &receiver.address("results"), PATIENCE).unwrap();
        handshake::send(&stream, None, who).unwrap();
        let mut reader = FrameReader::new(stream.try_clone().unwrap(), "the receiver", DEFAULT_LIMIT);
        let welcome = handshake::await_answer(&mut reader, PATIENCE).unwrap();
        Self { stream, reader, welcome }
    }

    fn initializer(receiver: &mut Program) -> Self {
        Self::new(receiver, &ResultsHello::Initializer { name: "initializer".into() })
    }

    /// Sends the job's identity, the totals of two batches, and the first batch.
    fn begin(&self) {
        results::write_identity(&self.stream, &Identity { settings: 1, header: 2 }, None).unwrap();
        results::write_totals(&self.stream, &Totals { rows: 2000, batches: 2 }).unwrap();
        self.send(0);
    }

    fn send(&self, number: u64) {
        let results = format!("{number}\n").repeat(1000).into_bytes();
        let batch =
            ResultBatch { number, first_row: number * 1000, rows: 1000, results, ..ResultBatch::default() };
        results::write_batches(&self.stream, &[batch]).unwrap();
    }

    /// Receives messages until `wanted` accepts one.
    fn recv<T>(&mut self, mut wanted: impl FnMut(FromReceiver) -> Option<T>) -> T {
        loop {
            let payload = self.reader.next_frame().unwrap().expect("the receiver sends the wanted message");
            if let Some(found) = wanted(FromReceiver::decode(payload).unwrap()) {
                return found;
            }
        }
    }

    fn recv_outcome(&mut self) -> Outcome {
        self.recv(|message| match message {
            FromReceiver::Outcome(outcome) => Some(outcome),
            FromReceiver::Acknowledgement(_) | FromReceiver::Noted => None,
        })
    }
}

/// Checks that the job's last receiver has left everything, and nothing to continue.
fn check_all_is_done(folder: &Path) {
    let results = read_results(&folder.join("results.log"));
    assert_eq!((results.summary.rows, results.log.len()), (2000, 4000));
    let mut unpack = Command::new("tar");
    unpack.args(["--extract", "--gzip", "--to-stdout", "--file"]).arg(folder.join("results.tgz"));
    let packed = unpack.output().unwrap();
    assert!(packed.status.success());
    let mut whole = results.log;
    whole.extend_from_slice(results.rejects.as_bytes());
    whole.extend_from_slice(&std::fs::read(folder.join("results.json")).unwrap());
    assert!(packed.stdout == whole, "the archive has other contents");
    let left = ["results.checkpoint", "results.tgz.part"].map(|name| folder.join(name).exists());
    assert_eq!(left, [false, false]);
    let said = archiving_receiver(folder).failure();
    assert!(said.contains("this job is finished"), "{said}");
}

#[test]
fn a_receiver_killed_before_it_sent_the_outcome_sends_it_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut first = archiving_receiver(path);
    let mut initializer = Peer::initializer(&mut first);
    initializer.begin();
    initializer
        .recv(|message| matches!(message, FromReceiver::Acknowledgement(a) if a.next == 1).then_some(()));
    let generation = initializer.welcome.generation;
    let worker = Peer::new(&mut first, &ResultsHello::Worker { name: "worker".into(), generation });
    // The initializer leaves. Once the receiver has closed the connection, it knows that there is no initializer.
    initializer.stream.shutdown(std::net::Shutdown::Write).unwrap();
    while initializer.reader.next_frame().unwrap().is_some() {}
    worker.send(1);
    eventually("the summary", || path.join("results.json").exists().then_some(()));
    first.signal("KILL");
    first.wait();
    assert!(!path.join("results.tgz").exists());

    let mut second = archiving_receiver(path);
    let mut initializer = Peer::initializer(&mut second);
    assert_eq!(initializer.welcome.next, 2);
    assert!(matches!(initializer.recv_outcome(), Outcome::Done(summary) if summary.rows == 2000));
    drop(initializer);
    second.success();
    check_all_is_done(path);
}

#[test]
fn a_receiver_killed_after_it_sent_the_outcome_only_packs_the_results() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut first = archiving_receiver(path);
    let mut initializer = Peer::initializer(&mut first);
    initializer.begin();
    initializer.send(1);
    assert!(matches!(initializer.recv_outcome(), Outcome::Done(_)));
    // It waits until the initializer leaves, and would then write the archive.
    eventually("the note that the outcome was sent", || {
        std::fs::read_to_string(path.join("results.checkpoint"))
            .unwrap()
            .contains("\"told\":true")
            .then_some(())
    });
    first.signal("KILL");
    first.wait();
    assert!(path.join("results.tgz.part").exists() && !path.join("results.tgz").exists());
    drop(initializer);

    archiving_receiver(path).success();
    check_all_is_done(path);
}

#[test]
fn an_archive_that_could_not_be_made_is_made_by_the_next_receiver() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::create_dir(path.join("results.tgz")).unwrap();
    let mut first = archiving_receiver(path);
    let mut initializer = Peer::initializer(&mut first);
    initializer.begin();
    initializer.send(1);
    initializer.recv_outcome();
    drop(initializer);
    let said = first.failure();
    assert!(said.contains("packing the results"), "{said}");
    std::fs::remove_dir(path.join("results.tgz")).unwrap();

    archiving_receiver(path).success();
    check_all_is_done(path);
}
