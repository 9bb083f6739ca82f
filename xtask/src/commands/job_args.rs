//! The options of a job, the same on this machine and on hosts.

use std::path::PathBuf;

use deploy::options::{JobOptions, ModelOptions, Reading, Rows};
use process::log::Format;
use protocol::rejects::MostRejects;
use records::{BadDialect, Dialect};

use super::duration::seconds;
use super::result_args::ResultArgs;

/// Number of generated rows by default.
const DEFAULT_LINES: u64 = 1_000_000;

/// Part of the help of commands that run a job.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0    done; rows may have been rejected, within --max-rejects
  1    failed, or standard output could not be written
  2    a wrong flag or value
  3    refused before anything was changed; earlier results are untouched
  4    another job or command uses the hosts or the folder
  130  interrupted";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Rows")]
pub(crate) struct RowArgs {
    /// Number of rows to generate [default: 1000000]
    #[arg(long, value_name = "N", env = "INPUT_LINES", hide_env_values = true)]
    input_lines: Option<u64>,
    /// Old name of --input-lines
    #[arg(long, value_name = "N", env = "INPUT_SIZE", hide = true)]
    input_size: Option<u64>,
    /// CSV or Parquet files with the same header, or their addresses, in place of generated rows
    ///
    /// A folder stands for the files in it, and a pattern such as 'data/*.csv' for those that match, in natural order. Files may
    /// be compressed with gzip or zstd, and Parquet files become CSV records. For run-locally, - is standard input.
    /// run-cluster ships the files to the metrics host first.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    input: Vec<PathBuf>,
    /// The separator between the input's values [default: ,]
    ///
    /// One ASCII character, or tab. Results have commas in any case. With a comma, the input is not refused if it does not
    /// look like a CSV with commas.
    #[arg(long, value_name = "CHARACTER", value_parser = delimiter)]
    delimiter: Option<String>,
    /// The quote around the input's values [default: "]
    ///
    /// One ASCII character, or none. Results have double quotes in any case.
    #[arg(long, value_name = "CHARACTER", value_parser = quote)]
    quote: Option<String>,
    /// Skip lines of the input that begin with this character
    #[arg(long, value_name = "CHARACTER", value_parser = comment)]
    comment: Option<String>,
    /// The input's encoding [default: UTF-8]
    ///
    /// A name that browsers know, such as windows-1252, utf-16le, shift_jis or gbk. Results are UTF-8 in any case.
    #[arg(long, value_name = "NAME")]
    encoding: Option<String>,
    /// Seed for the generated rows
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Fail once more than N rows, or P% of them, are rejected
    ///
    /// A percentage is checked from 1,000 rows on, and at the end. By default a job fails if its first 1,000 rows are all
    /// rejected; 100% turns this off. A job whose rows are all rejected always fails.
    #[arg(long, value_name = "N|P%")]
    max_rejects: Option<MostRejects>,
    /// Format of log lines: text or json
    ///
    /// With json, each line is a JSON object. RUST_LOG filters the lines, for example debug or info,net=debug.
    #[arg(long, value_name = "FORMAT", env = "LOG_FORMAT", hide_env_values = true, help_heading = None, default_value_t)]
    log_format: Format,
}

impl RowArgs {
    fn rows(&self) -> anyhow::Result<Rows> {
        if self.input.is_empty() {
            let lines = self.input_lines.or(self.input_size).unwrap_or(DEFAULT_LINES);
            return Ok(Rows::Fake { lines, seed: self.seed });
        }
        let Self { delimiter, quote, comment, encoding, .. } = self;
        let reading = Reading {
            delimiter: delimiter.clone(),
            quote: quote.clone(),
            comment: comment.clone(),
            encoding: encoding.clone(),
            formats: None,
            signed: None,
        };
        // Each is right by itself.
        reading.declared()?;
        Ok(Rows::Files { paths: deploy::input::expand(&self.input)?, reading })
    }

    /// Combines these with the other options of a job.
    ///
    /// # Errors
    /// The input is a folder or pattern without files.
    pub(crate) fn job(
        &self,
        model: &ModelArgs,
        results: &ResultArgs,
        workers: Option<u16>,
    ) -> anyhow::Result<JobOptions> {
        let format = ("LOG_FORMAT".to_owned(), self.log_format.to_string());
        let level = std::env::var("RUST_LOG").ok().map(|level| ("RUST_LOG".to_owned(), level));
        Ok(JobOptions {
            rows: self.rows()?,
            max_rejects: self.max_rejects,
            model: model.options(),
            workers,
            environment: [format].into_iter().chain(level).collect(),
            results: results.options(),
        })
    }
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// How many times native hashes each row
    #[arg(
        long,
        value_name = "TIMES",
        env = "CLASSIFIER_SLOWNESS",
        hide_env_values = true,
        default_value_t = 10
    )]
    slowness: u32,
    /// Rows in a batch [default: 100, or auto for typed columns]
    ///
    /// The model gets one batch at a time. With larger batches, a pandas function takes less time for each row. auto is for
    /// a model with typed columns: it is first called two or three times with 100 rows of the input, and with more rows while
    /// that takes less than 5 seconds. The number that suits it is kept for the whole job. These rows are classified again
    /// later, which matters if calls cost money.
    #[arg(long, value_name = "ROWS|auto", env = "CHUNK_SIZE", hide_env_values = true, value_parser = chunk_size)]
    chunk_size: Option<String>,
    /// With 2018, a Python model gets strings
    ///
    /// Its function gets a DataFrame of strings whose index is the first column, and returns it with the column
    /// CLASSIFICATION. That is so in any case for a model without a named object, such as python:model or model.py.
    #[arg(long, value_name = "YEAR", value_parser = ["2018"], hide_possible_values = true)]
    contract: Option<String>,
    /// Types of the input's columns [default: infer]
    ///
    /// For a model with a named object, such as model.py:predict: infer, strings, or COLUMN=TYPE,… with the others inferred.
    /// A type is int64, nullable_int64, uint64, float64, bool, nullable_bool, string or literal; docs/models.md describes
    /// them. Types are inferred as pandas.read_csv does for the whole file; of other inputs, for the first 1,000 rows, or
    /// those of ten seconds.
    #[arg(long, value_name = "TYPES", value_parser = types)]
    types: Option<String>,
    /// Columns of the results: all, or new for the first column of the input and the new ones [default: all]
    ///
    /// For a model with typed columns. Rejects have the whole record in any case.
    #[arg(long, value_name = "COLUMNS", value_parser = ["all", "new"], hide_possible_values = true)]
    columns: Option<String>,
    /// Threads for a Python model's libraries, in each worker
    ///
    /// Overrides OMP_NUM_THREADS and similar variables. All hosts use the same number, since the last bits of a result may
    /// depend on it.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads_per_worker: u32,
    /// How each worker's Python process gets the model [default: auto]
    ///
    /// With fork, one process loads it and forks itself for each worker, which saves time and memory. With spawn, each
    /// process loads it. auto means fork, unless the model has started threads, opened files or connections, or uses a GPU.
    #[arg(long, value_name = "METHOD", value_parser = ["auto", "fork", "spawn"], hide_possible_values = true)]
    start_method: Option<String>,
    /// Time limit for loading a Python model [default: 120s]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    load_timeout: Option<u64>,
    /// Time limit for a batch in a Python model [default: 60s]
    ///
    /// A number of seconds, or a number with s, m, h or d, such as 2m. A process that exceeds the limit is killed, and its
    /// rows are tried again in smaller parts. --box-timeout is the old name of this flag.
    #[arg(long, alias = "box-timeout", value_name = "TIME", value_parser = seconds)]
    model_timeout: Option<u64>,
    /// Memory limit for a Python model [default: an equal share]
    ///
    /// In MiB, for the Python process of a worker and all processes that it starts. By default each worker gets the
    /// machine's memory divided by the number of workers in its classifier process. A process that exceeds the limit is
    /// killed, and its rows are tried again, then in smaller parts. --box-memory is the old name of this flag.
    #[arg(long, alias = "box-memory", value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    model_memory: Option<u64>,
}

impl ModelArgs {
    fn options(&self) -> ModelOptions {
        ModelOptions {
            slowness: self.slowness,
            chunk_size: self.chunk_size.clone(),
            is_of_2018: self.contract.is_some(),
            types: self.types.clone(),
            columns: self.columns.clone(),
            threads_per_worker: self.threads_per_worker,
            start_method: self.start_method.clone(),
            load_timeout: self.load_timeout,
            timeout: self.model_timeout,
            memory: self.model_memory,
        }
    }
}

/// Checks the value of `--delimiter`, which is passed on.
fn delimiter(text: &str) -> Result<String, BadDialect> {
    Dialect::parse(Some(text), Some("none"), None).map(|_| text.to_owned())
}

/// Checks the value of `--quote`, which is passed on.
fn quote(text: &str) -> Result<String, BadDialect> {
    Dialect::parse(Some("tab"), Some(text), None).map(|_| text.to_owned())
}

/// Checks the value of `--comment`, which is passed on.
fn comment(text: &str) -> Result<String, BadDialect> {
    Dialect::parse(Some("tab"), Some("none"), Some(text)).map(|_| text.to_owned())
}

/// Checks the value of `--chunk-size`, which is passed on.
fn chunk_size(text: &str) -> Result<String, String> {
    let is_number = text.parse::<u32>().is_ok_and(|rows| (1..=1_000_000).contains(&rows));
    match is_number || text == "auto" {
        true => Ok(text.to_owned()),
        false => Err("it is a number of rows from 1 to 1000000, or auto".to_owned()),
    }
}

/// Checks the value of `--types`, which is passed on.
fn types(text: &str) -> Result<String, String> {
    text.parse::<columns::Spec>().map(|types| types.to_string())
}
