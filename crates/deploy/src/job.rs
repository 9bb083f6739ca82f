//! A job on hosts: starts its programs in order, connects them, and watches them until the job is done.
//!
//! receiver → initializer → other classifiers → sender. A program writes its addresses to a ready file, so they are known
//! when the next one is started. A host restarts a program that dies, and the job continues; it fails when a program ends
//! for good with an error. A program ends when its [`Running`](crate::host::Running) is dropped, so nothing is left behind.

mod hub;
mod lifetime;
mod phase;
mod programs;
mod progress;
mod ready;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use protocol::ports;
use protocol::rejects::MostRejects;
use protocol::token::Token;
use telemetry::job::Description;

use crate::host::{Host, arg};
pub use hub::HUB;
pub use hub::Hub;
use hub::report_args;
pub use lifetime::Lifetime;
pub use programs::LostContact;
pub use programs::Program;
use programs::Programs;
pub use progress::Watched;

/// Seconds that a sender waits for the cluster, which must form again when one of its processes has died.
const SENDER_PATIENCE: u64 = 600;

/// A job to run.
#[derive(Debug, Clone)]
pub struct Job {
    pub input: Input,
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

/// The source of a job's rows.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub enum Input {
    Fake {
        lines: u64,
        /// Seed for the generated rows.
        seed: u64,
    },
    /// A CSV file.
    File {
        path: PathBuf,
        /// Its [identity](records::identity::Identity) when this command checked it.
        identity: String,
        /// The user states that its delimiter is a comma, which overrides the check.
        commas: bool,
    },
    /// A CSV that can be read only once, such as a named pipe.
    Pipe {
        path: PathBuf,
        /// As of a file.
        commas: bool,
    },
    /// This command's standard input.
    Stdin {
        /// As of a file.
        commas: bool,
    },
}

impl Input {
    /// The number of rows; `None` if it is not known.
    pub fn rows(&self) -> Option<u64> {
        match self {
            Self::Fake { lines, .. } => Some(*lines),
            Self::File { .. } | Self::Pipe { .. } | Self::Stdin { .. } => None,
        }
    }

    /// The sender's arguments for this input.
    pub fn sender_args(&self) -> Vec<String> {
        let csv = |commas: &bool, path: String| {
            let delimiter = commas.then_some(["--delimiter", ","]).into_iter().flatten();
            delimiter.map(str::to_owned).chain(["--".to_owned(), path]).collect()
        };
        match self {
            Self::Fake { lines, seed } => {
                vec!["--lines".into(), lines.to_string(), "--seed".into(), seed.to_string()]
            }
            Self::File { path, identity, commas } => {
                [vec!["--identity".into(), identity.clone()], csv(commas, arg(path))].concat()
            }
            Self::Pipe { path, commas } => csv(commas, arg(path)),
            Self::Stdin { commas } => csv(commas, "-".into()),
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

/// Called when the source asks for its first row.
pub type WhenBegun<'a> = &'a dyn Fn() -> anyhow::Result<()>;

/// Runs a job until its results are durable and, if requested, packed. Its programs report to the hub, if there is one.
///
/// # Errors
/// A program failed (the error has its last lines), or the user interrupted.
pub fn run(
    job: &Job,
    hosts: &Hosts<'_>,
    hub: Option<&Hub>,
    when_begun: Option<WhenBegun<'_>>,
) -> anyhow::Result<Times> {
    let mut programs = Programs { running: Vec::new(), has_begun: false };
    let results = start_receiver(&mut programs, job, hosts.metrics, hub)?;

    let forming = Instant::now();
    let processes = hosts.classifiers.len();
    let mut common = job.model_args.clone();
    common.extend(["--out".into(), results.clone()]);
    common.extend(["--worker-count".into(), processes.to_string()]);
    common.extend(["--workers".into(), job.workers.to_string()]);
    common.extend(token_args(job));
    let mut classifiers = hosts.classifiers.iter().enumerate();
    let (_, host) = classifiers.next().context("a job needs a classifier")?;
    let mut args = common.clone();
    args.extend(report_args(hub, *host));
    args.extend(any_port(*host));
    args.extend(["--cluster-initializer".into(), "--name".into(), "initializer".into()]);
    args.extend(["--in".into(), at(*host, ports::ROWS), "--control".into(), at(*host, ports::CONTROL)]);
    args.extend(["--my-data".into(), at(*host, ports::DATA)]);
    let initializer = programs.start(job, *host, "initializer", "classifier", args)?;
    if processes > 1 {
        let control = programs.await_address(initializer, "control")?;
        for (i, host) in classifiers {
            let name = format!("worker{i}");
            let data = if host.has_fixed_ports() { ports::DATA } else { 0 };
            let mut args = common.clone();
            args.extend(report_args(hub, *host));
            args.extend(["--name".into(), name.clone(), "--control".into(), control.clone()]);
            args.extend(["--my-data".into(), at(*host, data)]);
            programs.start(job, *host, &name, "classifier", args)?;
        }
    }
    let rows = programs.await_address(initializer, "rows")?;
    let forming = forming.elapsed();

    let mut args = vec![rows];
    args.extend(report_args(hub, hosts.metrics));
    args.extend(token_args(job));
    // A restarted sender has the same session.
    args.extend(["--session".into(), protocol::hash::short_hex(job.token.secret().as_bytes())]);
    if !matches!(job.input, Input::Stdin { .. }) {
        args.extend(["--patience".into(), SENDER_PATIENCE.to_string()]);
    }
    args.extend(job.input.sender_args());
    let sender = programs.start(job, hosts.metrics, "sender", "sender", args)?;
    if let Some(act) = when_begun {
        programs.await_ready(sender)?;
        act()?;
    }
    let watched = Watched {
        rows: job.input.rows(),
        packs: job.archive.is_some(),
        token: Some(&job.token),
        page: hub.and_then(Hub::page),
        lifetime: job.lifetime.as_ref(),
    };
    let packing = programs.watch(hosts.metrics, &results, &watched)?;
    Ok(Times { forming, packing })
}

/// Starts the receiver; returns its address for results.
fn start_receiver<'a>(
    programs: &mut Programs<'a>,
    job: &Job,
    metrics: &'a dyn Host,
    hub: Option<&Hub>,
) -> anyhow::Result<String> {
    let mut args = vec!["--framed".into(), "--listen".into(), at(metrics, ports::RESULTS)];
    args.extend(any_port(metrics));
    args.extend(["--output".into(), arg(&job.results)]);
    if let Some(archive) = &job.archive {
        args.extend(["--archive".into(), arg(archive)]);
    }
    if let Some(most) = job.max_rejects {
        args.extend(["--max-rejects".into(), most.to_string()]);
    }
    args.extend(token_args(job));
    args.extend(report_args(hub, metrics));
    let receiver = programs.start(job, metrics, "receiver", "receiver", args)?;
    programs.await_address(receiver, "results")
}

fn token_args(job: &Job) -> [String; 2] {
    ["--token-file".to_owned(), arg(&job.token_file)]
}

/// Packs the results of a finished job whose receiver was ended while it packed them; returns how long that took.
///
/// # Errors
/// As [`run`].
pub fn pack(job: &Job, metrics: &dyn Host) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut programs = Programs { running: Vec::new(), has_begun: false };
    let results = start_receiver(&mut programs, job, metrics, None)?;
    let watched = Watched { rows: None, packs: true, token: Some(&job.token), page: None, lifetime: None };
    programs.watch(metrics, &results, &watched)?;
    Ok(start.elapsed())
}

/// The programs of a running job; the receiver is the first.
pub type Found<'a> = Vec<Program<'a>>;

/// Watches a running job until it is done, as [`run`] does; returns how long packing took.
///
/// # Errors
/// As [`run`].
pub fn attach(metrics: &dyn Host, found: Found<'_>, watched: &Watched<'_>) -> anyhow::Result<Duration> {
    let mut programs = Programs { running: found, has_begun: true };
    let results = programs.await_address(0, "results")?;
    programs.watch(metrics, &results, watched)
}

/// Durations that the job's summary does not have.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// From the start of the first classifier until the cluster accepts rows.
    pub forming: Duration,
    /// From the end of the job until its results are packed.
    pub packing: Duration,
}

fn at(host: &dyn Host, port: u16) -> String {
    format!("{}:{port}", host.address())
}

/// The option with which a program uses another port if its usual one is in use. Its ready file tells others which.
fn any_port(host: &dyn Host) -> Option<String> {
    (!host.has_fixed_ports()).then(|| "--any-port".to_owned())
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
