//! The options of a job, which it has wherever it runs.

use std::path::{Path, PathBuf};

use wire::rejects::MostRejects;

use crate::host::arg;

/// How many rows are made up when nobody says how many.
const DEFAULT_LINES: u64 = 1_000_000;

const THREADS: &str = "--threads-per-worker";

/// What rows.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Rows")]
pub(crate) struct RowArgs {
    /// How many rows to make up [default: 1000000]
    #[arg(long, value_name = "N", env = "INPUT_LINES", hide_env_values = true)]
    pub(crate) input_lines: Option<u64>,
    /// The other name of 2018 for the same
    #[arg(long, value_name = "N", env = "INPUT_SIZE", hide = true)]
    pub(crate) input_size: Option<u64>,
    /// A CSV file with a header in place of fake rows (run-locally also takes - for standard input)
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// What separates the values of a CSV. Only a comma does; to say so overrules the guess that the input has no commas
    #[arg(long, value_name = "CHARACTER", value_parser = [","])]
    pub(crate) delimiter: Option<String>,
    /// Fake rows of another seed are other rows
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
}

impl RowArgs {
    /// The user says that the input has commas, whatever it looks like.
    pub(crate) fn commas(&self) -> bool {
        self.delimiter.is_some()
    }

    /// How many rows are to be made up.
    pub(crate) fn lines(&self) -> u64 {
        self.input_lines.or(self.input_size).unwrap_or(DEFAULT_LINES)
    }
}

/// How many rows may fail.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Rows")]
pub(crate) struct RejectArgs {
    /// How many rows may be rejected until the job fails: N, or P%, which is seen from 1,000 rows on [default: not all of the
    /// first 1,000]
    #[arg(long, value_name = "N|P%")]
    pub(crate) max_rejects: Option<MostRejects>,
}

/// How the box is used.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The black box")]
pub(crate) struct BoxArgs {
    /// How often the native box feeds a record to its hash
    #[arg(long, value_name = "TIMES", env = "CLASSIFIER_SLOWNESS", default_value_t = 10)]
    slowness: u32,
    /// Rows that a box sees at once
    #[arg(long, value_name = "ROWS", env = "CHUNK_SIZE", default_value_t = 100)]
    chunk_size: u32,
    /// How many threads the libraries of a Python box may use in each worker, whatever the environment says; the same on
    /// all hosts, since the last bits of a result may depend on it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads_per_worker: u32,
    /// How long a Python box may take for these until it is killed and the rows are tried again in smaller parts
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=wire::program::LONGEST_WAIT))]
    box_timeout: u64,
    /// How much memory a Python box, with all that it has started, may have, in MiB [default: the machine's, shared by the workers of a process]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    box_memory: Option<u64>,
}

impl BoxArgs {
    /// The arguments that tell a classifier its box.
    pub(crate) fn words(&self, classifier: &str, python: &Path) -> Vec<String> {
        let mut words = vec![("--classifier", classifier.to_owned()), ("--python", arg(python))];
        words.push(("--slowness", self.slowness.to_string()));
        words.push(("--chunk-size", self.chunk_size.to_string()));
        words.push((THREADS, self.threads_per_worker.to_string()));
        words.push(("--box-timeout", self.box_timeout.to_string()));
        words.extend(self.box_memory.map(|memory| ("--box-memory", memory.to_string())));
        words.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }
}

/// How many threads each worker has for the libraries of a Python box, to be put behind the number of workers: what a
/// classifier with these arguments is told.
pub(crate) fn threads_each(classifier: &str, box_args: &[String]) -> String {
    let flag = box_args.iter().position(|word| word == THREADS);
    match flag.and_then(|flag| box_args.get(flag + 1)).map(String::as_str) {
        Some("1") if classifier.starts_with("python:") => ", 1 thread each".to_owned(),
        Some(threads) if classifier.starts_with("python:") => format!(", {threads} threads each"),
        _ => String::new(),
    }
}
