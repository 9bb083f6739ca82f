//! A job on hosts: starts its programs in order, connects them, and watches them until the job is done.
//!
//! The order is receiver → initializer → other classifiers → sender. A program writes its addresses to a ready file, so they
//! are known when the next program is started. A host restarts a program that dies, and the job continues. The job fails when
//! a program ends for good with an error. A program ends when its [`Running`](crate::host::Running) is dropped, so nothing is
//! left behind.

mod failure;
mod hub;
mod launcher;
mod lifetime;
mod phase;
mod programs;
mod progress;
mod ready;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use protocol::rejects::MostRejects;
use protocol::result_files::Form;
use protocol::token::Token;
use records::format::is_address;
use telemetry::job::Description;

use crate::host::{Host, arg};
use crate::objects::Signatures;
use crate::options::{self, Prefix, Reading};
pub(crate) use failure::in_own_words;
pub use hub::{HUB, Hub};
use launcher::Launcher;
pub(crate) use launcher::classifier_name;
pub use lifetime::Lifetime;
pub use phase::After;
use programs::Programs;
pub use programs::{LostContact, Program};
pub use progress::Watched;

/// A job to run.
#[derive(Debug, Clone)]
pub struct Job {
    pub input: Input,
    /// What the user says of the types of columns, for a model that gets typed ones.
    pub types: Option<String>,
    /// The model and its settings: arguments for all classifiers.
    pub model_args: Vec<String>,
    /// Worker threads in each classifier process.
    pub workers: usize,
    /// Added to the programs' environment.
    pub environment: BTreeMap<String, String>,
    /// The results file. All paths are on the hosts.
    pub results: PathBuf,
    /// The archive of results, rejects and summary; `None` to pack none.
    pub archive: Option<PathBuf>,
    /// What becomes of results and rejects, besides the plain files.
    pub export: Option<Export>,
    /// The folder for ready files.
    pub run_folder: PathBuf,
    pub token: Token,
    /// The file that has the token.
    pub token_file: PathBuf,
    /// How many rows may be rejected; `None` for the receiver's default.
    pub max_rejects: Option<MostRejects>,
    /// When the hosts terminate themselves; `None` if they do not.
    pub lifetime: Option<Lifetime>,
    /// What the hub shows about the job.
    pub description: Description,
}

/// What becomes of results and rejects, besides the plain files. The paths are on the metrics host.
#[derive(Debug, Clone)]
pub struct Export {
    /// A form for them.
    pub form: Option<Form>,
    /// Where they are uploaded, and the file with the signed requests for that.
    pub upload: Option<(Prefix, PathBuf)>,
    /// The program that does this.
    pub formats: PathBuf,
}

impl Job {
    /// What the receiver does after the last row.
    fn after(&self) -> After {
        match (&self.export, &self.archive) {
            (Some(Export { upload: Some(_), .. }), _) => After::Uploading,
            (None, None) => After::Nothing,
            _ => After::Packing,
        }
    }

    fn token_args(&self) -> [String; 2] {
        ["--token-file".to_owned(), arg(&self.token_file)]
    }
}

/// The source of a job's rows.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub enum Input {
    Fake {
        lines: u64,
        /// Seed for the generated rows.
        seed: u64,
    },
    /// CSV files with the same header.
    Files {
        paths: Vec<PathBuf>,
        /// Their [identity](records::identity::of_all) when this command checked them; `None` until then.
        identity: Option<String>,
        reading: Reading,
    },
    /// A CSV that can be read only once, such as a named pipe.
    Pipe { path: PathBuf, reading: Reading },
    /// This command's standard input.
    Stdin { reading: Reading },
}

impl Input {
    /// The number of rows; `None` if it is not known.
    pub fn rows(&self) -> Option<u64> {
        match self {
            Self::Fake { lines, .. } => Some(*lines),
            Self::Files { .. } | Self::Pipe { .. } | Self::Stdin { .. } => None,
        }
    }

    /// Whether the sender fetches some of it.
    pub fn has_address(&self) -> bool {
        matches!(self, Self::Files { paths, .. } if paths.iter().any(|path| is_address(path)))
    }

    /// How the sender reads it; `None` for fake rows.
    pub fn reading_mut(&mut self) -> Option<&mut Reading> {
        match self {
            Self::Fake { .. } => None,
            Self::Files { reading, .. } | Self::Pipe { reading, .. } | Self::Stdin { reading } => {
                Some(reading)
            }
        }
    }

    /// The sender's arguments for this input.
    pub fn sender_args(&self) -> Vec<String> {
        let csv = |reading: &Reading, paths: Vec<String>| -> Vec<String> {
            reading.to_args().into_iter().chain(["--".to_owned()]).chain(paths).collect()
        };
        match self {
            Self::Fake { lines, seed } => {
                vec!["--lines".into(), lines.to_string(), "--seed".into(), seed.to_string()]
            }
            Self::Files { paths, identity, reading } => {
                let paths = paths.iter().map(|path| arg(path)).collect();
                let identity = identity.iter().flat_map(|known| ["--identity".into(), known.clone()]);
                identity.chain(csv(reading, paths)).collect()
            }
            Self::Pipe { path, reading } => csv(reading, vec![arg(path)]),
            Self::Stdin { reading } => csv(reading, vec!["-".into()]),
        }
    }
}

/// The hosts of a job. Several of them may be the same machine.
pub struct Hosts<'a> {
    /// For sender and receiver.
    pub metrics: &'a dyn Host,
    /// One for each classifier process; the initializer's is the first.
    pub classifiers: Vec<&'a dyn Host>,
}

/// What a command does while it runs a job.
#[derive(Default)]
pub struct WhileRunning<'a> {
    /// Called when the source asks for its first row.
    pub when_begun: Option<&'a dyn Fn() -> anyhow::Result<()>>,
    /// Signatures to renew.
    pub signatures: Option<Signatures<'a>>,
}

/// Runs a job until its results are durable and, if requested, packed. Its programs report to the hub, if there is one.
///
/// # Errors
/// A program failed (the error has its last lines), or the user interrupted.
pub fn run(
    job: &Job,
    hosts: &Hosts<'_>,
    hub: Option<&Hub>,
    while_running: WhileRunning<'_>,
) -> anyhow::Result<Times> {
    let mut launcher = Launcher::new(job, hub);
    let results = launcher.receiver(hosts.metrics)?;
    let forming = Instant::now();
    let rows = launcher.cluster(&hosts.classifiers, &results)?;
    let forming = forming.elapsed();
    let sender = launcher.sender(hosts.metrics, rows)?;
    let mut programs = launcher.programs;
    if let Some(act) = while_running.when_begun {
        programs.await_ready(sender)?;
        act()?;
    }
    let watched = Watched {
        rows: job.input.rows(),
        after: job.after(),
        token: Some(&job.token),
        page: hub.and_then(Hub::page),
        lifetime: job.lifetime.as_ref(),
    };
    let packing = programs.watch(hosts.metrics, &results, &watched, while_running.signatures)?;
    Ok(Times { forming, packing })
}

/// Packs the results of a finished job whose receiver was ended while it packed them; returns how long that took.
///
/// # Errors
/// As [`run`].
pub fn pack(job: &Job, metrics: &dyn Host, signatures: Option<Signatures<'_>>) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut launcher = Launcher::new(job, None);
    let results = launcher.receiver(metrics)?;
    let watched =
        Watched { rows: None, after: job.after(), token: Some(&job.token), page: None, lifetime: None };
    launcher.programs.watch(metrics, &results, &watched, signatures)?;
    Ok(start.elapsed())
}

/// The programs of a running job; the receiver is the first.
pub type Found<'a> = Vec<Program<'a>>;

/// Watches a running job until it is done, as [`run`] does; returns how long packing took.
///
/// # Errors
/// As [`run`].
pub fn attach(
    metrics: &dyn Host,
    found: Found<'_>,
    watched: &Watched<'_>,
    signatures: Option<Signatures<'_>>,
) -> anyhow::Result<Duration> {
    let mut programs = Programs { running: found, has_begun: true };
    let results = programs.await_address(0, "results", options::ready_time(&[]))?;
    programs.watch(metrics, &results, watched, signatures)
}

/// Durations that the job's summary does not have.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// From the start of the first classifier until the cluster accepts rows.
    pub forming: Duration,
    /// From the end of the job until its results are packed.
    pub packing: Duration,
}

/// Makes a job's token.
///
/// # Errors
/// The system has no random numbers.
pub fn make_token() -> anyhow::Result<Token> {
    let mut secret = [0u8; 32];
    getrandom::fill(&mut secret).map_err(|e| anyhow!("making a job token: {e}"))?;
    Ok(Token::new(protocol::hash::hex(&secret)))
}
