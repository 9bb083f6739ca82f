//! A job's options, wherever it runs, and the arguments and texts made of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use protocol::rejects::MostRejects;
use protocol::result_files::Form;
use records::{BadDialect, Declared};
use serde::{Deserialize, Serialize};
use telemetry::job::Description;

use crate::host::arg;

const CHUNK_SIZE: &str = "--chunk-size";
const CONTRACT: &str = "--contract";
const COLUMNS: &str = "--columns";
const THREADS: &str = "--threads-per-worker";
const LOAD_TIMEOUT: &str = "--load-timeout";
const TIMEOUT: &str = "--model-timeout";
const MEMORY: &str = "--model-memory";
/// How long a model may take for a batch by default, in seconds.
const DEFAULT_TIMEOUT: u64 = 60;
/// Rows in a batch by default.
const DEFAULT_CHUNK: &str = "100";
/// The same for a model with typed columns, since a call of a library takes milliseconds for any number of rows.
const DEFAULT_TYPED_CHUNK: &str = "auto";

/// The rows that the user wants to classify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    Fake {
        lines: u64,
        /// Seed for the generated rows.
        seed: u64,
    },
    /// CSV files with the same header, or one stream.
    Files {
        /// At least one.
        paths: Vec<PathBuf>,
        reading: Reading,
    },
}

/// How the sender reads a text; `None` stands for what is usual.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// As in `--delimiter`; a comma, too, overrules the check that the text looks like a CSV with commas.
    pub delimiter: Option<String>,
    /// As in `--quote`.
    pub quote: Option<String>,
    /// As in `--comment`.
    pub comment: Option<String>,
    /// As in `--encoding`.
    pub encoding: Option<String>,
    /// The program `formats` where the sender runs, if the input needs it.
    pub formats: Option<PathBuf>,
    /// The file with signed requests there, if some of the input is at S3.
    pub signed: Option<PathBuf>,
}

impl Reading {
    /// What it declares of a text.
    ///
    /// # Errors
    /// An option is no such character.
    pub fn declared(&self) -> Result<Declared, BadDialect> {
        Declared::parse(self.delimiter.as_deref(), self.quote.as_deref(), self.comment.as_deref())
    }

    /// The sender's arguments.
    pub fn to_args(&self) -> Vec<String> {
        let Self { delimiter, quote, comment, encoding, formats, signed } = self.clone();
        let (formats, signed) = (formats.map(|path| arg(&path)), signed.map(|path| arg(&path)));
        let all = [
            ("--delimiter", delimiter),
            ("--quote", quote),
            ("--comment", comment),
            ("--encoding", encoding),
            ("--formats", formats),
            ("--signed", signed),
        ];
        all.into_iter().filter_map(|(flag, value)| Some(format!("{flag}={}", value?))).collect()
    }
}

impl Rows {
    /// None for fake rows.
    pub fn paths(&self) -> &[PathBuf] {
        match self {
            Self::Fake { .. } => &[],
            Self::Files { paths, .. } => paths,
        }
    }
}

/// The options of a job, wherever it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobOptions {
    pub rows: Rows,
    /// How many rows may be rejected before the job fails.
    pub max_rejects: Option<MostRejects>,
    pub model: ModelOptions,
    /// Worker threads: of all processes on this machine, or of each machine in a cluster.
    pub workers: Option<u16>,
    /// Variables for all programs, such as `RUST_LOG`.
    pub environment: BTreeMap<String, String>,
    pub results: ResultOptions,
}

/// Where a job's results, rejects and summary are uploaded: an address of S3 that ends with a slash.
pub type Prefix = String;

/// What becomes of results and rejects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultOptions {
    /// Their form, if not plain text.
    pub form: Option<Form>,
    /// Where they and the summary are uploaded, too.
    pub upload: Option<Prefix>,
}

impl ResultOptions {
    /// Whether they are only plain files.
    pub fn is_plain(&self) -> bool {
        self.form.is_none() && self.upload.is_none()
    }
}

/// A model's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelOptions {
    /// How often `native` feeds a record to its hash.
    pub slowness: u32,
    /// Rows in a batch, as in `--chunk-size`.
    pub chunk_size: Option<String>,
    /// A Python model has the contract of 2018, also if its object is named.
    pub is_of_2018: bool,
    /// What the user says of the types of columns, as in `--types`.
    pub types: Option<String>,
    /// The columns of results, as in `--columns`.
    pub columns: Option<String>,
    /// Threads for the libraries of a Python model, in each worker.
    pub threads_per_worker: u32,
    /// How Python processes get the model, as in `--start-method`.
    pub start_method: Option<String>,
    /// Seconds that a Python model may take to load.
    pub load_timeout: Option<u64>,
    /// Seconds that a Python model may take for a batch.
    pub timeout: Option<u64>,
    /// MiB that a Python model may use, with all processes that it starts.
    pub memory: Option<u64>,
}

impl ModelOptions {
    /// The classifier's arguments for a model with these settings.
    pub fn to_args(&self, model: &str, python: &Path) -> Vec<String> {
        let mut args = vec![("--model", model.to_owned()), ("--python", arg(python))];
        args.push(("--slowness", self.slowness.to_string()));
        args.extend(self.is_of_2018.then(|| (CONTRACT, "2018".to_owned())));
        let usual = if self.is_typed(model) { DEFAULT_TYPED_CHUNK } else { DEFAULT_CHUNK };
        args.push((CHUNK_SIZE, self.chunk_size.clone().unwrap_or_else(|| usual.to_owned())));
        args.push((THREADS, self.threads_per_worker.to_string()));
        let new = self.columns.clone().filter(|columns| columns == "new");
        args.extend(new.map(|columns| (COLUMNS, columns)));
        args.extend(self.start_method.clone().map(|method| ("--start-method", method)));
        args.extend(self.load_timeout.map(|limit| (LOAD_TIMEOUT, limit.to_string())));
        args.push((TIMEOUT, self.timeout.unwrap_or(DEFAULT_TIMEOUT).to_string()));
        args.extend(self.memory.map(|memory| (MEMORY, memory.to_string())));
        args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    /// The settings that decide results, in any form that differs when they do.
    pub(crate) fn deciding(&self, model: &str) -> Vec<String> {
        let deciding =
            Self { start_method: None, load_timeout: None, timeout: None, memory: None, ..self.clone() };
        deciding.to_args(model, Path::new(""))
    }

    /// The settings that decide only whether rows are rejected for taking too much.
    pub(crate) fn limits(&self) -> String {
        format!("{:?} {:?}", self.timeout, self.memory)
    }

    /// Whether this model gets typed columns.
    pub fn is_typed(&self, model: &str) -> bool {
        !self.is_of_2018 && model.starts_with("python:") && model.matches(':').count() == 2
    }

    /// What the user says of the types of columns, if this model gets typed ones.
    ///
    /// # Errors
    /// The user says something of types or new columns, and the model gets no typed ones.
    pub fn types(&self, model: &str) -> anyhow::Result<Option<String>> {
        let is_typed = self.is_typed(model);
        ensure!(
            is_typed || self.types.is_none(),
            "--types is for a Python model with typed columns, such as python:MODULE:OBJECT, and not for {model}"
        );
        ensure!(
            is_typed || self.columns.as_deref() != Some("new"),
            "--columns new is for a Python model with typed columns, such as python:MODULE:OBJECT, and not for {model}"
        );
        Ok(is_typed.then(|| self.types.clone().unwrap_or_else(|| "infer".to_owned())))
    }

    /// Changes the arguments of an earlier job: only those that the user gave and that do not affect results.
    pub fn change(&self, args: &mut Vec<String>) {
        let given = [(LOAD_TIMEOUT, self.load_timeout), (TIMEOUT, self.timeout), (MEMORY, self.memory)];
        for (flag, value) in given {
            let Some(value) = value.map(|value| value.to_string()) else { continue };
            match args.iter().position(|arg| arg == flag) {
                Some(at) if at + 1 < args.len() => args[at + 1] = value,
                _ => args.extend([flag.to_owned(), value]),
            }
        }
    }
}

/// What the hub shows about a job; `args` are the classifier's arguments. The caller adds the machines.
pub fn describe(model: &str, args: &[String], input: String, output: String, workers: usize) -> Description {
    Description {
        model: Some(model.to_owned()),
        input: Some(input),
        output: Some(output),
        batch_rows: value(args, CHUNK_SIZE).and_then(|rows| rows.parse().ok()),
        workers: u32::try_from(workers).ok(),
        threads_per_worker: threads(model, args).and_then(|threads| threads.parse().ok()),
        machines: Vec::new(),
    }
}

/// How much longer than the model's limit for loading a program may take to become ready, in seconds.
const READY_MARGIN: u64 = 180;
/// How long the model may take to load by default, in seconds.
const DEFAULT_LOAD_TIMEOUT: u64 = 120;

/// How long the classifiers with these arguments may take to become ready.
pub fn ready_time(args: &[String]) -> Duration {
    let load = value(args, LOAD_TIMEOUT).and_then(|limit| limit.parse().ok()).unwrap_or(DEFAULT_LOAD_TIMEOUT);
    Duration::from_secs(load + READY_MARGIN)
}

/// The value of a flag among arguments.
fn value<'a>(args: &'a [String], flag: &str) -> Option<&'a str> {
    args.iter().skip_while(|arg| *arg != flag).nth(1).map(String::as_str)
}

/// Refuses to classify a file without a named model: the scores of `native` look like a model's, but are made from a hash.
///
/// # Errors
/// No model is named; the error says how to name one.
pub fn refuse_unnamed_model(rows: &Rows, is_named: bool) -> anyhow::Result<()> {
    ensure!(
        rows.paths().is_empty() || is_named,
        "--input has rows, and no model is named to classify them; name yours with --model FILE.py or --model python:MODULE, or \
         use --model native, whose scores are made from a hash and mean nothing"
    );
    Ok(())
}

/// The number of threads for a Python model's libraries in each worker, from the classifier's arguments; `None` for other
/// models, which have no libraries.
pub fn threads<'a>(model: &str, args: &'a [String]) -> Option<&'a str> {
    value(args, THREADS).filter(|_| model.starts_with("python:"))
}

/// The same, as a suffix to the number of workers.
pub fn threads_each(model: &str, args: &[String]) -> String {
    match threads(model, args) {
        Some("1") => ", 1 thread each".to_owned(),
        Some(threads) => format!(", {threads} threads each"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_python_model_whose_object_is_named_gets_typed_columns() {
        let options = |is_of_2018, types: Option<&str>| {
            let types = types.map(str::to_owned);
            ModelOptions { is_of_2018, types, ..ModelOptions::default() }
        };
        let types = |model: &str, is_of_2018, types| options(is_of_2018, types).types(model).ok();
        assert_eq!(types("python:m:f", false, None), Some(Some("infer".to_owned())));
        assert_eq!(types("python:m:f", false, Some("strings")), Some(Some("strings".to_owned())));
        for (model, is_of_2018) in [("python:m", false), ("python:m:f", true), ("native", false)] {
            assert_eq!(types(model, is_of_2018, None), Some(None));
            assert_eq!(types(model, is_of_2018, Some("strings")), None);
        }
    }

    #[test]
    fn arguments_of_an_earlier_job_change_only_where_options_are_given() {
        let options = |timeout, memory| ModelOptions { timeout, memory, ..ModelOptions::default() };
        let first = options(None, None).to_args("native", Path::new("python3"));
        let mut args = first.clone();
        options(None, None).change(&mut args);
        assert_eq!(args, first);
        options(Some(7), Some(512)).change(&mut args);
        assert_eq!(args, options(Some(7), Some(512)).to_args("native", Path::new("python3")));
    }
}
