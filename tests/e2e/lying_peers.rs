//! Peers that lie, at every listening port.
//!
//! Without the token they send random bytes, huge lengths, a byte a second or nothing, alone and in crowds. They get a
//! refusal or no answer, and are disconnected after the time limit for a handshake; the job is not affected. For peers with
//! the token see [`members`], and for peers whose host is gone see [`vanished`].

mod members;
mod vanished;

use std::collections::VecDeque;
use std::io::{self, PipeWriter, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use protocol::frame;
use protocol::handshake::{self, ControlHello, DataHello, HANDSHAKE_LIMIT, ResultsHello, SenderHello};
use protocol::token::Token;
use telemetry::report::{HubHello, Origin};
use tests::cluster::{Cluster, Setup};
use tests::http::get;
use tests::hub::HOST;
use tests::program::Program;
use tests::{PATIENCE, eventually, memory_kib};

const TOKEN: &str = "the secret";
/// The only answers that a peer without the token may get.
const REFUSALS: [&str; 2] =
    ["the token is missing or wrong", "the first frame is not a handshake of this protocol"];

/// A listening port, and its handshake.
struct Port {
    name: &'static str,
    address: String,
    /// The program that listens.
    pid: u32,
    handshake: Handshake,
}

type Handshake = fn(&TcpStream, &Token) -> anyhow::Result<()>;

/// All ports of a job.
fn ports(cluster: &mut Cluster) -> Vec<Port> {
    let port = |name, program: &mut Program, handshake: Handshake| Port {
        name,
        address: program.address(name),
        pid: program.pid(),
        handshake,
    };
    let Cluster { hub, receiver, classifiers, .. } = cluster;
    let (hub, initializer) = (hub.as_mut().unwrap(), &mut classifiers[0]);
    // Four programs, since the sender runs already.
    let page = hub.address("web");
    eventually("all programs to report", || {
        let machines = get(&page, "/api/v1/machines", HOST)?.json();
        (machines[0]["programs"].as_array()?.len() == 4).then_some(())
    });
    // The caller counts descriptors from here on, so no request for the page may still be open.
    eventually("all requests for the page to end", || (tests::connections(&page) == 0).then_some(()));
    vec![
        port("rows", initializer, |s, t| handshake::send(s, Some(t), &SenderHello::default())),
        port("results", receiver, |s, t| handshake::send(s, Some(t), &ResultsHello::Observer {})),
        port("control", initializer, |s, t| handshake::send(s, Some(t), &ControlHello::Shutdown {})),
        port("data", initializer, |s, t| {
            handshake::send(s, Some(t), &DataHello { generation: 1, process: 1 })
        }),
        port("metrics", hub, |s, t| {
            let origin = Origin { name: "sender".into(), machine: "elsewhere".into(), incarnation: u64::MAX };
            handshake::send(s, Some(t), &HubHello::Reporter(origin))
        }),
    ]
}

/// What a peer without the token sends; an error means that the other side has closed the connection.
type Lie = fn(&Port, &mut TcpStream) -> io::Result<()>;

const LIES: [(&str, Lie); 9] = [
    ("silence", |_, _| Ok(())),
    ("random bytes", |_, stream| stream.write_all(&noise(4096))),
    ("random bytes in a frame", |_, stream| frame::write(stream, &noise(1000))),
    ("random bytes in a handshake", |_, stream| frame::write(stream, &[b"\x05", &noise(1000)[..]].concat())),
    ("another protocol", |_, stream| stream.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")),
    ("a huge length", |_, stream| stream.write_all(&u32::MAX.to_be_bytes())),
    ("a length at the limit, and silence", |_, stream| {
        stream.write_all(&(HANDSHAKE_LIMIT as u32).to_be_bytes())?;
        stream.write_all(b"\x05{")
    }),
    ("a byte a second", |_, stream| {
        stream.write_all(&(HANDSHAKE_LIMIT as u32).to_be_bytes())?;
        loop {
            stream.write_all(b"\x05")?;
            // The slow pace is the attack; writing fails when the connection is closed.
            thread::sleep(Duration::from_secs(1));
        }
    }),
    ("another token", |port, stream| {
        (port.handshake)(stream, &Token::new("another secret")).map_err(io::Error::other)
    }),
];

/// Pseudo-random bytes, the same in each run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Sends a lie, and checks that the peer gets a refusal or nothing, and that the connection is closed.
fn lie(port: &Port, what: &str, lie: Lie) {
    let mut stream = TcpStream::connect(&port.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The connection may be closed before everything is sent.
    let _ = lie(port, &mut stream);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        // Closed with unread bytes, which counts as closed.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{what} at {}: not closed: {error}", port.name),
    }
    for payload in frame::payloads(&answer) {
        let said = handshake::answer::<serde_json::Value>(payload, "it").unwrap_err().to_string();
        let allowed = REFUSALS.iter().any(|refusal| said == format!("it refused the connection: {refusal}"));
        assert!(allowed, "{what} at {} gets the answer: {said}", port.name);
    }
}

/// Resources that a process uses.
#[derive(Debug, Clone, Copy)]
struct Usage {
    descriptors: usize,
    threads: usize,
}

fn usage(pid: u32) -> Usage {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    Usage { descriptors: count("fd"), threads: count("task") }
}

/// Waits until the port's program uses no more than before.
fn await_no_more(port: &Port, before: Usage) {
    eventually(&format!("the program of the {} port to use no more than {before:?}", port.name), || {
        let now = usage(port.pid);
        (now.descriptors <= before.descriptors && now.threads <= before.threads).then_some(())
    });
}

/// A sender whose rows a test provides.
struct Feed {
    sender: Child,
    pipe: PipeWriter,
    csv: Vec<u8>,
    rows: usize,
}

impl Feed {
    /// Starts the sender, and waits for the first results.
    fn start(cluster: &Cluster) -> Self {
        let (input, pipe) = io::pipe().unwrap();
        let mut command = Command::new(tests::program_path("sender"));
        command.arg(&cluster.rows).arg("-").args(&cluster.shared);
        let sender = command.stdin(input).stdout(Stdio::null()).spawn().unwrap();
        let mut feed = Self { sender, pipe, csv: Vec::new(), rows: 0 };
        feed.write(b"ID,NAME\n");
        feed.rows(1000);
        eventually("results", || (cluster.path("results.log").metadata().ok()?.len() > 0).then_some(()));
        feed
    }

    fn write(&mut self, bytes: &[u8]) {
        self.pipe.write_all(bytes).unwrap();
        self.csv.extend_from_slice(bytes);
    }

    fn rows(&mut self, count: usize) {
        let lines = (self.rows..self.rows + count).map(|row| format!("{row},name {row}\n"));
        let lines: String = lines.collect();
        self.write(lines.as_bytes());
        self.rows += count;
    }

    /// Waits until the job is done, and compares its results with those of the same model over a file.
    fn finish(mut self, cluster: &mut Cluster) {
        drop(self.pipe);
        let status = eventually("the sender to end", || self.sender.try_wait().unwrap());
        assert!(status.success(), "{status}");
        let results = cluster.results();
        assert_eq!(results.summary.rows, self.rows as u64);
        let (input, output) = (cluster.path("all.csv"), cluster.path("all.log"));
        std::fs::write(&input, self.csv).unwrap();
        let words = ["file", input.to_str().unwrap(), output.to_str().unwrap()];
        Program::start("classifier", cluster.folder.path(), words).success();
        assert!(std::fs::read(output).unwrap() == results.log, "the results differ from those over a file");
    }
}

/// Feeds a job while `trouble` runs, and checks that results keep coming.
fn undisturbed_by(cluster: &Cluster, feed: &mut Feed, trouble: impl FnOnce() + Send) {
    let log = cluster.path("results.log");
    let written = || std::fs::metadata(&log).map_or(0, |log| log.len());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            trouble();
            over.store(true, Ordering::SeqCst);
        });
        while !over.load(Ordering::SeqCst) {
            let before = written();
            feed.rows(100);
            eventually("results", || (written() > before).then_some(()));
            // A steady stream of rows, not the highest possible rate.
            thread::sleep(Duration::from_millis(5));
        }
    });
}

#[test]
fn unauthenticated_peers_learn_nothing_and_are_disconnected_soon() {
    let mut cluster =
        Setup { processes: 2, token: Some(TOKEN.into()), hub: true, ..Setup::default() }.start();
    let mut feed = Feed::start(&cluster);
    let ports = ports(&mut cluster);
    let before: Vec<_> = ports.iter().map(|port| usage(port.pid)).collect();
    let trouble = || {
        thread::scope(|scope| {
            for port in &ports {
                for (what, how) in LIES {
                    scope.spawn(move || lie(port, what, how));
                }
            }
        });
    };
    undisturbed_by(&cluster, &mut feed, trouble);
    for (port, before) in ports.iter().zip(before) {
        await_no_more(port, before);
    }
    feed.finish(&mut cluster);
}

#[test]
fn thousands_of_connections_do_not_exhaust_any_port() {
    let mut cluster =
        Setup { processes: 2, token: Some(TOKEN.into()), hub: true, ..Setup::default() }.start();
    let mut feed = Feed::start(&cluster);
    let ports = ports(&mut cluster);
    // Programs connect to the hub in the background.
    let metrics = ports.iter().find(|port| port.name == "metrics").unwrap();
    eventually("all programs to report", || (tests::connections(&metrics.address) == 4).then_some(()));
    let before: Vec<_> = ports.iter().map(|port| usage(port.pid)).collect();
    let memory: Vec<_> = ports.iter().map(|port| memory_kib(port.pid).unwrap().0).collect();
    let trouble = || {
        thread::scope(|scope| {
            for port in &ports {
                scope.spawn(move || crowd(port));
            }
        });
    };
    undisturbed_by(&cluster, &mut feed, trouble);
    for ((port, before), memory) in ports.iter().zip(before).zip(memory) {
        await_no_more(port, before);
        let (_, highest) = memory_kib(port.pid).unwrap();
        assert!(highest < memory + (64 << 10), "the {} port grew from {memory} to {highest} KiB", port.name);
    }
    // The log must not have a line for each connection.
    for program in [&cluster.receiver, &cluster.classifiers[0], cluster.hub.as_ref().unwrap()] {
        assert!(program.output().lines().count() < 1000, "{}", program.output());
    }
    feed.finish(&mut cluster);
}

/// Opens thousands of connections, some hundreds at a time. Some are silent, some begin a long frame.
fn crowd(port: &Port) {
    let mut open = VecDeque::new();
    for i in 0..3000 {
        let mut stream = TcpStream::connect(&port.address).unwrap();
        // The port may have closed it already to make room for others.
        let _ = match i % 3 {
            0 => Ok(()),
            1 => stream.write_all(&[0, 0, 255, 255, 5]),
            _ => stream.write_all(&noise(500)),
        };
        open.push_back(stream);
        if open.len() > 200 {
            open.pop_front();
        }
    }
}

#[test]
fn unauthenticated_peers_cannot_use_up_the_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    // A soft limit below the hard limit, as usual; here it is below the number of places for unauthenticated peers.
    command.args(["-c", "ulimit -S -n 64; exec \"$0\" \"$@\""]).arg(tests::program_path("receiver"));
    let log = folder.path().join("results.log");
    command.args(["--listen", "127.0.0.1:0", "--output", log.to_str().unwrap()]);
    let mut receiver = Program::start_server_command("receiver", folder.path(), command);
    let out = receiver.address("results");
    let crowd: Vec<_> = (0..300).map(|_| TcpStream::connect(&out).unwrap()).collect();
    let args = ["--cluster-initializer", "--in", "127.0.0.1:0", "--control", "127.0.0.1:0", "--out", &out];
    let mut classifier = Program::start_server("classifier", folder.path(), args);
    let rows = classifier.address("rows");
    Program::start("sender", folder.path(), [rows.as_str(), "--lines", "1000"]).success();
    classifier.success();
    receiver.success();
    drop(crowd);
}
