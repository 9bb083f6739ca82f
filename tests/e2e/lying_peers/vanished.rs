//! Peers whose host is gone, so that the connection never ends by itself. Each is noticed within about a minute, even while
//! the other side writes to it.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use tests::cluster::read_results;
use tests::eventually;
use tests::program::Program;

/// Two hosts connected by a cable, as network namespaces.
struct Hosts {
    name: String,
}

/// Address of the host that stays.
const HERE: &str = "10.213.47.1";

fn ip(words: &str) -> bool {
    Command::new("ip").args(words.split(' ')).output().is_ok_and(|output| output.status.success())
}

impl Hosts {
    /// Skips the test and returns `None` if namespaces cannot be made.
    fn new(test: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let hosts = Self { name: format!("v{:x}n{count}", std::process::id()) };
        if !ip(&format!("netns add {}a", hosts.name)) {
            tests::skip(test, "network namespaces cannot be made here; they need root and the program ip");
            return None;
        }
        let name = &hosts.name;
        for words in [
            format!("netns add {name}b"),
            format!("-n {name}a link add name va type veth peer name vb netns {name}b"),
            format!("-n {name}a addr add {HERE}/24 dev va"),
            format!("-n {name}b addr add 10.213.47.2/24 dev vb"),
            format!("-n {name}a link set lo up"),
            format!("-n {name}a link set va up"),
            format!("-n {name}b link set vb up"),
        ] {
            assert!(ip(&words), "ip {words}");
        }
        Some(hosts)
    }

    /// A command on the host that stays (`a`), or on the other host (`b`).
    fn on(&self, host: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}{host}", self.name)]).arg(program);
        command
    }

    fn server(&self, program: &str, folder: &Path, args: &[&str]) -> Program {
        let mut command = self.on("a", tests::program_path(program));
        command.args(args);
        Program::start_server_command(program, folder, command)
    }

    /// Makes the other host vanish.
    fn cut(&self) {
        assert!(ip(&format!("-n {}b link set vb down", self.name)));
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in ["a", "b"] {
            ip(&format!("netns del {}{host}", self.name));
        }
    }
}

/// A handshake with these fields.
fn hello(fields: &str) -> String {
    format!("{{\"version\":{},{fields}}}", protocol::VERSION)
}

/// Starts a shell that connects with this handshake and gets an answer, and then neither reads nor writes.
fn client(hosts: &Hosts, folder: &Path, address: &str, payload: &str) -> Program {
    let (host, port) = address.rsplit_once(':').unwrap();
    let length = format!("\\x00\\x00\\x00\\x{:02x}", payload.len() + 1);
    let script = format!(
        "exec 3<>/dev/tcp/{host}/{port}; printf '{length}\\x05%s' '{payload}' >&3; head -c 4 <&3 >&2; echo open; \
         exec sleep 1000"
    );
    let mut command = hosts.on("b", "bash");
    command.args(["-c", &script]);
    let client = Program::start_command("client", folder, command);
    client.await_output("open");
    client
}

#[test]
fn peers_at_the_receiver_whose_host_vanishes_are_given_up() {
    let test = "peers_at_the_receiver_whose_host_vanishes_are_given_up";
    let Some(hosts) = Hosts::new(test) else { return };
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("results.log");
    let listen = format!("{HERE}:0");
    let args = ["--listen", &listen, "--output", log.to_str().unwrap(), "--patience", "600"];
    let mut receiver = hosts.server("receiver", folder.path(), &args);
    let address = receiver.address("results");
    // The receiver writes to the first ten times a second, and never to the second; the third sends nothing at all.
    let _observer = client(&hosts, folder.path(), &address, &hello(r#""role":"observer""#));
    let process = hello(r#""role":"initializer","name":"w""#);
    let _worker = client(&hosts, folder.path(), &address, &process);
    let (host, port) = address.rsplit_once(':').unwrap();
    let mut silent = hosts.on("b", "bash");
    silent.args(["-c", &format!("exec 3<>/dev/tcp/{host}/{port}; echo open; exec sleep 1000")]);
    let silent = Program::start_command("silent", folder.path(), silent);
    silent.await_output("open");
    eventually("all to be connected", || (connections(receiver.pid()) == 3).then_some(()));
    hosts.cut();
    receiver.await_output("no complete frame from");
    receiver.await_output("classifier w: reading from");
    eventually("all to be disconnected", || (connections(receiver.pid()) == 0).then_some(()));
}

/// The number of connections that the receiver serves; each has a thread.
fn connections(pid: u32) -> usize {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
    names.filter(|name| name == "results\n").count()
}

#[test]
fn a_sender_whose_host_vanishes_makes_room_for_another() {
    let Some(hosts) = Hosts::new("a_sender_whose_host_vanishes_makes_room_for_another") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (listen, log) = (format!("{HERE}:0"), folder.path().join("results.log"));
    let args = ["--listen", &listen, "--output", log.to_str().unwrap()];
    let mut receiver = hosts.server("receiver", folder.path(), &args);
    let out = receiver.address("results");
    let args = ["--cluster-initializer", "--in", &listen, "--control", &listen, "--out", &out];
    let more = ["--my-data", &listen, "--patience", "600"];
    let mut classifier = hosts.server("classifier", folder.path(), &[&args[..], &more[..]].concat());
    let rows = classifier.address("rows");
    let _gone = client(&hosts, folder.path(), &rows, &hello(r#""session":"gone""#));
    hosts.cut();
    let mut sender = hosts.on("a", tests::program_path("sender"));
    sender.args([&rows, "--lines", "1000", "--patience", "300"]);
    Program::start_command("sender", folder.path(), sender).success();
    classifier.success();
    receiver.success();
    assert_eq!(read_results(&log).summary.rows, 1000);
}
