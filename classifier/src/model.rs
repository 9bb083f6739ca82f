//! Models turn the rows of a batch into result lines.
//!
//! | module     | the model |
//! |------------|-----------|
//! | [`native`] | a built-in stand-in for an expensive model, with a public definition |
//! | [`python`] | the user's own pandas function, unchanged |
//! | [`sleep`]  | sleeps for each row and uses no processor, to measure how the cluster scales |
//! | `copied`   | what results repeat of the input |
//! | `shared`   | another model, which its measurement uses, too |

mod copied;
pub mod native;
pub mod python;
mod shared;
pub mod sleep;

pub use copied::Copied;
pub use shared::{Meter, Shared};

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use columns::Table;
use protocol::schema::{Column, Schema, TEXT};

use crate::metrics::ModelMetrics;

/// A record that can be classified: valid UTF-8, with as many values as the header.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The record as it was received.
    pub bytes: &'a [u8],
    /// Whether it has neither quotes nor line feeds, and so can be split at its commas.
    pub plain: bool,
}

/// Why a record with a NUL is rejected.
pub(crate) const NUL: &str = "a NUL byte in the record, at which pandas would cut the value off";

/// Why a model did not classify a batch. The message is written beside the rejected record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ModelError {
    pub message: String,
    pub verdict: Verdict,
}

/// What a model's failure means for the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Another try may succeed.
    Retry,
    /// Another try would fail in the same way.
    Permanent,
    /// The model took too long: a record hangs, or there were too many records for the time limit.
    Hung,
    /// The model could not be started, so this says nothing about the records.
    NotTried,
}

impl ModelError {
    /// A failure that another try may avoid.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), verdict: Verdict::Retry }
    }

    /// A failure that any other try would repeat.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self { message: message.into(), verdict: Verdict::Permanent }
    }
}

/// Rows of a table.
#[derive(Debug, Clone)]
pub struct Typed<'a> {
    /// Without columns for a model that has no typed ones.
    pub table: &'a Table,
    pub rows: Range<usize>,
}

/// Records to classify.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    pub header: &'a [u8],
    pub records: &'a [Record<'a>],
    /// The values of the same records.
    pub typed: Typed<'a>,
    /// The numbers of the first and the last record's row; `None` when the model is being measured.
    pub numbers: Option<(u64, u64)>,
    /// How long the model may take.
    pub limit: Duration,
}

/// The columns of a model's results, as JSON of a [`Schema`](protocol::schema::Schema). A model returns the same `Arc` while
/// its columns stay the same, so that comparing them is fast.
pub type Columns = Arc<str>;

/// Encodes, once per header, the columns of a model that appends a score to records of text.
#[derive(Debug, Default)]
pub struct Scored(Option<(Vec<u8>, Columns)>);

impl Scored {
    /// The columns of records with this header, plus the score.
    pub fn columns(&mut self, header: &[u8]) -> Columns {
        match &self.0 {
            Some((known, columns)) if known == header => Columns::clone(columns),
            _ => {
                let columns = scored(header);
                self.0 = Some((header.to_vec(), Columns::clone(&columns)));
                columns
            }
        }
    }
}

fn scored(header: &[u8]) -> Columns {
    // The source admits no malformed header.
    let names = records::split(header).unwrap_or_default();
    let mut columns: Vec<_> =
        names.iter().map(|name| Column::new(String::from_utf8_lossy(name), TEXT)).collect();
    columns.push(Column::new("CLASSIFICATION", "decimal"));
    serde_json::to_string(&Schema::new(columns)).unwrap_or_default().into()
}

/// A model. A row's result must not depend on the other rows of its batch.
///
/// A request has three steps, of which a model outside this process has all, and another one only the last. It has one request
/// at a time; but before it appends the results of one, it may get the next.
pub trait Model: Send {
    /// Gives the model a request. In another process, it begins to work on it.
    ///
    /// # Errors
    /// When it has not got the request.
    fn send(&mut self, _request: &Request<'_>) -> Result<(), ModelError> {
        Ok(())
    }

    /// Waits for the answer to the request that was sent.
    ///
    /// # Errors
    /// When it has not classified these records.
    fn recv(&mut self) -> Result<Vec<u8>, ModelError> {
        Ok(Vec::new())
    }

    /// Appends a result for each record of the request that was answered, in order: the record, its new values, each after a
    /// comma, and a line end. Returns the columns.
    ///
    /// # Errors
    /// When it cannot classify these records, or the answer is malformed. The caller discards what was appended.
    fn append(
        &mut self,
        answer: Vec<u8>,
        request: &Request<'_>,
        results: &mut Vec<u8>,
    ) -> Result<Columns, ModelError>;

    /// All steps of a request.
    ///
    /// # Errors
    /// When it cannot classify these records. The caller discards what was appended.
    fn classify(&mut self, request: &Request<'_>, results: &mut Vec<u8>) -> Result<Columns, ModelError> {
        self.send(request)?;
        let answer = self.recv()?;
        self.append(answer, request, results)
    }

    /// Gets ready to classify, which may take long after a failure. A request's time limit begins after this.
    ///
    /// # Errors
    /// When the model cannot be restarted.
    fn prepare(&mut self) -> Result<(), ModelError> {
        Ok(())
    }

    /// How long a batch may take.
    fn timeout(&self) -> Duration {
        Duration::MAX
    }

    fn metrics(&self) -> ModelMetrics {
        ModelMetrics::default()
    }

    fn place(&self) -> Place {
        Place::Thread
    }
}

/// Where a model works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the timely worker's own thread, since a batch takes microseconds.
    Worker,
    /// On a thread of its own.
    Thread,
    /// In another process, for which a thread of its own prepares the next batch meanwhile.
    Process,
}

/// What a Python model gets and returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contract {
    /// A function of this name gets a DataFrame of strings, whose index is the first column, and returns it with the column
    /// CLASSIFICATION.
    Of2018(String),
    /// A callable of this name gets a DataFrame with typed columns, and returns new columns.
    Typed(String),
}

/// How each worker's Python process gets its model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StartMethod {
    /// From a process that has loaded the model and forks itself, unless that may not work.
    #[default]
    Auto,
    /// From such a process in any case.
    Fork,
    /// Each process loads the model by itself.
    Spawn,
}

impl fmt::Display for StartMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Fork => "fork",
            Self::Spawn => "spawn",
        })
    }
}

impl FromStr for StartMethod {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let all = [Self::Auto, Self::Fork, Self::Spawn];
        let found = all.into_iter().find(|method| method.to_string() == text);
        found.with_context(|| format!("{text:?} is not a start method; there are auto, fork and spawn"))
    }
}

/// The kind of model, parsed from the user's `--model`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `native`
    Native,
    /// `python:MODULE[:OBJECT]`
    Python { module: String, contract: Contract },
    /// `sleep:MICROSECONDS`
    Sleep(Duration),
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut parts = text.splitn(3, ':');
        match (parts.next().unwrap_or_default(), parts.next(), parts.next()) {
            ("native", None, None) => Ok(Self::Native),
            ("python", Some(module), object) if !module.is_empty() => {
                let of_2018 = || Contract::Of2018("classify_df".to_owned());
                let contract = object.map_or_else(of_2018, |object| Contract::Typed(object.to_owned()));
                Ok(Self::Python { module: module.to_owned(), contract })
            }
            ("sleep", Some(micros), None) => micros
                .parse()
                .map(|micros| Self::Sleep(Duration::from_micros(micros)))
                .with_context(|| format!("{micros:?} is not a number of microseconds")),
            _ => bail!(
                "{text:?} is not a model; there are native, python:MODULE[:OBJECT] and sleep:MICROSECONDS"
            ),
        }
    }
}

impl Kind {
    /// The same model under the contract of 2018.
    #[must_use]
    pub fn of_2018(self) -> Self {
        match self {
            Self::Python { module, contract: Contract::Typed(function) } => {
                Self::Python { module, contract: Contract::Of2018(function) }
            }
            other => other,
        }
    }

    /// Whether the model gets typed columns.
    pub fn is_typed(&self) -> bool {
        matches!(self, Self::Python { contract: Contract::Typed(_), .. })
    }
}

/// The settings of models. Each worker has its own model.
#[derive(Debug, Clone)]
pub struct ModelSettings {
    pub kind: Kind,
    /// How many times the native model feeds a record to its hash. Python models find it in the environment as
    /// `CLASSIFIER_SLOWNESS`.
    pub slowness: u32,
    /// The Python interpreter.
    pub python: PathBuf,
    /// How many threads the libraries of a Python model may use.
    pub threads: u32,
    pub copied: Copied,
    pub start_method: StartMethod,
    /// How long a Python model may take to load.
    pub load_timeout: Duration,
    /// How long a Python model may take for a batch.
    pub timeout: Duration,
    /// How much memory a Python model and all processes that it has started may use, in MiB.
    pub memory: u64,
    /// Where a Python model's output goes: with the worker's number and `.log` appended, or to this program's log.
    pub log: Option<PathBuf>,
}

impl ModelSettings {
    /// Loads a model, ready to classify.
    ///
    /// # Errors
    /// When a Python model cannot be started; says what is missing.
    pub fn load(&self) -> anyhow::Result<Box<dyn Model>> {
        self.load_many(1)?.pop().context("there is no model")
    }

    /// Loads `count` models in parallel, since an interpreter is slow to start.
    ///
    /// # Errors
    /// The first error of a Python model that cannot be started; says what is missing.
    pub fn load_many(&self, count: usize) -> anyhow::Result<Vec<Box<dyn Model>>> {
        let models = 0..count;
        match &self.kind {
            Kind::Native => Ok(models.map(|_| Box::new(native::Native::new(self.slowness)) as _).collect()),
            Kind::Sleep(per_row) => Ok(models.map(|_| Box::new(sleep::Sleep::new(*per_row)) as _).collect()),
            Kind::Python { module, contract } => {
                let starter = Arc::new(python::Starter::new(python::Settings {
                    interpreter: self.python.clone(),
                    module: module.clone(),
                    contract: contract.clone(),
                    slowness: self.slowness,
                    threads: self.threads,
                    copied: self.copied,
                    start_method: self.start_method,
                    load_timeout: self.load_timeout,
                    timeout: self.timeout,
                    memory: self.memory,
                }));
                let start = |worker: usize| {
                    let log = self.log.as_ref().map(|log| {
                        let mut path = log.clone().into_os_string();
                        path.push(format!("{worker}.log"));
                        path.into()
                    });
                    python::Python::start(Arc::clone(&starter), worker, log)
                };
                // If the first one loads the model for all, an error is reported once.
                let is_first = self.start_method != StartMethod::Spawn && count > 0;
                let first = if is_first { Some(start(0)?) } else { None };
                let models = usize::from(is_first)..count;
                let others = std::thread::scope(|scope| {
                    let starts: Vec<_> = models.map(|worker| scope.spawn(move || start(worker))).collect();
                    let joined = starts.into_iter().map(std::thread::ScopedJoinHandle::join);
                    joined
                        .map(|model| model.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                        .collect::<anyhow::Result<Vec<_>>>()
                })?;
                Ok(first.into_iter().chain(others).map(|model| Box::new(model) as _).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_named_as_documented() {
        let kind = |text: &str| text.parse::<Kind>();
        assert_eq!(kind("native").unwrap(), Kind::Native);
        assert_eq!(kind("sleep:3500").unwrap(), Kind::Sleep(Duration::from_micros(3500)));
        let python = |module: &str, contract| Kind::Python { module: module.into(), contract };
        assert_eq!(kind("python:a.b").unwrap(), python("a.b", Contract::Of2018("classify_df".into())));
        assert_eq!(kind("python:m:f").unwrap(), python("m", Contract::Typed("f".into())));
        assert_eq!(kind("python:m:f").unwrap().of_2018(), python("m", Contract::Of2018("f".into())));
        for wrong in ["", "rust", "python", "python:", "sleep", "sleep:fast", "sleep:-1", "native:1"] {
            assert!(kind(wrong).is_err(), "{wrong:?}");
        }
    }
}
