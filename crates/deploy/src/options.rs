//! A job's options, wherever it runs, and the arguments and texts made of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use protocol::rejects::MostRejects;
use serde::{Deserialize, Serialize};
use telemetry::job::Description;

use crate::host::arg;

const CHUNK_SIZE: &str = "--chunk-size";
const THREADS: &str = "--threads-per-worker";
const TIMEOUT: &str = "--model-timeout";
const MEMORY: &str = "--model-memory";
/// How long a model may take for a batch by default, in seconds.
const DEFAULT_TIMEOUT: u64 = 60;

/// The rows that the user wants to classify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    Fake {
        lines: u64,
        /// Seed for the generated rows.
        seed: u64,
    },
    /// A CSV file with a header.
    File {
        path: PathBuf,
        /// The user states that its delimiter is a comma, which overrides the check.
        commas: bool,
    },
}

impl Rows {
    /// `None` for fake rows.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Fake { .. } => None,
            Self::File { path, .. } => Some(path),
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
}

/// A model's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelOptions {
    /// How often `native` feeds a record to its hash.
    pub slowness: u32,
    /// Rows in a batch.
    pub chunk_size: u32,
    /// Threads for the libraries of a Python model, in each worker.
    pub threads_per_worker: u32,
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
        args.push((CHUNK_SIZE, self.chunk_size.to_string()));
        args.push((THREADS, self.threads_per_worker.to_string()));
        args.push((TIMEOUT, self.timeout.unwrap_or(DEFAULT_TIMEOUT).to_string()));
        args.extend(self.memory.map(|memory| (MEMORY, memory.to_string())));
        args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    /// Changes the arguments of an earlier job: only those that the user gave and that do not affect results.
    pub fn change(&self, args: &mut Vec<String>) {
        for (flag, value) in [(TIMEOUT, self.timeout), (MEMORY, self.memory)] {
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
        rows.path().is_none() || is_named,
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
    fn arguments_of_an_earlier_job_change_only_where_options_are_given() {
        let options = |timeout, memory| ModelOptions {
            slowness: 10,
            chunk_size: 100,
            threads_per_worker: 1,
            timeout,
            memory,
        };
        let first = options(None, None).to_args("native", Path::new("python3"));
        let mut args = first.clone();
        options(None, None).change(&mut args);
        assert_eq!(args, first);
        options(Some(7), Some(512)).change(&mut args);
        assert_eq!(args, options(Some(7), Some(512)).to_args("native", Path::new("python3")));
    }
}
