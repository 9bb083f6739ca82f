//! Subcommand: cargo xtask run-locally

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Arg;
use clap::builder::{BoolishValueParser, UnknownArgumentValueParser};
use deploy::locally::{self, Before, HubMode, LocalJob};
use deploy::{exit, project};

use super::duration::seconds;
use super::job_args::{EXIT_CODES, ModelArgs, RowArgs};
use super::model_name::ModelName;
use super::result_args::{ResultArgs, output};

/// Run a job on this machine
///
/// Builds the programs, classifies a CSV or a million generated rows, and writes results.log (results.csv for a model with
/// typed columns), results.rejects.csv, results.json, report.html and report.json to the output folder. These are links into
/// the job's folder, jobs/ID, which are switched in one step when the job is complete; until then, the last complete results
/// stay.
///
/// The same command for a file goes on where a job was interrupted or killed, and does nothing if it is done. It is another job
/// if the input, an option that decides results, the model's files, the interpreter, its packages or these programs have
/// changed. Jobs of generated rows, or of a stream, always start over.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXIT_CODES, arg = resume())]
pub(crate) struct Args {
    #[command(flatten)]
    rows: RowArgs,
    #[command(flatten)]
    model_args: ModelArgs,
    #[command(flatten)]
    results: ResultArgs,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "This machine")]
struct RunArgs {
    /// Worker threads in total [default: one per core]
    #[arg(long, value_name = "W", env = "N_WORKERS", hide_env_values = true, value_parser = clap::value_parser!(u16).range(1..))]
    workers: Option<u16>,
    /// Number of processes to divide the workers among
    ///
    /// Each process gets the same number of workers.
    #[arg(long, value_name = "P", env = "N_PROCESSES", hide_env_values = true, default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=256))]
    processes: u16,
    /// FILE.py[:OBJECT], python:MODULE[:OBJECT], native or sleep:MICROSECONDS
    ///
    /// FILE.py:OBJECT or python:MODULE:OBJECT is a function or class that gets typed columns and returns new ones. Without an
    /// OBJECT, the function classify_df gets strings, and returns them with CLASSIFICATION. native computes a score from a
    /// hash, and sleep waits for each row; both stand in for a real model. The default for generated rows is native. A job
    /// with --input must name its model. --classifier is the old name of this flag.
    #[arg(long, alias = "classifier", value_name = "MODEL", help_heading = "Model", display_order = 0)]
    model: Option<ModelName>,
    /// Python interpreter that has pandas
    #[arg(long, value_name = "PATH", default_value = "python3", help_heading = "Model", display_order = 1)]
    python: PathBuf,
    /// Folder for the results [default: output/ in the project]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Folder for the programs' logs [default: log/ in the project]
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
    /// Keep the Monitoring Hub after the job, until Ctrl-C
    #[arg(long)]
    keep_hub: bool,
    /// Run without the Monitoring Hub
    #[arg(long, conflicts_with = "keep_hub")]
    no_hub: bool,
    /// Also pack the results into results.tgz
    #[arg(long)]
    pack: bool,
    /// Run the job again if it is done, and start over if it was begun
    #[arg(long, conflicts_with = "fresh", help_heading = "Earlier jobs")]
    again: bool,
    /// Start over if the job was begun
    #[arg(long, help_heading = "Earlier jobs")]
    fresh: bool,
    /// Wait for another job in the same folder, for an hour or this time
    ///
    /// Without this, the command exits with code 4 if another job is running there.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "1h", value_parser = seconds,
        help_heading = "Earlier jobs")]
    wait: Option<u64>,
    /// After the job, remove all jobs but the last N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Earlier jobs")]
    keep: Option<u32>,
    /// Run this command at the end, with a JSON of how the job ended on its standard input
    ///
    /// The JSON has state (done, failed, refused, busy or interrupted), exit_code, error, job, folder, and summary, which is
    /// results.json. The command runs in a shell, for at most a minute.
    #[arg(long, value_name = "COMMAND", help_heading = "Earlier jobs")]
    notify: Option<String>,
    /// Fail if any row is rejected, after writing the results
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true",
        hide_default_value = true, hide_possible_values = true, value_parser = BoolishValueParser::new())]
    strict: bool,
}

/// A hidden `--resume`, so that its error says why there is no such option.
fn resume() -> Arg {
    let tip = "the same command goes on with a local job by itself";
    Arg::new("resume")
        .long("resume")
        .num_args(0)
        .default_missing_value("")
        .hide(true)
        .value_parser(UnknownArgumentValueParser::suggest(tip))
}

impl Args {
    fn job(&self) -> anyhow::Result<LocalJob> {
        let Self { rows, model_args, results, run } = self;
        let mut job = rows.job(model_args, results, run.workers)?;
        let python_path = run.model.as_ref().and_then(ModelName::python_path);
        let python_path = python_path.and_then(|path| path.into_string().ok());
        job.environment.extend(python_path.map(|path| ("PYTHONPATH".to_owned(), path)));
        Ok(LocalJob {
            job,
            model: run.model.as_ref().map(|model| model.name.clone()),
            python: run.python.clone(),
            processes: run.processes,
            output: output(run.output.as_ref())?,
            log: run.log.clone().map_or_else(|| project::default_folder("log"), Ok)?,
            hub: match (run.no_hub, run.keep_hub) {
                (true, _) => HubMode::None,
                (false, false) => HubMode::Job,
                (false, true) => HubMode::Keep,
            },
            pack: run.pack,
            strict: run.strict,
            before: match (run.again, run.fresh) {
                (true, _) => Before::Again,
                (false, true) => Before::Fresh,
                (false, false) => Before::GoOn,
            },
            wait: run.wait.map(Duration::from_secs),
            keep: run.keep.map(|most| most as usize),
            notify: run.notify.clone(),
        })
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    locally::run(&args.job().map_err(exit::refused)?)
}
