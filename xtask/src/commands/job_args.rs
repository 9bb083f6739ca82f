//! The options of a job, which it has wherever it runs.

use std::path::PathBuf;

use deploy::options::{JobOptions, ModelOptions, Rows};
use process::log::Format;
use protocol::rejects::MostRejects;

/// Rows that are made up unless the user says how many.
const DEFAULT_LINES: u64 = 1_000_000;

/// For the help of commands that run a job.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0    done; there may be rejects, as many as were allowed
  1    failed
  2    a wrong flag or value
  3    refused before anything was changed: results of an earlier job are as they were
  4    another job is running there
  130  interrupted";

/// What rows.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Rows")]
pub(crate) struct RowArgs {
    /// How many rows to make up [default: 1000000]
    #[arg(long, value_name = "N", env = "INPUT_LINES", hide_env_values = true)]
    input_lines: Option<u64>,
    /// The other name of 2018 for the same
    #[arg(long, value_name = "N", env = "INPUT_SIZE", hide = true)]
    input_size: Option<u64>,
    /// A CSV file with a header, instead of made-up rows (run-locally also takes - for standard input)
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// What separates values. Only a comma does; say so if the input is wrongly refused as having other separators
    #[arg(long, value_name = "CHARACTER", value_parser = [","])]
    delimiter: Option<String>,
    /// Seed for the generated rows
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// How many rows may be rejected before the job fails: N, or P%, which counts from 1,000 rows on [default: not all of the
    /// first 1,000]
    #[arg(long, value_name = "N|P%")]
    max_rejects: Option<MostRejects>,
    /// How the programs log: text, or json, an object a line (RUST_LOG chooses what)
    #[arg(long, value_name = "FORMAT", env = "LOG_FORMAT", hide_env_values = true, help_heading = None, default_value_t)]
    log_format: Format,
}

impl RowArgs {
    fn rows(&self) -> Rows {
        match &self.input {
            Some(path) => Rows::File { path: path.clone(), commas: self.delimiter.is_some() },
            None => {
                let lines = self.input_lines.or(self.input_size).unwrap_or(DEFAULT_LINES);
                Rows::Fake { lines, seed: self.seed }
            }
        }
    }

    /// What these and the other options of a job mean.
    pub(crate) fn job(&self, model: &ModelArgs, workers: Option<u16>) -> JobOptions {
        let format = ("LOG_FORMAT".to_owned(), self.log_format.to_string());
        let level = std::env::var("RUST_LOG").ok().map(|level| ("RUST_LOG".to_owned(), level));
        JobOptions {
            rows: self.rows(),
            max_rejects: self.max_rejects,
            model: model.options(),
            workers,
            environment: [format].into_iter().chain(level).collect(),
        }
    }
}

/// How the model is called.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The model")]
pub(crate) struct ModelArgs {
    /// How often the native model feeds a record to its hash
    #[arg(long, value_name = "TIMES", env = "CLASSIFIER_SLOWNESS", default_value_t = 10)]
    slowness: u32,
    /// Rows that the model gets at once
    #[arg(long, value_name = "ROWS", env = "CHUNK_SIZE", default_value_t = 100)]
    chunk_size: u32,
    /// Threads for the libraries of a Python model in each worker, whatever the environment says; the same on all hosts, since
    /// the last bits of a result may depend on it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads_per_worker: u32,
    /// Time limit of a Python model for a batch; when it is over, the process is killed and the rows are tried again in smaller
    /// parts [default: 60]
    #[arg(long, alias = "box-timeout", value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=process::LONGEST_WAIT))]
    model_timeout: Option<u64>,
    /// Memory limit of a Python model with all processes that it starts, in MiB [default: the machine's memory, divided by the
    /// workers of a process]
    #[arg(long, alias = "box-memory", value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    model_memory: Option<u64>,
}

impl ModelArgs {
    fn options(&self) -> ModelOptions {
        ModelOptions {
            slowness: self.slowness,
            chunk_size: self.chunk_size,
            threads_per_worker: self.threads_per_worker,
            timeout: self.model_timeout,
            memory: self.model_memory,
        }
    }
}
