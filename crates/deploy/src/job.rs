//! A job on hosts: starts its programs in order, wires them, and watches them until the job is done.
//!
//! receiver → initializer → other classifiers → sender. Each one's addresses are known when the next is started,
//! since programs write where they listen to a ready file. One that dies is started again by its host, and the job goes
//! on; it fails when one says that it cannot go on. Whatever happens, nothing that was started here is left behind: a
//! program ends when its [`Running`](crate::host::Running) is dropped.

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
pub use programs::LostSight;
pub use programs::Program;
use programs::Programs;
pub use progress::Watched;

/// How long a sender may be without the cluster, whose processes have to find each other again when one of them has died.
const SENDER_PATIENCE: u64 = 600;

/// What to run.
#[derive(Debug, Clone)]
pub struct Job {
    /// Where rows come from.
    pub input: Input,
    /// The model and its settings: arguments for all classifiers.
    pub model_args: Vec<String>,
    /// Worker threads in each classifier process.
    pub workers: usize,
    /// Variables in the programs' environment.
    pub environment: BTreeMap<String, String>,
    /// Where the results go; paths are as they are on the hosts.
    pub results: PathBuf,
    /// Where results, rejects and summary are packed to, if they are.
    pub archive: Option<PathBuf>,
    /// Where ready files go.
    pub run_folder: PathBuf,
    /// The job's token, and the file that has it.
    pub token: Token,
    /// The file that has the token.
    pub token_file: PathBuf,
    /// How many rows may be rejected, if the user says so.
    pub max_rejects: Option<MostRejects>,
    /// When the hosts end by themselves, if they do.
    pub lifetime: Option<Lifetime>,
    /// What the hub shows the job to be.
    pub description: Description,
}

/// Where rows come from.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub enum Input {
    /// Fake rows.
    Fake {
        /// How many.
        lines: u64,
        /// Seed for the generated rows.
        seed: u64,
    },
    /// A CSV file.
    File {
        /// Where it is.
        path: PathBuf,
        /// [Which file](records::identity::Identity) that was when this command looked at it.
        identity: String,
        /// The user says that it has commas, whatever it looks like.
        commas: bool,
    },
    /// A CSV that can be read only once: a named pipe, say.
    Pipe {
        /// Where it is.
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
    /// How many rows it has, if that is known.
    pub fn rows(&self) -> Option<u64> {
        match self {
            Self::Fake { lines, .. } => Some(*lines),
            Self::File { .. } | Self::Pipe { .. } | Self::Stdin { .. } => None,
        }
    }

    /// The arguments that tell a sender its rows.
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

/// The hosts of a job: one for sender and receiver, and one for each classifier process, the initializer's first.
/// Several of them may be the same machine.
pub struct Hosts<'a> {
    /// For sender and receiver.
    pub metrics: &'a dyn Host,
    /// For the classifiers.
    pub classifiers: Vec<&'a dyn Host>,
}

/// What is done when a job takes its first row.
pub type WhenBegun<'a> = &'a dyn Fn() -> anyhow::Result<()>;

/// Runs a job until its results are durable (and packed, if that is wanted). Its programs report to the hub, if there is one.
///
/// # Errors
/// When one of its programs fails, with its last lines; or somebody interrupts.
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
    // A sender that is started again is the same one, with this name.
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

/// Starts the receiver; gives where it listens.
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

/// Has the results of a job packed that is done, and whose receiver was ended while it packed them; gives how long that took.
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

/// Programs of a job that runs already, the receiver first: each with its host.
pub type Found<'a> = Vec<Program<'a>>;

/// Watches a job that runs already until it is done, as [`run`] does; gives how long packing took.
///
/// # Errors
/// As [`run`].
pub fn attach(metrics: &dyn Host, found: Found<'_>, watched: &Watched<'_>) -> anyhow::Result<Duration> {
    let mut programs = Programs { running: found, has_begun: true };
    let results = programs.await_address(0, "results")?;
    programs.watch(metrics, &results, watched)
}

/// How long parts of a job took that its summary does not tell.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// From the start of the first classifier to the cluster's taking rows.
    pub forming: Duration,
    /// From the job's being done to its results' being packed.
    pub packing: Duration,
}

fn at(host: &dyn Host, port: u16) -> String {
    format!("{}:{port}", host.address())
}

/// Programs are found by their ready files, so that it need not matter when their usual port is taken.
fn any_port(host: &dyn Host) -> Option<String> {
    (!host.has_fixed_ports()).then(|| "--any-port".to_owned())
}

/// Makes a job's token.
///
/// # Errors
/// Those of the system.
pub fn make_token() -> anyhow::Result<Token> {
    let mut secret = [0u8; 32];
    getrandom::fill(&mut secret).map_err(|e| anyhow!("making a job token: {e}"))?;
    Ok(Token::new(protocol::hash::hex(&secret)))
}
