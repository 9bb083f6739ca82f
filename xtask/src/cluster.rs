//! A job on hosts: starts its programs in order, wires them, and watches them until the job is done.
//!
//! receiver → initializer → other classifiers → sender. Each one's addresses are known when the next is started,
//! since programs write where they listen to a ready file. Whatever happens, nothing that was started here is
//! left behind: a program ends when its [`Running`] is dropped.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use wire::frame::{DEFAULT_LIMIT, FrameReader};
use wire::opening::{self, ResultsOpening};
use wire::program::Ready;
use wire::results::Progress;
use wire::token::Token;
use wire::{net, ports};

use crate::host::{Host, Launch, Running};
use crate::interrupt;
use crate::ui::JobBar;

/// How long a program may take until it is ready; the initializer waits for others, and Python boxes have to load
/// pandas.
const READY_TIME: Duration = Duration::from_secs(300);
/// How long the programs may take to end when the job is done.
const END_TIME: Duration = Duration::from_secs(30);
/// How often ready files are looked at, and programs asked whether they have ended.
const PAUSE: Duration = Duration::from_millis(2);
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
    /// Where the results go.
    pub(crate) results: PathBuf,
    /// Where ready files go.
    pub(crate) run_folder: PathBuf,
    /// The job's token, and the file that has it.
    pub(crate) token: Token,
    /// The file that has the token.
    pub(crate) token_file: PathBuf,
}

/// Where rows come from.
#[derive(Debug, Clone)]
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

/// Runs a job until its results are durable.
///
/// # Errors
/// When one of its programs fails, with its last lines; or somebody interrupts.
pub(crate) fn run(job: &Job, hosts: &Hosts<'_>) -> anyhow::Result<()> {
    let mut programs = Programs { job, running: Vec::new() };
    let token = ["--token-file".to_owned(), job.token_file.display().to_string()];

    // Programs are found by their ready files, so that it does not matter when the usual port is taken.
    let at = |host: &dyn Host, port: u16| format!("{}:{port}", host.address());
    let mut args = vec!["--framed".into(), "--listen".into(), at(hosts.metrics, ports::RESULTS)];
    args.extend(["--any-port".into(), "--output".into(), job.results.display().to_string()]);
    args.extend(token.clone());
    let receiver = programs.start(hosts.metrics, "receiver", "receiver", args, false)?;
    let results = programs.await_address(receiver, "results")?;

    let processes = hosts.classifiers.len();
    let mut common = job.classifier.clone();
    common.push("--any-port".into());
    common.extend(["--out".into(), results.clone()]);
    common.extend(["--worker-count".into(), processes.to_string()]);
    common.extend(["--workers".into(), job.workers.to_string()]);
    common.extend(token.clone());
    let mut classifiers = hosts.classifiers.iter().enumerate();
    let (_, host) = classifiers.next().context("a job needs a classifier")?;
    let mut args = common.clone();
    args.extend(["--cluster-initializer".into(), "--name".into(), "initializer".into()]);
    args.extend(["--in".into(), at(*host, ports::ROWS), "--control".into(), at(*host, ports::CONTROL)]);
    args.extend(["--my-data".into(), at(*host, ports::DATA)]);
    let initializer = programs.start(*host, "initializer", "classifier", args, false)?;
    if processes > 1 {
        let control = programs.await_address(initializer, "control")?;
        for (i, host) in classifiers {
            let name = format!("worker{i}");
            let mut args = common.clone();
            args.extend(["--name".into(), name.clone(), "--control".into(), control.clone()]);
            args.extend(["--my-data".into(), at(*host, 0)]);
            programs.start(*host, &name, "classifier", args, false)?;
        }
    }
    let rows = programs.await_address(initializer, "rows")?;

    let mut args = vec![rows];
    args.extend(token);
    args.extend(job.input.sender_args());
    programs.start(hosts.metrics, "sender", "sender", args, matches!(job.input, Input::Stdin))?;
    programs.await_end(&results)
}

/// The programs of a job that were started.
struct Programs<'a> {
    job: &'a Job,
    running: Vec<Program<'a>>,
}

struct Program<'a> {
    name: String,
    host: &'a dyn Host,
    ready_file: PathBuf,
    running: Box<dyn Running>,
    ended: bool,
}

impl<'a> Programs<'a> {
    fn start(
        &mut self,
        host: &'a dyn Host,
        name: &str,
        program: &'static str,
        mut args: Vec<String>,
        stdin: bool,
    ) -> anyhow::Result<usize> {
        let ready_file = self.job.run_folder.join(format!("{name}.ready"));
        if program != "sender" {
            args.extend(["--ready-file".into(), ready_file.display().to_string()]);
        }
        let launch = Launch { name: name.to_owned(), program, args, ready_file: ready_file.clone(), stdin };
        let running = host.start(&launch)?;
        self.running.push(Program { name: name.to_owned(), host, ready_file, running, ended: false });
        Ok(self.running.len() - 1)
    }

    /// Waits until a program says where it listens for `what`.
    fn await_address(&mut self, program: usize, what: &str) -> anyhow::Result<String> {
        let deadline = Instant::now() + READY_TIME;
        loop {
            self.check()?;
            let Program { name, host, ready_file, .. } = &self.running[program];
            let ready: Option<Ready> = host.ready(ready_file)?;
            if let Some(address) = ready.as_ref().and_then(|ready| ready.addresses.get(what)) {
                return Ok(address.to_string());
            }
            if Instant::now() >= deadline {
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
        if interrupt::is_wanted() {
            bail!("interrupted");
        }
        for i in 0..self.running.len() {
            let program = &mut self.running[i];
            if program.ended {
                continue;
            }
            if let Some(status) = program.running.try_wait()? {
                program.ended = true;
                if !status.success() {
                    return Err(self.failure(i, &status.to_string()));
                }
            }
        }
        Ok(self.running.iter().all(|program| program.ended))
    }

    /// What a failed program said; and, since one failure brings others with it, what those said that failed too.
    fn failure(&mut self, first: usize, status: &str) -> anyhow::Error {
        let mut text = format!("{} failed ({status})", self.running[first].name);
        // Those that fail because of this one have just time to say so.
        std::thread::sleep(Duration::from_millis(100));
        for (i, program) in self.running.iter_mut().enumerate() {
            let failed = i == first
                || program.running.try_wait().ok().flatten().is_some_and(|status| !status.success());
            if !failed {
                continue;
            }
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

    /// Shows how the job goes, until all programs have ended.
    fn await_end(&mut self, results: &str) -> anyhow::Result<()> {
        let mut bar = JobBar::new(self.job.input.rows());
        let progress = observe(results, &self.job.token);
        let mut deadline: Option<Instant> = None;
        let outcome = loop {
            match self.check() {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(error) => break Err(error),
            }
            if let Some(now) = progress.try_iter().last() {
                bar.show(&now);
            }
            // When the first has ended, the job is done, and the others follow.
            if self.running.iter().any(|program| program.ended) {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + END_TIME);
                if Instant::now() >= deadline {
                    let left = self.running.iter().filter(|p| !p.ended).map(|p| p.name.as_str());
                    let left: Vec<_> = left.collect();
                    break Err(anyhow!("waiting for {} to end: not within {END_TIME:?}", left.join(", ")));
                }
            }
            std::thread::sleep(PAUSE);
        };
        bar.clear();
        outcome
    }
}

/// Asks the receiver, on a thread, how the job goes. Losing this connection loses the picture and nothing else.
fn observe(results: &str, token: &Token) -> std::sync::mpsc::Receiver<Progress> {
    let (sender, progress) = std::sync::mpsc::channel();
    let (results, token) = (results.to_owned(), token.clone());
    std::thread::spawn(move || {
        let observed = || -> anyhow::Result<()> {
            let stream: TcpStream = net::connect("the receiver", &results, Duration::from_secs(5))?;
            opening::send(&stream, Some(&token), &ResultsOpening::Observer {})?;
            let mut reader = FrameReader::new(stream, "the receiver", DEFAULT_LIMIT);
            while let Some(payload) = reader.next_frame()? {
                sender.send(opening::answer(&payload, "the receiver")?)?;
            }
            Ok(())
        };
        // The job's own programs say what is wrong, if something is.
        let _ = observed();
    });
    progress
}

/// Makes a job's token and writes it to a file that only this user may read.
///
/// # Errors
/// Those of the system.
pub(crate) fn make_token(path: &Path) -> anyhow::Result<Token> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut secret = [0u8; 32];
    getrandom::fill(&mut secret).map_err(|e| anyhow!("making a job token: {e}"))?;
    let secret = wire::hex(&secret);
    let context = || format!("writing the job token to {}", path.display());
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).with_context(context),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(context)?;
    file.write_all(secret.as_bytes()).with_context(context)?;
    Ok(Token::new(secret))
}
