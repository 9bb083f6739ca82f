//! Peers that have shown the token, and then lie: the other side accepts nothing, ends the connection or the job, and says
//! why.

use std::io::Write;
use std::net::TcpStream;

use protocol::frame::{self, DEFAULT_LIMIT, FrameReader, PEER_LIMIT};
use protocol::handshake::{
    self, ControlHello, ControlMessage, DataHello, Member, ResultsHello, SenderHello, SourceAnswer,
};
use protocol::results::{self, Identity, ResultBatch, Totals, Welcome};
use protocol::token::Token;
use tempfile::TempDir;
use tests::program::Program;

use super::{Setup, TOKEN, noise};

fn token() -> Token {
    Token::new(TOKEN)
}

/// A receiver that waits for its first cluster.
fn receiver() -> (TempDir, Program, String) {
    let folder = tempfile::tempdir().unwrap();
    let (token_file, log) = (folder.path().join("token"), folder.path().join("results.log"));
    token().save(&token_file).unwrap();
    let args = ["--listen", "127.0.0.1:0", "--output", log.to_str().unwrap(), "--token-file"];
    let args = args.into_iter().chain([token_file.to_str().unwrap()]);
    let mut receiver = Program::start_server("receiver", folder.path(), args);
    let address = receiver.address("results");
    (folder, receiver, address)
}

/// Connects to the receiver; returns the connection and its generation, or the refusal.
fn admit(address: &str, hello: &ResultsHello) -> anyhow::Result<(TcpStream, u64)> {
    let stream = TcpStream::connect(address).unwrap();
    handshake::send(&stream, Some(&token()), hello).unwrap();
    let mut reader = FrameReader::new(stream.try_clone().unwrap(), "the receiver", DEFAULT_LIMIT);
    let Welcome { generation, .. } = handshake::await_answer(&mut reader, tests::PATIENCE)?;
    Ok((stream, generation))
}

fn initializer() -> ResultsHello {
    ResultsHello::Initializer { name: "i".into() }
}

fn worker(generation: u64) -> ResultsHello {
    ResultsHello::Worker { name: "w".into(), generation }
}

fn batch(number: u64, first_row: u64) -> ResultBatch<&'static [u8]> {
    ResultBatch { number, first_row, rows: 1, results: b"0,a\n", ..ResultBatch::default() }
}

const IDENTITY: Identity = Identity { settings: 1, header: 2 };

/// Waits until the other side has closed the connection.
fn await_close(stream: TcpStream) {
    let mut reader = FrameReader::new(stream, "it", PEER_LIMIT);
    // Messages, or a reset, may come before.
    while let Ok(Some(_)) = reader.next_frame_within(tests::PATIENCE) {}
}

/// The bytes of a member's messages.
fn encode(say: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    say(&mut bytes);
    bytes
}

#[test]
fn a_lie_about_batches_or_totals_fails_the_job() {
    let write = |out: &mut Vec<u8>, batches: &[_]| results::write_batches(out, batches).unwrap();
    let totals = |out: &mut Vec<u8>, rows, batches| {
        results::write_totals(out, &Totals { rows, batches }).unwrap();
    };
    let lies = [
        (
            encode(|out| write(out, &[batch(1 << 40, 0)])),
            "came while batch 0 was next; no window is that long",
        ),
        (encode(|out| write(out, &[batch(0, 7)])), "batch 0 begins with row 7, but row 0 is next"),
        (
            encode(|out| {
                totals(out, 5, 5);
                totals(out, 6, 5);
            }),
            "the totals are 6 rows in 5 batches now, but were 5 rows in 5 batches before",
        ),
        (
            encode(|out| {
                write(out, &[batch(0, 0), batch(1, 1)]);
                totals(out, 1, 1);
            }),
            "rows were lost or made up",
        ),
        (
            encode(|out| {
                let schemas = [
                    br#"[{"row":0,"schema":{"columns":[["A",["text"]]]}}]"#,
                    br#"[{"row":0,"schema":{"columns":[["B",["text"]]]}}]"#,
                ];
                write(out, &[ResultBatch { schema: schemas[0], ..batch(0, 0) }]);
                write(out, &[ResultBatch { schema: schemas[1], ..batch(1, 1) }]);
            }),
            "the results of rows 1 to 1 do not fit those before: they have the columns B",
        ),
        (
            encode(|out| write(out, &[ResultBatch { rejected: 1, ..batch(0, 0) }])),
            "batch 0 says that it has 1 rejects, but has 0",
        ),
        (
            encode(|out| results::write_identity(out, &Identity { settings: 1, header: 3 }, None).unwrap()),
            "of another job",
        ),
    ];
    for (lie, why) in lies {
        let (folder, mut receiver, address) = receiver();
        let (mut stream, _) = admit(&address, &initializer()).unwrap();
        results::write_identity(&stream, &IDENTITY, None).unwrap();
        stream.write_all(&lie).unwrap();
        await_close(stream);
        let said = receiver.failure();
        assert!(said.contains(why), "{why}: {said}");
        assert!(!folder.path().join("results.json").exists(), "{why}: the job is not done");
    }
}

#[test]
fn a_malformed_message_ends_only_its_connection() {
    let (folder, mut receiver, address) = receiver();
    let totals = encode(|out| results::write_totals(out, &Totals { rows: 0, batches: 0 }).unwrap());
    let mut cut = encode(|out| results::write_batches(out, &[batch(0, 0)]).unwrap());
    // The results claim to be longer than they are.
    cut[4 + 33..4 + 37].copy_from_slice(&[0xff; 4]);
    let in_a_frame = encode(|out| frame::push(out, &noise(1000)));
    let lies = [
        (u32::MAX.to_be_bytes().to_vec(), "announced a frame of 4294967295 bytes"),
        (noise(1000), "announced a frame of"),
        (in_a_frame, "a payload of an unknown kind"),
        (cut, "batch 0 is shorter than it says"),
        (totals, "totals from a process that is not the initializer"),
    ];
    let (replaced, before) = admit(&address, &initializer()).unwrap();
    let (honest, generation) = admit(&address, &initializer()).unwrap();
    await_close(replaced);
    for (lie, why) in lies {
        let (mut stream, _) = admit(&address, &worker(generation)).unwrap();
        stream.write_all(&lie).unwrap();
        await_close(stream);
        receiver.await_output(why);
    }
    // An announced length allocates no memory before the bytes arrive.
    let mut announcing: Vec<_> = (0..20).map(|_| admit(&address, &worker(generation)).unwrap().0).collect();
    for stream in &mut announcing {
        stream.write_all(&(PEER_LIMIT as u32).to_be_bytes()).unwrap();
        stream.write_all(b"\x01and no more").unwrap();
    }
    let refused = |hello: &ResultsHello| format!("{:#}", admit(&address, hello).unwrap_err());
    let said = refused(&worker(before));
    let over = format!("generation {before} of the cluster is over; generation {generation} is running");
    assert!(said.contains(&over), "{said}");
    let said = refused(&worker(u64::MAX));
    assert!(said.contains(&format!("the cluster has no generation {}", u64::MAX)), "{said}");
    let (memory, _) = tests::memory_kib(receiver.pid()).unwrap();
    assert!(memory < 64 << 10, "the receiver holds {memory} KiB");
    drop(announcing);
    // The job still succeeds.
    results::write_identity(&honest, &IDENTITY, None).unwrap();
    results::write_batches(&honest, &[batch(0, 0)]).unwrap();
    results::write_totals(&honest, &Totals { rows: 1, batches: 1 }).unwrap();
    await_close(honest);
    receiver.success();
    assert_eq!(std::fs::read(folder.path().join("results.log")).unwrap(), b"0,a\n");
}

#[test]
fn a_lying_sender_ends_only_its_connection() {
    let mut cluster = Setup { token: Some(TOKEN.into()), ..Setup::default() }.start();
    let header = encode(|out| frame::push(out, b"ID"));
    let lies = [
        (u32::MAX.to_be_bytes().to_vec(), "announced a frame of 4294967295 bytes"),
        (encode(|out| frame::push(out, &noise(1000))), "the CSV's header is not UTF-8"),
        (encode(|out| frame::push(out, b"\x05{}")), "the CSV's header starts with a control character"),
        ([&header[..], &u32::MAX.to_be_bytes()].concat(), "announced a frame of 4294967295 bytes"),
    ];
    for (lie, why) in lies {
        let mut stream = TcpStream::connect(&cluster.rows).unwrap();
        let me = stream.local_addr().unwrap();
        handshake::send(&stream, Some(&token()), &SenderHello::default()).unwrap();
        let mut reader = FrameReader::new(stream.try_clone().unwrap(), "the source", DEFAULT_LIMIT);
        let next: SourceAnswer = handshake::await_answer(&mut reader, tests::PATIENCE).unwrap();
        assert_eq!(next, SourceAnswer::NextRow(0));
        stream.write_all(&lie).unwrap();
        await_close(stream);
        let said = format!("rows from {me}: ");
        cluster.classifiers[0].await_output(&said);
        let output = cluster.classifiers[0].output();
        assert!(output.lines().any(|line| line.contains(&said) && line.contains(why)), "{why}: {output}");
    }
    cluster.sender(["--lines", "1000"]).success();
    assert_eq!(cluster.results().summary.rows, 1000);
}

/// A cluster of two processes; the test acts as the second member.
struct FakeMember {
    folder: TempDir,
    _receiver: Program,
    initializer: Program,
    control: TcpStream,
    generation: u64,
}

impl FakeMember {
    /// Starts the initializer, joins it, and waits until the cluster forms.
    fn join() -> Self {
        let (folder, receiver, out) = receiver();
        let token_file = folder.path().join("token").display().to_string();
        let args =
            ["--cluster-initializer", "--in", "127.0.0.1:0", "--control", "127.0.0.1:0", "--out", &out];
        let more = ["--worker-count", "2", "--token-file", &token_file];
        let mut initializer =
            Program::start_server("classifier", folder.path(), args.into_iter().chain(more));
        let control = TcpStream::connect(initializer.address("control")).unwrap();
        let program = std::fs::read(tests::program_path("classifier")).unwrap();
        let member = Member {
            name: "liar".into(),
            data: "127.0.0.1:1".into(),
            workers: 1,
            build: protocol::hash::short_hex(&program),
            settings: "--model Native --chunk-size 100 --slowness 10".into(),
        };
        handshake::send(&control, Some(&token()), &ControlHello::Join(member)).unwrap();
        let mut reader = FrameReader::new(control.try_clone().unwrap(), "the initializer", DEFAULT_LIMIT);
        let generation = loop {
            match handshake::await_answer(&mut reader, tests::PATIENCE).unwrap() {
                ControlMessage::Form { generation, .. } => break generation,
                other => assert_eq!(other, ControlMessage::Heartbeat),
            }
        };
        let beating = control.try_clone().unwrap();
        std::thread::spawn(move || {
            while handshake::send_json(&beating, &ControlMessage::Heartbeat).is_ok() {
                std::thread::sleep(std::time::Duration::from_millis(500));
            }
        });
        Self { folder, _receiver: receiver, initializer, control, generation }
    }

    /// Makes a data connection.
    fn connect(&mut self, generation: u64, process: usize) -> anyhow::Result<TcpStream> {
        let stream = TcpStream::connect(self.initializer.address("data")).unwrap();
        handshake::send(&stream, Some(&token()), &DataHello { generation, process }).unwrap();
        let mut reader = FrameReader::new(stream.try_clone().unwrap(), "it", DEFAULT_LIMIT);
        let accepted: serde_json::Value = handshake::await_answer(&mut reader, tests::PATIENCE)?;
        assert_eq!(accepted, serde_json::json!({"accepted": true}));
        Ok(stream)
    }
}

#[test]
fn a_member_that_lies_on_its_control_connection_ends_the_cluster() {
    let lies = [
        (u32::MAX.to_be_bytes().to_vec(), "announced a frame of 4294967295 bytes"),
        (encode(|out| frame::push(out, &noise(100))), "parsing the answer of"),
        (encode(|out| frame::push(out, b"\"start\"")), "an unexpected message: Start"),
    ];
    for (lie, why) in lies {
        let mut member = FakeMember::join();
        let _data = member.connect(member.generation, 1).unwrap();
        member.control.write_all(&lie).unwrap();
        let said = member.initializer.failure();
        assert!(said.contains(why), "{why}: {said}");
    }
}

#[test]
fn a_member_that_lies_on_its_data_connection_ends_the_cluster() {
    // Timely's own protocol: channel, source, targets from and to, length, number.
    let head = |fields: [u64; 6]| fields.map(u64::to_be_bytes).concat();
    let nobody = [head([0, 1, 7, 8, 8, 0]), noise(8)].concat();
    let no_end = [head([0, 1, 0, 1, 0, 0]), noise(100)].concat();
    // Timely keeps messages for a channel that may still be created, and waits for the end of an incomplete message. That
    // ends when the member is gone.
    let no_channel = [head([u64::MAX, 1, 0, 1, 8, 0]), noise(8), head([0, 1, 0, 1, 1 << 60, 1])].concat();
    for (lie, goes, why) in [
        (nobody, false, "index out of bounds"),
        (no_end, false, "Clean shutdown followed by data"),
        (no_channel, true, "lost another process of the cluster"),
    ] {
        let mut member = FakeMember::join();
        let mut data = member.connect(member.generation, 1).unwrap();
        frame::write(&member.control, b"\"formed\"").unwrap();
        member.initializer.await_output("rows come in at");
        data.write_all(&lie).unwrap();
        // Otherwise the connection stays open.
        let _data = (!goes).then_some(data);
        let said = member.initializer.failure();
        assert!(said.contains(why), "{why}: {said}");
        assert!(!member.folder.path().join("results.json").exists(), "{why}: {said}");
    }
}

#[test]
fn a_data_connection_is_accepted_once_and_only_for_its_process() {
    let mut member = FakeMember::join();
    let generation = member.generation;
    for (generation, process, why) in [
        (generation + 1, 1, "it belongs to generation"),
        (generation, 0, "no connection is due from it"),
        (generation, usize::MAX, "no connection is due from it"),
    ] {
        let said = member.connect(generation, process).unwrap_err().to_string();
        assert!(said.contains(why), "{said}");
    }
    let _first = member.connect(generation, 1).unwrap();
    let said = member.connect(generation, 1).unwrap_err().to_string();
    assert!(said.contains("process 1 is connected already"), "{said}");
}
