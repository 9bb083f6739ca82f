//! The user's own Python function or class, in a separate Python process.
//!
//! Each worker has its own interpreter, so Python's global lock does not matter. Under the contract of 2018, batches and results
//! cross a socket as CSV; a model with typed columns gets columns, and returns columns. When the process dies, or is killed for exceeding its time or memory, the current batch fails. The next batch gets a new
//! process.
//!
//! | module | does |
//! |---|---|
//! | `process.rs` | starts a Python process, sends it requests, and ends it at a deadline |
//! | `ended.rs` | says why a process must be replaced |
//! | `template.rs` | a Python process that has loaded the model, and forks itself for each worker |
//! | `guard.rs` | a separate process, which ends the Python process and its descendants |
//! | `tree.rs` | finds descendants, measures their memory, and ends them |
//! | `environment.rs` | sets the environment of the Python process |
//! | `log.rs` | keeps what it prints |
//! | `typed.rs` | writes requests and prints answers of models with typed columns |
//! | `boot.py`, `runner.py`, `typed.py` | run in it |

mod ended;
mod environment;
pub mod guard;
mod log;
mod process;
mod template;
mod tree;
mod typed;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::frame;

use super::{Columns, Contract, Copied, Model, ModelError, NUL, Place, Request, StartMethod, Verdict};
use crate::metrics::ModelMetrics;
use ended::{Ended, Task};
use log::{Doing, Printed};
use process::{Answer, Process, Wait};
pub use template::Starter;

/// How long to keep retrying a restart.
const RESTART_TIME: Duration = Duration::from_secs(30);
/// The least number of tries, even after [`RESTART_TIME`], but for at most the limit for loading more.
const LEAST_TRIES: u32 = 5;
/// The longest pause between tries. The first pause is 50 ms, and each is twice as long as the previous one.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct Settings {
    pub interpreter: PathBuf,
    pub module: String,
    /// With the name of an object in the module.
    pub contract: Contract,
    /// Passed to the function in the environment, as `CLASSIFIER_SLOWNESS`.
    pub slowness: u32,
    /// How many threads the function's libraries may use.
    pub threads: u32,
    pub copied: Copied,
    pub start_method: StartMethod,
    /// How long the interpreter and the user's module may take to load.
    pub load_timeout: Duration,
    /// How long a batch may take.
    pub timeout: Duration,
    /// How much memory the process and all its descendants may use, in MiB.
    pub memory: u64,
}

/// The Python model.
pub struct Python {
    starter: Arc<Starter>,
    /// Its number in this classifier.
    worker: usize,
    process: Option<Process>,
    metrics: ModelMetrics,
    printed: Printed,
    /// A buffer for requests.
    request: Vec<u8>,
    /// The columns of the latest results, under the contract of 2018.
    columns: Columns,
    typed: typed::Known,
    /// The request that the process has not answered.
    sent: Option<Sent>,
}

struct Sent {
    wait: Wait,
    task: Task,
    /// See [`Request`].
    numbers: Option<(u64, u64)>,
}

impl Python {
    /// Starts the process of this worker, which has loaded the module. What it prints goes to `log`, or to the classifier's log.
    ///
    /// # Errors
    /// When the interpreter, pandas, the module or the object is missing; says what to do.
    pub fn start(starter: Arc<Starter>, worker: usize, log: Option<PathBuf>) -> anyhow::Result<Self> {
        let metrics = ModelMetrics::default();
        let printed = Printed::new(log, metrics.clone());
        let process = starter.start(worker, &printed)?;
        let typed = typed::Known::new(starter.settings.copied);
        let (request, columns) = (Vec::new(), Columns::default());
        let (process, sent) = (Some(process), None);
        Ok(Self { starter, worker, process, metrics, printed, request, columns, typed, sent })
    }
}

impl Model for Python {
    fn send(&mut self, request: &Request<'_>) -> Result<(), ModelError> {
        self.request.clear();
        match &self.starter.settings.contract {
            Contract::Of2018(_) => write_csv(request, &mut self.request)?,
            Contract::Typed(_) => typed::write(request, &mut self.request),
        }
        if self.sent.take().is_some() {
            // Answers have no numbers: that to the earlier request would be taken for this one's.
            self.process = None;
        }
        self.prepare()?;
        let Some(process) = &mut self.process else {
            return Err(ModelError::new("there is no Python process"));
        };
        self.printed
            .begin(request.numbers.map_or(Doing::Measuring, |(first, last)| Doing::Rows(first, last)));
        let rows = request.records.len();
        let task = Task::Rows { rows, is_short: request.limit < self.starter.settings.timeout };
        match process.send_rows(&self.request, request.limit) {
            Ok(wait) => {
                self.sent = Some(Sent { wait, task, numbers: request.numbers });
                Ok(())
            }
            Err(ended) => Err(self.replace(&ended, task, request.numbers)),
        }
    }

    fn recv(&mut self) -> Result<Vec<u8>, ModelError> {
        let Some((Sent { wait, task, numbers }, process)) = self.sent.take().zip(self.process.as_mut())
        else {
            return Err(ModelError::new("the Python process has no request"));
        };
        match process.recv_rows(wait) {
            Ok(Answer::Good(answer)) => Ok(answer),
            Ok(Answer::Bad(reason) | Answer::BadSeeLog(reason)) => {
                let error = ModelError::new(reason);
                self.count_exception(&error);
                Err(error)
            }
            Err(ended) => Err(self.replace(&ended, task, numbers)),
        }
    }

    fn append(
        &mut self,
        answer: Vec<u8>,
        request: &Request<'_>,
        results: &mut Vec<u8>,
    ) -> Result<Columns, ModelError> {
        self.append_checked(&answer, request, results).inspect_err(|error| self.count_exception(error))
    }

    fn prepare(&mut self) -> Result<(), ModelError> {
        if self.process.is_none() {
            self.process = Some(self.restart()?);
        }
        Ok(())
    }

    fn timeout(&self) -> Duration {
        self.starter.settings.timeout
    }

    fn metrics(&self) -> ModelMetrics {
        self.metrics.clone()
    }

    fn place(&self) -> Place {
        Place::Process
    }
}

impl Python {
    /// Ends a process that cannot be used any more.
    fn replace(&mut self, ended: &Ended, task: Task, numbers: Option<(u64, u64)>) -> ModelError {
        let Some(process) = self.process.take() else { return ModelError::new(ended.to_string()) };
        let pid = process.pid();
        let message = process.end(ended, task);
        let rows = if let Task::Rows { rows, .. } = task { rows } else { 0 };
        let from = numbers.map(|(first, _)| format!(" from row {first} on")).unwrap_or_default();
        tracing::warn!("process {pid}, with {rows} rows{from}: {message}");
        self.metrics.count(|counts| {
            let is_crash = matches!(ended, Ended::Died(_));
            let times = if is_crash { &mut counts.crashes } else { &mut counts.kills };
            *times += 1;
            counts.failed(&message);
        });
        let verdict = if matches!(ended, Ended::TimedOut(_)) { Verdict::Hung } else { Verdict::Retry };
        ModelError { message, verdict }
    }

    fn count_exception(&self, error: &ModelError) {
        self.metrics.count(|counts| {
            counts.exceptions += 1;
            counts.failed(&error.message);
        });
    }

    /// Appends the results in an answer, if it has one for each row.
    fn append_checked(
        &mut self,
        answer: &[u8],
        request: &Request<'_>,
        results: &mut Vec<u8>,
    ) -> Result<Columns, ModelError> {
        let (columns, answer) = split(answer)
            .ok_or_else(|| ModelError::new("the result does not describe its columns".to_owned()))?;
        if let Contract::Typed(_) = self.starter.settings.contract {
            let appended = self.typed.append(columns, answer, request, results);
            return appended.map_err(|error| ModelError::new(format!("the answer is malformed: {error:#}")));
        }
        if columns != &*self.columns {
            self.columns = columns.into();
        }
        let rows = request.records.len();
        // Whatever went wrong in the process, no row may be lost.
        let lines =
            count_records(answer).map_err(|e| ModelError::new(format!("the result is not a CSV: {e}")))?;
        if lines != rows {
            return Err(ModelError::new(format!("{lines} result lines for {rows} rows")));
        }
        results.extend_from_slice(answer);
        Ok(Columns::clone(&self.columns))
    }

    /// Starts a new process. Retries, since a failure says nothing about the records and may be temporary, such as a lack of
    /// memory.
    fn restart(&self) -> Result<Process, ModelError> {
        self.printed.begin(Doing::Loading);
        let deadline = Instant::now() + RESTART_TIME;
        let (mut pause, mut tries) = (Duration::from_millis(50), 0);
        loop {
            tries += 1;
            let error = match self.starter.start(self.worker, &self.printed) {
                Ok(process) => return Ok(process),
                Err(error) => error,
            };
            let now = Instant::now();
            if now + pause >= deadline
                && (tries >= LEAST_TRIES || now >= deadline + self.starter.settings.load_timeout)
            {
                return Err(ModelError { message: format!("{error:#}"), verdict: Verdict::NotTried });
            }
            tracing::warn!("{error:#}; trying again");
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        self.printed.finish();
    }
}

/// Writes the request for a function under the contract of 2018.
///
/// # Errors
/// A record has a byte that pandas does not read.
fn write_csv(request: &Request<'_>, out: &mut Vec<u8>) -> Result<(), ModelError> {
    out.extend_from_slice(&(request.records.len() as u32).to_be_bytes());
    out.extend_from_slice(request.header);
    out.push(b'\n');
    for record in request.records {
        if record.bytes.contains(&0) {
            return Err(ModelError::permanent(NUL));
        }
        out.extend_from_slice(record.bytes);
        out.push(b'\n');
    }
    Ok(())
}

/// Splits an answer into its columns, which are preceded by their length, and its results.
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
