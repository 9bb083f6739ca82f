//! The harness of the end-to-end tests. It starts the programs as users do, bounds every wait, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "in a test harness, a panic fails the test")]
#![allow(clippy::print_stderr, reason = "tests print what they find")]

pub mod cloud;
pub mod cluster;
pub mod http;
pub mod hub;
pub mod lab;
pub mod machine;
pub mod program;
pub mod stack;

use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Time limit for every wait: longer than any step of a test, even on a machine with ten times the load.
pub const PATIENCE: Duration = Duration::from_secs(900);

/// The project's root folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the project's folder")
}

/// The environment variable that names the folder of prebuilt programs, so that nothing is built.
pub const PROGRAMS: &str = "XTASK_PROGRAMS";

/// The path of a program, built for release as for users, once for all tests.
pub fn program_path(name: &str) -> PathBuf {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        // `cargo xtask test` has built them.
        if let Some(folder) = std::env::var_os(PROGRAMS) {
            return folder.into();
        }
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
        // The same calls of cargo as for users (the alias, xtask for other hosts, the programs). Other calls would turn on
        // other features of dependencies, and rebuild everything each time.
        for words in [
            "--package xtask",
            "--package deploy-ssh",
            "--package sender --package classifier --package receiver --package agent --package hub",
            "--package formats",
        ] {
            build(words);
        }
        target.join("release")
    });
    FOLDER.join(name)
}

/// The path of the program `s3`, which few tests need, and which takes long to build.
pub fn s3_path() -> PathBuf {
    static BUILD: LazyLock<()> = LazyLock::new(|| {
        if std::env::var_os(PROGRAMS).is_none() {
            build("--package s3");
        }
    });
    LazyLock::force(&BUILD);
    program_path("s3")
}

/// `cargo xtask`, with the programs that [`program_path`] has built.
pub fn xtask() -> Command {
    let path = program_path("xtask");
    let mut xtask = Command::new(&path);
    xtask.env(PROGRAMS, path.parent().expect("programs lie in a folder"));
    xtask
}

fn build(words: &str) {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release"]).args(words.split(' ')).current_dir(root());
    // As xtask does, so that nothing is rebuilt.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            cargo.env_remove(name);
        }
    }
    let built = cargo.status().expect("cargo can be started");
    assert!(built.success(), "building the programs failed");
}

/// The Python interpreter for the tests, with pandas; `cargo xtask test` installs it.
pub fn python() -> PathBuf {
    let path = root().join("target/venv/bin/python");
    assert!(path.exists(), "{} is missing; cargo xtask test installs it", path.display());
    path
}

/// Notes that a test cannot run here, so that `cargo xtask test` counts it as skipped and prints the reason.
pub fn skip(test: &str, reason: &str) {
    eprintln!("skipped: {test}: {reason}");
    let Some(path) = std::env::var_os("SKIPPED_TESTS") else { return };
    let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
    writeln!(file, "{test}: {reason}").unwrap();
}

/// Waits until `holds` returns a value.
///
/// # Panics
/// If it does not within [`PATIENCE`].
pub fn eventually<T>(what: &str, holds: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, holds)
}

/// Waits until `holds` returns a value, with another time limit.
///
/// # Panics
/// If it does not within `patience`.
pub fn within<T>(patience: Duration, what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(outcome) = holds() {
            return outcome;
        }
        assert!(start.elapsed() < patience, "waited for {what} for {patience:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The number of connections from this machine to an address on it.
pub fn connections(address: &str) -> usize {
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    // The end of the remote address, and the state "established".
    let to_there = format!(":{port:04X} 01 ");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().filter(|line| line.contains(&to_there)).count()
}

/// The number of connections to this port of this machine that the other side has closed, and that are still open here.
pub fn left_connections(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let is_left = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next().unwrap_or_default();
        // The state "close wait".
        local.ends_with(&format!(":{port:04X}")) && words.nth(1) == Some("08")
    };
    table.lines().filter(is_left).count()
}

/// The command lines of all running processes.
pub fn command_lines() -> impl Iterator<Item = String> {
    processes().map(|(_, words)| words)
}

/// The id and command line of each process whose command line is wanted.
pub fn command_lines_of(is_wanted: impl Fn(&str) -> bool) -> Vec<(u32, String)> {
    processes().filter(|(_, words)| is_wanted(words)).collect()
}

fn processes() -> impl Iterator<Item = (u32, String)> {
    let folders = std::fs::read_dir("/proc").unwrap().flatten();
    folders.filter_map(|folder| {
        let id = folder.file_name().to_str()?.parse().ok()?;
        // The process may have ended since it was listed.
        let words = std::fs::read(folder.path().join("cmdline")).ok()?;
        Some((id, String::from_utf8_lossy(&words).replace('\0', " ")))
    })
}

/// Connects to an address, and sends payloads as frames.
pub fn send_frames(address: &str, payloads: &[&[u8]]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut frames = Vec::new();
    for payload in payloads {
        protocol::frame::push(&mut frames, payload);
    }
    stream.write_all(&frames).unwrap();
    stream
}

/// Current and peak resident memory of a process in KiB; `None` if it has ended.
pub fn memory_kib(pid: u32) -> Option<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}
