//! What crosses between a commander and the host: JSON, one message a line.

use std::collections::BTreeMap;

pub use process::exit::End;
use process::ready::Ready;
use protocol::results::{Progress, Summary};
use serde::{Deserialize, Serialize};

/// The host's folder, in the home of the user who logs in.
pub const FOLDER: &str = ".provisioned-classifier";

/// From the commander.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Nobody else may command this host until this connection ends.
    Lock(Holder),
    /// Remove what an earlier job left: its records, its logs, its results; not its input. Its programs must have ended.
    Clean,
    /// Write a file that only this user may read, such as the job's token.
    WriteSecret {
        /// Its path in the host's folder.
        path: String,
        /// What it is to hold.
        text: String,
    },
    /// Unpack an archive that was shipped, and let a link lead to it.
    Unpack {
        /// The archive's path in the host's folder; it is removed afterwards.
        archive: String,
        /// The SHA-256 that it must have, in hexadecimal.
        sha256: String,
        /// The link's name.
        link: String,
    },
    /// Start a program, and keep it.
    Start(Program),
    /// Tell of a program that is there already, as of one that was started just now.
    Watch {
        /// Its name.
        name: String,
    },
    /// End a program (or all) of this folder: politely at first, and after the grace by force.
    Stop {
        /// Its name; all if there is none.
        name: Option<String>,
        /// Of all, the one that goes on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spared: Option<String>,
        /// How long it may take to end in order.
        grace_ms: u64,
    },
    /// The last lines that a program printed.
    Tail {
        /// Its name.
        name: String,
        /// How many lines at most.
        lines: usize,
    },
    /// Whether others reach this host at an address.
    Owns {
        /// The address, or a name.
        address: String,
    },
    /// Tell, several times a second, how the job goes: [`Event::Progress`].
    Observe {
        /// Where the receiver, on this host, listens.
        address: String,
    },
    /// How the host and its programs are.
    Status,
    /// Note that the results with this SHA-256 were fetched, all of them, and are safe elsewhere.
    Fetched {
        /// In hexadecimal.
        sha256: String,
    },
    /// Remove the host's folder. Its programs must have ended.
    Remove,
}

/// To the commander. Each request has one reply, in their order; events come in between.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// It is done.
    Done(Reply),
    /// It is not done, and why.
    Failed(String),
    /// Something happened to a program.
    Event(Event),
}

/// What a request brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Nothing but that it is done.
    Nothing,
    /// To a lock: somebody else has it.
    Held(Holder),
    /// To a tail.
    Lines(Vec<String>),
    /// To a status.
    Status(Box<Status>),
}

/// Who commands a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// A person and a machine, and what is done.
    pub who: String,
    /// Since when, in UTC as RFC 3339.
    pub since: String,
}

/// A program to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// What the job calls it.
    pub name: String,
    /// Its path in the host's folder.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables that it has in its environment besides this program's own.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The file, in the host's folder, that it writes when it is ready.
    pub ready_file: String,
    /// Start it again when it dies.
    #[serde(default)]
    pub restart: bool,
}

/// Something happened, mostly to a program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It wrote its ready file, or wrote it anew.
    Ready {
        /// Its name.
        name: String,
        /// What the file says.
        ready: Ready,
    },
    /// It died, and is started again.
    Died {
        /// Its name.
        name: String,
        /// How.
        end: End,
        /// How often it has, with this time.
        count: usize,
    },
    /// It ended for good.
    Ended {
        /// Its name.
        name: String,
        /// How.
        end: End,
    },
    /// How the job goes.
    Progress(Progress),
}

/// How a host is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Since the host started, in seconds.
    pub uptime: u64,
    /// Free bytes where the host's folder is.
    pub disk_free: u64,
    /// Bytes there in all.
    pub disk_size: u64,
    /// The content hash of the application that is installed.
    pub app: Option<String>,
    /// The content hash of the Python packages that are installed.
    pub packages: Option<String>,
    /// Who commands the host just now.
    pub holder: Option<Holder>,
    /// Programs of the job, also those that have ended.
    pub programs: Vec<ProgramStatus>,
    /// On the metrics host: how the job that runs is going.
    pub progress: Option<Progress>,
    /// On the metrics host: what the job that is done has brought.
    pub summary: Option<Summary>,
    /// On the metrics host: how many rows are durable whose results were not fetched, or only in part; `None` if there are none.
    #[serde(default)]
    pub unfetched: Option<u64>,
}

/// How a program is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStatus {
    /// Its name.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// How long it has been running, in seconds, if it runs, or is just being started again.
    pub running: Option<u64>,
    /// How it died before it was started again, each time that it did.
    #[serde(default)]
    pub deaths: Vec<End>,
    /// How it ended, if it has.
    pub end: Option<End>,
}
