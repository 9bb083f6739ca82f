//! The protocol between a client and the agent: JSON, one message a line.

use std::collections::BTreeMap;

pub use process::exit::End;
use process::ready::Ready;
use protocol::results::{Progress, Summary};
use serde::{Deserialize, Serialize};

/// The host's folder, in the home of the user who logs in.
pub const FOLDER: &str = ".provisioned-classifier";

/// A message from the client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Lock the host for this client until its connection ends.
    Lock(Holder),
    /// Remove what an earlier job left: records, logs and results, but not the input. Its programs must have ended.
    Clean,
    /// Write a file that only this user may read, such as the job's token. The path is in the host's folder.
    WriteSecret { path: String, text: String },
    /// Unpack an archive that was shipped, and point a link to its content.
    Unpack {
        /// The archive's path in the host's folder; the archive is removed afterwards.
        archive: String,
        /// The archive's hash, in hexadecimal.
        sha256: String,
        /// The link's name.
        link: String,
    },
    /// Start a program with a supervisor, and report its events.
    Start(Program),
    /// Report events of a program that already runs, as if it had just been started.
    Watch { name: String },
    /// End programs with SIGTERM, and with SIGKILL if they still run after the grace.
    Stop {
        /// `None` for all.
        name: Option<String>,
        /// This program keeps running.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spared: Option<String>,
        grace_ms: u64,
    },
    /// At most this many of the last lines of a program's log.
    Tail { name: String, lines: usize },
    /// Check that an address, or a host name, belongs to this host.
    Owns { address: String },
    /// Report [`Event::Progress`] several times a second, from the receiver that listens at this address of the host.
    Observe { address: String },
    /// The status of the host and its programs.
    Status,
    /// Record that the results with this SHA-256, in hexadecimal, were fetched completely and are safe elsewhere.
    Fetched { sha256: String },
    /// Remove the host's folder. Its programs must have ended.
    Remove,
}

/// A message to the client. Each request gets one reply, in the order of the requests, with events in between.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The reply to a request that succeeded.
    Done(Reply),
    /// Why a request failed.
    Failed(String),
    Event(Event),
}

/// The result of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The request succeeded and returns nothing.
    Empty,
    /// To [`Request::Lock`]: another client has the lock.
    Held(Holder),
    /// To [`Request::Tail`].
    Lines(Vec<String>),
    /// To [`Request::Status`].
    Status(Box<Status>),
}

/// The client that has the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// For people: user, machine and command.
    pub who: String,
    /// In UTC as RFC 3339.
    pub since: String,
}

/// A program to start. Paths are in the host's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub name: String,
    pub path: String,
    pub args: Vec<String>,
    /// Added to the agent's own environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The program writes this file when it is ready.
    pub ready_file: String,
    /// Start it again when it dies.
    #[serde(default)]
    pub restart: bool,
}

/// Something that happened, usually to a program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It wrote its ready file, for the first time or again.
    Ready {
        name: String,
        ready: Ready,
    },
    /// It died, and is restarted. `count` is the number of its deaths so far, including this one.
    Died {
        name: String,
        end: End,
        count: usize,
    },
    /// It ended for good.
    Ended {
        name: String,
        end: End,
    },
    Progress(Progress),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Seconds since the host booted.
    pub uptime: u64,
    /// Free bytes on the file system with the host's folder.
    pub disk_free: u64,
    /// Size of that file system, in bytes.
    pub disk_size: u64,
    /// The SHA-256 of the installed application.
    pub app: Option<String>,
    /// The SHA-256 of the installed Python packages.
    pub packages: Option<String>,
    /// The client that has the lock.
    pub holder: Option<Holder>,
    /// Including those that have ended.
    pub programs: Vec<ProgramStatus>,
    /// On the metrics host, while a job runs.
    pub progress: Option<Progress>,
    /// On the metrics host, when the job is done.
    pub summary: Option<Summary>,
    /// On the metrics host: the number of durable rows whose results were not fetched, or only in part; `None` for 0.
    #[serde(default)]
    pub unfetched: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStatus {
    pub name: String,
    pub pid: u32,
    /// Seconds since it last started, if it runs or is being restarted.
    pub running: Option<u64>,
    /// One for each restart.
    #[serde(default)]
    pub deaths: Vec<End>,
    pub end: Option<End>,
}
