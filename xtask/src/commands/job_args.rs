//! The options of a job, which it has wherever it runs.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use protocol::rejects::MostRejects;

use crate::host::arg;

/// How many rows are made up when nobody says how many.
const DEFAULT_LINES: u64 = 1_000_000;

const THREADS: &str = "--threads-per-worker";
/// How long a box may take when nobody says it, in seconds.
const DEFAULT_TIMEOUT: u64 = 60;
const TIMEOUT: &str = "--box-timeout";
const MEMORY: &str = "--box-memory";

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
    /// [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=process::LONGEST_WAIT))]
    box_timeout: Option<u64>,
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
        words.push((TIMEOUT, self.box_timeout.unwrap_or(DEFAULT_TIMEOUT).to_string()));
        words.extend(self.box_memory.map(|memory| (MEMORY, memory.to_string())));
        words.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    /// Changes the arguments of an earlier job as far as these options say anything about what does not decide its results.
    #[cfg(any(feature = "remote", test))]
    pub(crate) fn change(&self, words: &mut Vec<String>) {
        for (flag, value) in [(TIMEOUT, self.box_timeout), (MEMORY, self.box_memory)] {
            let Some(value) = value.map(|value| value.to_string()) else { continue };
            match words.iter().position(|word| word == flag) {
                Some(at) if at + 1 < words.len() => words[at + 1] = value,
                _ => words.extend([flag.to_owned(), value]),
            }
        }
    }
}

/// Refuses a file of rows for which nobody has said what is to classify them: the native box would give scores that look like a
/// model's, and are made of a hash.
///
/// # Errors
/// Says how to name a model.
pub(crate) fn refuse_unnamed_model(input: Option<&Path>, is_named: bool) -> anyhow::Result<()> {
    ensure!(
        input.is_none() || is_named,
        "--input has rows, and no model is named to classify them; name yours with --model python:MODULE[:FUNCTION], or say \
         --model native, whose scores are made of a hash and mean nothing"
    );
    Ok(())
}

/// How many threads each worker has for the libraries of a Python box: what a classifier with these arguments is told. Other
/// boxes have no libraries.
pub(crate) fn threads<'a>(classifier: &str, box_args: &'a [String]) -> Option<&'a str> {
    let flag = box_args.iter().position(|word| word == THREADS).filter(|_| classifier.starts_with("python:"));
    flag.and_then(|flag| box_args.get(flag + 1)).map(String::as_str)
}

/// The same, to be put behind the number of workers.
pub(crate) fn threads_each(classifier: &str, box_args: &[String]) -> String {
    match threads(classifier, box_args) {
        Some("1") => ", 1 thread each".to_owned(),
        Some(threads) => format!(", {threads} threads each"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_jobs_words_change_only_where_something_is_said() {
        let args = |timeout, memory| BoxArgs {
            slowness: 10,
            chunk_size: 100,
            threads_per_worker: 1,
            box_timeout: timeout,
            box_memory: memory,
        };
        let first = args(None, None).words("native", Path::new("python3"));
        let mut words = first.clone();
        args(None, None).change(&mut words);
        assert_eq!(words, first);
        args(Some(7), Some(512)).change(&mut words);
        assert_eq!(words, args(Some(7), Some(512)).words("native", Path::new("python3")));
    }
}
