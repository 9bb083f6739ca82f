//! A job on hosts: starts its programs in order, wires them, and watches them until the job is done.
//!
//! receiver → initializer → other classifiers → sender. Each one's addresses are known when the next is started,
//! since programs write where they listen to a ready file. One that dies is started again by its host, and the job goes
//! on; it fails when one says that it cannot go on. Whatever happens, nothing that was started here is left behind: a
//! program ends when its [`Running`] is dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use wire::ports;
use wire::program::Ready;
use wire::token::Token;

use crate::host::{Host, Launch, Running, arg};
use crate::interrupt;
use crate::ui::{self, JobBar};

/// How long a program may take until it is ready; the initializer waits for others, and Python boxes have to load
/// pandas.
const READY_TIME: Duration = Duration::from_secs(300);
/// How long the programs may take to end when the job is done.
const END_TIME: Duration = Duration::from_secs(30);
/// How long they may take when the results are packed, too.
const PACK_TIME: Duration = Duration::from_secs(1800);
/// How long the metrics host may be out of sight until this command gives the job up to itself; and any host before the job
/// has begun.
const SIGHT_TIME: Duration = Duration::from_secs(120);
const START_SIGHT_TIME: Duration = Duration::from_secs(10);
/// How often ready files are looked at, and programs asked whether they have ended.
const PAUSE: Duration = Duration::from_millis(2);
/// Of how many programs that failed with the first one the words are shown.
const MOST_FAILURES: usize = 4;
/// How long the receiver, which knows best why a job failed, has to say so, after another one has failed.
const RECEIVER_TIME: Duration = Duration::from_millis(300);
/// How long it may take until the program is known that others have failed because of.
const FAILURE_TIME: Duration = Duration::from_secs(2);
/// How long a wait may be until it is told.
const QUIET_TIME: Duration = Duration::from_secs(5);
/// How a program ends that has lost another one: that one knows more.
const LOST_ANOTHER: &str = "exit status: 75";
/// How long the other programs may take to end, when the receiver says that the job is done.
const FOLLOW_TIME: Duration = Duration::from_secs(10);
/// How long a sender may be without the cluster, whose processes have to find each other again when one of them has died.
const SENDER_PATIENCE: u64 = 600;
/// How many of the last lines of a program that failed are shown.
const LAST_LINES: usize = 12;

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// Where rows come from.
    pub(crate) input: Input,
    /// The box and its settings: arguments for all classifiers.
    pub(crate) classifier: Vec<String>,
    /// Worker threads in each classifier process.
    pub(crate) workers: usize,
    /// Variables in the programs' environment.
    pub(crate) environment: BTreeMap<String, String>,
    /// Where the results go; paths are as they are on the hosts.
    pub(crate) results: PathBuf,
    /// Where results, rejects and summary are packed to, if they are.
    pub(crate) archive: Option<PathBuf>,
    /// Where ready files go.
    pub(crate) run_folder: PathBuf,
    /// The job's token, and the file that has it.
    pub(crate) token: Token,
    /// The file that has the token.
    pub(crate) token_file: PathBuf,
}

/// Where rows come from.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "remote", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum Input {
    /// Fake rows.
    Fake {
        /// How many.
        lines: u64,
        /// Rows of another seed are other rows.
        seed: u64,
    },
    /// A CSV file.
    File(PathBuf),
    /// This command's standard input.
    Stdin,
}

impl Input {
    /// How many rows it has, if that is known.
    pub(crate) fn rows(&self) -> Option<u64> {
        match self {
            Self::Fake { lines, .. } => Some(*lines),
            Self::File(_) | Self::Stdin => None,
        }
    }

    fn sender_args(&self) -> Vec<String> {
        match self {
            Self::Fake { lines, seed } => {
                vec!["--lines".into(), lines.to_string(), "--seed".into(), seed.to_string()]
            }
            Self::File(path) => vec!["--".into(), path.display().to_string()],
            Self::Stdin => vec!["--".into(), "-".into()],
        }
    }
}

/// The hosts of a job: one for sender and receiver, and one for each classifier process, the initializer's first.
/// Several of them may be the same machine.
pub(crate) struct Hosts<'a> {
    /// For sender and receiver.
    pub(crate) metrics: &'a dyn Host,
    /// For the classifiers.
    pub(crate) classifiers: Vec<&'a dyn Host>,
}

/// Runs a job until its results are durable (and packed, if that is wanted).
///
/// # Errors
/// When one of its programs fails, with its last lines; or somebody interrupts.
pub(crate) fn run(job: &Job, hosts: &Hosts<'_>) -> anyhow::Result<Times> {
    let mut programs = Programs { running: Vec::new() };
    let token = ["--token-file".to_owned(), arg(&job.token_file)];

    let mut args = vec!["--framed".into(), "--listen".into(), at(hosts.metrics, ports::RESULTS)];
    args.extend(any_port(hosts.metrics));
    args.extend(["--output".into(), arg(&job.results)]);
    if let Some(archive) = &job.archive {
        args.extend(["--archive".into(), arg(archive)]);
    }
    args.extend(token.clone());
    let receiver = programs.start(job, hosts.metrics, "receiver", "receiver", args, false)?;
    let results = programs.await_address(receiver, "results")?;

    let forming = Instant::now();
    let processes = hosts.classifiers.len();
    let mut common = job.classifier.clone();
    common.extend(["--out".into(), results.clone()]);
    common.extend(["--worker-count".into(), processes.to_string()]);
    common.extend(["--workers".into(), job.workers.to_string()]);
    common.extend(token.clone());
    let mut classifiers = hosts.classifiers.iter().enumerate();
    let (_, host) = classifiers.next().context("a job needs a classifier")?;
    let mut args = common.clone();
    args.extend(any_port(*host));
    args.extend(["--cluster-initializer".into(), "--name".into(), "initializer".into()]);
    args.extend(["--in".into(), at(*host, ports::ROWS), "--control".into(), at(*host, ports::CONTROL)]);
    args.extend(["--my-data".into(), at(*host, ports::DATA)]);
    let initializer = programs.start(job, *host, "initializer", "classifier", args, false)?;
    if processes > 1 {
        let control = programs.await_address(initializer, "control")?;
        for (i, host) in classifiers {
            let name = format!("worker{i}");
            let data = if host.has_fixed_ports() { ports::DATA } else { 0 };
            let mut args = common.clone();
            args.extend(["--name".into(), name.clone(), "--control".into(), control.clone()]);
            args.extend(["--my-data".into(), at(*host, data)]);
            programs.start(job, *host, &name, "classifier", args, false)?;
        }
    }
    let rows = programs.await_address(initializer, "rows")?;
    let forming = forming.elapsed();

    let mut args = vec![rows];
    args.extend(token);
    // A sender that is started again is the same one, with this name.
    args.extend(["--session".into(), wire::hash::short_hex(job.token.secret().as_bytes())]);
    if !matches!(job.input, Input::Stdin) {
        args.extend(["--patience".into(), SENDER_PATIENCE.to_string()]);
    }
    args.extend(job.input.sender_args());
    programs.start(job, hosts.metrics, "sender", "sender", args, matches!(job.input, Input::Stdin))?;
    let watched = Watched { rows: job.input.rows(), packs: job.archive.is_some(), token: Some(&job.token) };
    let packing = programs.watch(hosts.metrics, &results, &watched)?;
    Ok(Times { forming, packing })
}

/// Programs of a job that runs already, the receiver first: each with its host.
#[cfg(feature = "remote")]
pub(crate) type Found<'a> = Vec<(String, &'a dyn Host, Box<dyn Running>)>;

/// Watches a job that runs already until it is done, as [`run`] does; gives how long packing took.
///
/// # Errors
/// As [`run`].
#[cfg(feature = "remote")]
pub(crate) fn attach(
    metrics: &dyn Host,
    found: Found<'_>,
    watched: &Watched<'_>,
) -> anyhow::Result<Duration> {
    let running =
        found.into_iter().map(|(name, host, running)| Program { name, host, running, ended: false });
    let mut programs = Programs { running: running.collect() };
    let results = programs.await_address(0, "results")?;
    programs.watch(metrics, &results, watched)
}

/// What there is to know of a job that is watched.
pub(crate) struct Watched<'a> {
    /// How many rows it has, if that is known.
    pub(crate) rows: Option<u64>,
    /// Whether its results are packed.
    pub(crate) packs: bool,
    /// Its token, for hosts that do not know it.
    pub(crate) token: Option<&'a Token>,
}

/// What [`run`] gives when the job cannot be seen any more, and goes on nevertheless.
#[derive(Debug)]
pub(crate) struct LostSight(String);

impl fmt::Display for LostSight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "nothing has been heard of {} for {SIGHT_TIME:?}. The job goes on without this command: cargo xtask run-cluster \
             --attach shows it again, and cargo xtask run-cluster --resume starts it again where it is",
            self.0
        )
    }
}

impl std::error::Error for LostSight {}

/// How long parts of a job took that its summary does not tell.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "remote"), expect(dead_code, reason = "told where there are several machines"))]
pub(crate) struct Times {
    /// From the start of the first classifier to the cluster's taking rows.
    pub(crate) forming: Duration,
    /// From the job's being done to its results' being packed.
    pub(crate) packing: Duration,
}

fn at(host: &dyn Host, port: u16) -> String {
    format!("{}:{port}", host.address())
}

/// Programs are found by their ready files, so that it need not matter when their usual port is taken.
fn any_port(host: &dyn Host) -> Option<String> {
    (!host.has_fixed_ports()).then(|| "--any-port".to_owned())
}

/// The programs of a job that were started.
struct Programs<'a> {
    running: Vec<Program<'a>>,
}

struct Program<'a> {
    name: String,
    host: &'a dyn Host,
    running: Box<dyn Running>,
    ended: bool,
}

impl<'a> Programs<'a> {
    fn start(
        &mut self,
        job: &Job,
        host: &'a dyn Host,
        name: &str,
        program: &'static str,
        mut args: Vec<String>,
        stdin: bool,
    ) -> anyhow::Result<usize> {
        let ready_file = job.run_folder.join(format!("{name}.ready"));
        if program != "sender" {
            args.extend(["--ready-file".into(), arg(&ready_file)]);
        }
        let environment = job.environment.clone();
        let restart = !stdin;
        let launch = Launch { name: name.to_owned(), program, args, environment, ready_file, stdin, restart };
        let running = host.start(&launch)?;
        self.running.push(Program { name: launch.name, host, running, ended: false });
        Ok(self.running.len() - 1)
    }

    /// Waits until a program says where it listens for `what`.
    fn await_address(&mut self, program: usize, what: &str) -> anyhow::Result<String> {
        let start = Instant::now();
        let mut is_told = false;
        loop {
            self.check()?;
            if let Some(lost) = self.running.iter().find(|p| p.host.away() >= Some(START_SIGHT_TIME)) {
                bail!("nothing has been heard of {} for {START_SIGHT_TIME:?}", lost.host.name());
            }
            let Program { name, host, .. } = &self.running[program];
            let ready: Option<Ready> = host.ready(name)?;
            if let Some(address) = ready.as_ref().and_then(|ready| ready.addresses.get(what)) {
                return Ok(address.to_string());
            }
            if start.elapsed() >= QUIET_TIME && !is_told {
                is_told = true;
                ui::note(&format!("waiting for {name} on {} to listen for {what}", host.name()));
            }
            if start.elapsed() >= READY_TIME {
                bail!(
                    "waiting for {name} on {} to listen for {what}: not within {READY_TIME:?}",
                    host.name()
                );
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether all programs have ended well. One that has not is an error, with its last words.
    fn check(&mut self) -> anyhow::Result<bool> {
        interrupt::check()?;
        for i in 0..self.running.len() {
            let program = &mut self.running[i];
            if program.ended {
                continue;
            }
            for status in program.running.deaths() {
                // Those that only follow another one's death are not news.
                if status != LOST_ANOTHER {
                    ui::note(&format!(
                        "{} on {} died ({status}), and is started again",
                        program.name,
                        program.host.name()
                    ));
                }
            }
            if let Some(end) = program.running.try_wait()? {
                program.ended = true;
                if !end.success {
                    return Err(self.failure(i, &end.status));
                }
            }
        }
        Ok(self.running.iter().all(|program| program.ended))
    }

    /// What a failed program said; and, since one failure brings others with it, what those said that failed too.
    fn failure(&mut self, first: usize, status: &str) -> anyhow::Error {
        let mut failed = BTreeMap::from([(first, status.to_owned())]);
        let start = Instant::now();
        // The receiver, or the one that the others have lost.
        let knows = |(i, status): (&usize, &String)| (*i == 0 || status != LOST_ANOTHER).then_some(*i);
        while !failed.contains_key(&0) {
            let limit =
                if failed.iter().any(|one| knows(one).is_some()) { RECEIVER_TIME } else { FAILURE_TIME };
            if start.elapsed() >= limit {
                break;
            }
            for (i, program) in self.running.iter_mut().enumerate() {
                if let Some(end) = program.running.try_wait().ok().flatten().filter(|end| !end.success) {
                    failed.insert(i, end.status);
                }
            }
            std::thread::sleep(PAUSE);
        }
        let first = failed.iter().find_map(knows).unwrap_or(first);
        let status = failed.get(&first).map_or(status, String::as_str);
        let Program { name, host, .. } = &self.running[first];
        let mut text = format!("{name} on {} failed ({status})", host.name());
        let mut shown = 0;
        for (i, program) in self.running.iter_mut().enumerate() {
            let mut failed = || program.running.try_wait().ok().flatten().is_some_and(|end| !end.success);
            if i != first && (shown == MOST_FAILURES || !failed()) {
                continue;
            }
            shown += 1;
            let lines = program.running.last_lines(LAST_LINES).unwrap_or_default();
            text.push_str(&format!(
                "\n\n{} on {} (all of it: {}):",
                program.name,
                program.host.name(),
                program.running.log()
            ));
            for line in lines {
                text.push_str("\n    ");
                text.push_str(&line);
            }
        }
        anyhow!(text)
    }

    /// Shows how the job goes, until all programs have ended (or the receiver has, since then all is there); gives the time that the last took after the first, which
    /// is for packing the results.
    fn watch(
        &mut self,
        metrics: &dyn Host,
        results: &str,
        watched: &Watched<'_>,
    ) -> anyhow::Result<Duration> {
        let mut bar = JobBar::new(watched.rows);
        let progress = metrics.observe(results, watched.token)?;
        let mut done: Option<Instant> = None;
        let mut all_over: Option<Instant> = None;
        let outcome = loop {
            match self.check() {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(error) => break Err(error),
            }
            if let Some(now) = progress.try_iter().last() {
                bar.show(&now);
            }
            // Other hosts may be lost for good: the job goes on without them.
            let away: Vec<_> = self.running.iter().map(|program| program.host.away()).collect();
            if away.first().is_some_and(|receivers| *receivers >= Some(SIGHT_TIME)) {
                self.running.iter_mut().for_each(|program| program.running.leave());
                break Err(LostSight(metrics.name().to_owned()).into());
            }
            // When the first has ended, the job is done, and the others follow. The receiver has everything when it ends; one
            // that died just then, and was started again, looks for others that are gone.
            let receiver_ended = self.running.first().is_some_and(|receiver| receiver.ended);
            if receiver_ended && all_over.get_or_insert_with(Instant::now).elapsed() >= FOLLOW_TIME {
                break Ok(());
            }
            if self.running.iter().any(|program| program.ended) {
                let limit = if watched.packs { PACK_TIME } else { END_TIME };
                if done.get_or_insert_with(Instant::now).elapsed() >= limit {
                    let left = self.running.iter().filter(|p| !p.ended).map(|p| p.name.as_str());
                    let left: Vec<_> = left.collect();
                    break Err(anyhow!("waiting for {} to end: not within {limit:?}", left.join(", ")));
                }
            }
            std::thread::sleep(PAUSE);
        };
        bar.clear();
        outcome.map(|()| done.map_or(Duration::ZERO, |done| done.elapsed()))
    }
}

/// Makes a job's token.
///
/// # Errors
/// Those of the system.
pub(crate) fn make_token() -> anyhow::Result<Token> {
    let mut secret = [0u8; 32];
    getrandom::fill(&mut secret).map_err(|e| anyhow!("making a job token: {e}"))?;
    Ok(Token::new(wire::hash::hex(&secret)))
}
