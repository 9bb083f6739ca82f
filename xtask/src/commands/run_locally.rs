//! Subcommand: cargo xtask run-locally

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::BoolishValueParser;
use deploy::locally::{self, HubMode, LocalJob};
use deploy::{exit, project};

use super::job_args::{EXIT_CODES, ModelArgs, RowArgs};

/// Run the whole job on this machine: sender → classifiers → receiver
///
/// Builds the programs, classifies a million made-up rows (or a CSV), and writes results.log, results.rejects.csv and
/// results.json to the output folder, replacing those of an earlier job.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(flatten)]
    rows: RowArgs,
    #[command(flatten)]
    model_args: ModelArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Where and how it runs.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "This machine")]
struct RunArgs {
    /// Worker threads on this machine, in all [default: one for each core]
    #[arg(long, value_name = "W", env = "N_WORKERS", value_parser = clap::value_parser!(u16).range(1..))]
    workers: Option<u16>,
    /// Processes to split them over; all get the same number of threads
    #[arg(long, value_name = "P", env = "N_PROCESSES", default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=256))]
    processes: u16,
    /// The model: native, python:MODULE[:FUNCTION] or sleep:MICROSECONDS [default for made-up rows: native]
    #[arg(long, visible_alias = "classifier", value_name = "MODEL")]
    model: Option<String>,
    /// The interpreter for Python models; it needs pandas
    #[arg(long, value_name = "PATH", default_value = "python3")]
    python: PathBuf,
    /// The folder for the results [default: output/ in the project]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The folder for the programs' logs [default: log/ in the project]
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
    /// Keep the Monitoring Hub's page when the job is done, until Ctrl-C
    #[arg(long)]
    keep_hub: bool,
    /// Run without the Monitoring Hub
    #[arg(long, conflicts_with = "keep_hub")]
    no_hub: bool,
    /// Also pack the results to results.tgz beside them, as run-cluster does
    #[arg(long)]
    pack: bool,
    /// Fail when there are rejects
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true",
        hide_default_value = true, hide_possible_values = true, value_parser = BoolishValueParser::new())]
    strict: bool,
}

impl Args {
    fn job(&self) -> anyhow::Result<LocalJob> {
        let folder =
            |said: &Option<PathBuf>, name| said.clone().map_or_else(|| project::default_folder(name), Ok);
        let Self { rows, model_args, run } = self;
        Ok(LocalJob {
            job: rows.job(model_args, run.workers),
            model: run.model.clone(),
            python: run.python.clone(),
            processes: run.processes,
            output: folder(&run.output, "output")?,
            log: folder(&run.log, "log")?,
            hub: match (run.no_hub, run.keep_hub) {
                (true, _) => HubMode::None,
                (false, false) => HubMode::Job,
                (false, true) => HubMode::Keep,
            },
            pack: run.pack,
            strict: run.strict,
        })
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    locally::run(&args.job().map_err(exit::refused)?)
}
