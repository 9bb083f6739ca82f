//! The user's own pandas function, in a Python process of its own.
//!
//! Each worker keeps one interpreter, so Python's global lock never matters. Batches go to it as CSV over a
//! pipe, results come back the same way. A process that dies, or that the [`watchdog`] kills, fails that batch; the next
//! batch gets a new process.

mod watchdog;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use wire::frame;

use super::{BlackBox, BoxError, Columns, Patience, Record, Verdict};
use watchdog::{Reason, Watchdog};

const RUNNER: &str = include_str!("runner.py");
/// How long the interpreter and the user's module may take to load.
const START_TIME: Duration = Duration::from_secs(120);
/// How long a new process is tried to be had in place of one that is gone; how often at least, if that takes longer, but for no
/// more than [`START_TIME`] besides; and the longest pause between tries.
const RESTART_TIME: Duration = Duration::from_secs(30);
const LEAST_TRIES: u32 = 5;
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Longer lines of its standard error are broken.
const LONGEST_LINE: u64 = 16 << 10;
/// How many of the last lines that the process wrote to its standard error are told when it dies.
const LAST_LINES: usize = 5;

/// What to run, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The Python interpreter.
    pub interpreter: PathBuf,
    /// The module's name.
    pub module: String,
    /// The function's name in it.
    pub function: String,
    /// For the function, in the environment as `CLASSIFIER_SLOWNESS`.
    pub slowness: u32,
    /// How long a batch may take.
    pub timeout: Duration,
    /// How much memory the process may have, in MiB.
    pub memory: u64,
}

/// The Python box.
pub struct Python {
    settings: Settings,
    process: Option<Process>,
    request: Vec<u8>,
    /// Of the results before.
    columns: Columns,
}

impl Python {
    /// Starts the interpreter and loads the module.
    ///
    /// # Errors
    /// No interpreter, no pandas, no such module or function; the message says what to do.
    pub fn start(settings: Settings) -> anyhow::Result<Self> {
        let process = Process::start(&settings)?;
        Ok(Self { settings, process: Some(process), request: Vec::new(), columns: Columns::default() })
    }
}

impl BlackBox for Python {
    fn classify(
        &mut self,
        header: &[u8],
        records: &[Record<'_>],
        results: &mut Vec<u8>,
        patience: Patience,
    ) -> Result<Columns, BoxError> {
        if records.iter().any(|record| record.bytes.contains(&0)) {
            return Err(BoxError::lasting(
                "a NUL byte in the record, at which pandas would cut the value off",
            ));
        }
        self.request.clear();
        self.request.extend_from_slice(&(records.len() as u32).to_be_bytes());
        self.request.extend_from_slice(header);
        self.request.push(b'\n');
        for record in records {
            self.request.extend_from_slice(record.bytes);
            self.request.push(b'\n');
        }
        let mut process = match self.process.take() {
            Some(process) => process,
            None => self.restart()?,
        };
        let limit = self.limit(records.len(), patience);
        let answer = match process.ask(&self.request, limit) {
            Ok(answer) => answer,
            Err(error) => {
                let hung = matches!(process.watchdog.fired(), Some(Reason::Late(_)));
                let message = process.end(&error, " for a batch");
                return Err(BoxError { message, verdict: if hung { Verdict::Hung } else { Verdict::Open } });
            }
        };
        // The answer may have come in the moment in which the process was killed for not giving it.
        self.process = process.watchdog.fired().is_none().then_some(process);
        let answer = answer.map_err(BoxError::new)?;
        let (columns, answer) = split(&answer)
            .ok_or_else(|| BoxError::new("the result does not say what its columns are".to_owned()))?;
        if columns != &*self.columns {
            self.columns = columns.into();
        }
        // Whatever went wrong on the other side, no row is lost here.
        let lines = count_records(answer).map_err(|e| BoxError::new(format!("the result is no CSV: {e}")))?;
        if lines != records.len() {
            return Err(BoxError::new(format!("{lines} result lines for {} rows", records.len())));
        }
        results.extend_from_slice(answer);
        Ok(Columns::clone(&self.columns))
    }
}

impl Python {
    /// A new process in place of one that is gone. What is in its way may pass, as a lack of memory does when others end, and
    /// is no fault of any record.
    fn restart(&self) -> Result<Process, BoxError> {
        let deadline = Instant::now() + RESTART_TIME;
        let (mut pause, mut tries) = (Duration::from_millis(50), 0);
        loop {
            tries += 1;
            let error = match Process::start(&self.settings) {
                Ok(process) => return Ok(process),
                Err(error) => error,
            };
            let now = Instant::now();
            if now + pause >= deadline && (tries >= LEAST_TRIES || now >= deadline + START_TIME) {
                return Err(BoxError { message: format!("{error:#}"), verdict: Verdict::NotTried });
            }
            wire::say!("classifier: {error:#}; trying again");
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// How long so many rows may take.
    fn limit(&self, rows: usize, patience: Patience) -> Duration {
        match patience {
            Patience::Batch => self.settings.timeout,
            Patience::Part { of } => {
                self.settings.timeout.mul_f64((rows as f64 / of as f64).clamp(0.25, 1.0))
            }
        }
    }
}

/// An answer's columns, whose length is in front, and its results.
fn split(answer: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = answer.split_first_chunk()?;
    let (columns, results) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    Some((std::str::from_utf8(columns).ok()?, results))
}

fn count_records(csv: &[u8]) -> anyhow::Result<usize> {
    let mut reader = records::Reader::new(csv, frame::PEER_LIMIT);
    let mut count = 0;
    while let Some(row) = reader.next_row()? {
        row.flaw.map_or(Ok(()), Err)?;
        count += 1;
    }
    Ok(count)
}

/// A running interpreter.
struct Process {
    child: Arc<Mutex<Child>>,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    watchdog: Arc<Watchdog>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    /// Ends when the process's standard error does.
    log_end: std::sync::mpsc::Receiver<()>,
}

impl Process {
    fn start(settings: &Settings) -> anyhow::Result<Self> {
        let name = settings.interpreter.display();
        let mut child = Command::new(&settings.interpreter)
            .arg("-c")
            .arg(RUNNER)
            .args([&settings.module, &settings.function])
            .env("CLASSIFIER_SLOWNESS", settings.slowness.to_string())
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, with all that the function starts, so that all of it can be ended.
            .process_group(0)
            .spawn()
            .with_context(|| {
                format!(
                    "starting the Python interpreter {name}; install Python 3, or choose one with --python"
                )
            })?;
        let (Some(requests), Some(answers), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            bail!("the Python interpreter {name} was started without its pipes");
        };
        let last_lines = Arc::new(Mutex::new(VecDeque::new()));
        let lines = Arc::clone(&last_lines);
        let (logging, log_end) = std::sync::mpsc::channel();
        let watchdog = Arc::new(Watchdog::default());
        let child = Arc::new(Mutex::new(child));
        let answers = BufReader::with_capacity(64 << 10, answers);
        // From here on, the process is ended when it is of no use.
        let mut process = Self { child, requests: Some(requests), answers, watchdog, last_lines, log_end };
        std::thread::Builder::new()
            .name("python log".into())
            .spawn(move || {
                pass_on(errors, &lines);
                drop(logging);
            })
            .context("starting a thread")?;
        process.watchdog.start(Arc::clone(&process.child), settings.memory)?;
        process.watchdog.set(Some(START_TIME));
        let ready = process.answer();
        process.watchdog.set(None);
        match ready {
            Ok(Ok(_)) => Ok(process),
            Ok(Err(reason)) => bail!("the Python classifier cannot start: {reason}"),
            Err(error) => bail!("the Python classifier cannot start: {}", process.end(&error, " to start")),
        }
    }

    /// Has a batch classified: the results, or the function's own reason why not.
    fn ask(&mut self, request: &[u8], timeout: Duration) -> std::io::Result<Result<Vec<u8>, String>> {
        self.watchdog.set(Some(timeout));
        let outcome = match &mut self.requests {
            Some(requests) => frame::write(requests, request),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        let answer = outcome.and_then(|()| self.answer());
        self.watchdog.set(None);
        answer
    }

    fn answer(&mut self) -> std::io::Result<Result<Vec<u8>, String>> {
        let mut prefix = [0; frame::PREFIX];
        self.answers.read_exact(&mut prefix)?;
        let length = u32::from_be_bytes(prefix) as usize;
        if length == 0 || length > frame::PEER_LIMIT {
            return Err(std::io::Error::other(format!("an answer of {length} bytes")));
        }
        let mut kind = [0];
        self.answers.read_exact(&mut kind)?;
        let mut text = Vec::new();
        (&mut self.answers).take(length as u64 - 1).read_to_end(&mut text)?;
        if text.len() + 1 < length {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match kind {
            [b'K'] => Ok(Ok(text)),
            [b'E'] => Ok(Err(String::from_utf8_lossy(&text).into_owned())),
            _ => Err(std::io::Error::other("an answer of an unknown kind")),
        }
    }

    /// Ends the process, and tells why it is no use any more.
    fn end(mut self, error: &std::io::Error, what_for: &str) -> String {
        if let Some(reason) = self.watchdog.fired() {
            let what_for = if matches!(reason, Reason::Late(_)) { what_for } else { "" };
            return format!("the Python process {reason}{what_for}, and was killed");
        }
        let status = self.kill();
        // The last lines are usually here at once; but a child of the process may hold the pipe open.
        let _ = self.log_end.recv_timeout(Duration::from_millis(200));
        let lines = self.last_lines.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = lines.iter().map(String::as_str).collect::<Vec<_>>().join(" | ");
        let said = if lines.is_empty() { String::new() } else { format!("; it last wrote: {lines}") };
        format!("the Python process broke off ({error}; {status}){said}")
    }

    fn kill(&mut self) -> String {
        // Without its requests it ends by itself, too; a process that is gone cannot be killed, which is fine.
        self.requests = None;
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        kill_group(&mut child);
        let ended = child.try_wait().ok().flatten();
        match ended.map_or_else(|| child.wait(), Ok) {
            Ok(status) => status.to_string(),
            Err(error) => format!("its exit status is unknown: {error}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        self.watchdog.retire();
    }
}

/// Kills a process and all that it has started, unless it has been waited for: then its id may be another one's.
fn kill_group(child: &mut Child) {
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    let group = nix::unistd::Pid::from_raw(child.id() as i32);
    let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
}

/// Passes the process's standard error on to ours, and keeps its last lines.
fn pass_on(errors: impl Read, last: &Mutex<VecDeque<String>>) {
    let mut errors = BufReader::new(errors);
    let mut line = Vec::new();
    loop {
        line.clear();
        // Whatever it writes must be read, or it would wait for that; but a line need not be kept whole.
        match errors.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return wire::say!("python: its standard error cannot be read any more: {error}"),
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        wire::say!("python: {line}");
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
}
