//! `receiver`: see `receiver --help`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use files::replace_file;
use net::{self, WhenTaken};
use process::log::OUTCOME;
use process::ready::Ready;
use protocol::ports;
use protocol::rejects::MostRejects;
use protocol::result_files::{Form, ResultFiles};
use protocol::results::Outcome;
use protocol::token::Token;
use receiver::archive::Archive;
use receiver::export::{self, Export, Upload};
use receiver::job::End;
use receiver::server::{Server, Settings};
use receiver::store::Finished;
use telemetry::report::Ending;
use telemetry::reporter;

/// Writes results to a file: a cluster's numbered batches in row order, durably; or the payloads of plain framed clients,
/// one a line.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
A cluster's results go to --output; beside it (for results.log) are results.rejects.csv, results.json when the job \
    is done and, until then, results.checkpoint and results.schema, from which a restarted receiver continues; \
    results.failure says why the job failed, unless another try may succeed.

Exit code: 0 when the job is done (without a cluster's job: when the receiver is stopped), 1 when the job failed, \
    143 when it was stopped."
)]
struct Args {
    /// Ignored: payloads are always framed (a 4-byte big-endian length, then the payload). The receiver of 2018 had this flag
    #[arg(long)]
    framed: bool,
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", default_value_t = format!("127.0.0.1:{}", ports::RESULTS), value_parser = net::host_and_port)]
    listen: String,
    /// The file for the results; without it, plain payloads go to standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also pack results, rejects and summary into this .tgz while they arrive
    #[arg(long, value_name = "FILE", requires = "output")]
    archive: Option<PathBuf>,
    /// Also write results and rejects in this form beside them, while they arrive: gz, zst or parquet
    #[arg(long, value_name = "FORM", requires = "output", requires = "formats")]
    form: Option<Form>,
    /// Also upload results, rejects and summary to S3, below this address (s3://BUCKET/FOLDER/)
    #[arg(long, value_name = "PREFIX", requires = "output", requires = "formats", requires = "signed")]
    upload: Option<String>,
    /// The file with the signed requests for that
    #[arg(long, value_name = "FILE")]
    signed: Option<PathBuf>,
    /// The program that writes forms and uploads
    #[arg(long, value_name = "PROGRAM")]
    formats: Option<PathBuf>,
    /// A file with the job's token; peers without it are refused
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Let plain clients send without the token, which they cannot show
    #[arg(long)]
    allow_plain: bool,
    /// How long all classifier processes may be gone before a job that has begun fails
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=process::LONGEST_WAIT))]
    patience: u64,
    /// Fail once more than N rows, or P% of them, are rejected. A percentage is checked from row 1,000 on, and at the end
    /// [default: fail if the first 1,000 rows are all rejected]
    #[arg(long, value_name = "N|P%")]
    max_rejects: Option<MostRejects>,
    /// Write the receiver's address to this file once it listens
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    #[command(flatten)]
    reports: reporter::Options,
    #[command(flatten)]
    log: process::log::Options,
}

fn main() -> ExitCode {
    let args = Args::parse();
    process::begin("receiver", args.log.log_format, process::log::LevelFilter::INFO);
    let outcome = run(args);
    reporter::end(outcome.as_ref().map_or_else(Ending::of, |_| Ending::Finished));
    outcome.unwrap_or_else(|error| process::exit::failure(&error))
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    let token = args.token_file.as_deref().map(Token::load).transpose()?;
    let server = Server::new(Settings {
        output: args.output.clone(),
        token: token.clone(),
        allow_plain: args.allow_plain,
        patience: Duration::from_secs(args.patience),
        most_rejects: args.max_rejects.unwrap_or_default(),
    })?;
    let job = std::sync::Arc::clone(server.job());
    let ended = std::sync::Arc::clone(&job);
    reporter::start(&args.reports, token.as_ref(), "receiver", move || job.counts())?;
    let stopping = std::sync::Arc::clone(&server);
    process::signals::on_end_signals(move || stopping.stop())?;
    let before = Ready::before(args.ready_file.as_deref())?.unwrap_or_default();
    let before = before.addresses.get("results").copied();
    let listener = net::listen_again("results", before, &args.listen, WhenTaken::Fail)?;
    Ready::new([("results", listener.local_addr()?)]).write(args.ready_file.as_deref())?;
    let files = args.output.as_deref().map(ResultFiles::beside).transpose()?;
    let archive = match args.archive.zip(files.as_ref()) {
        Some((path, files)) => Some(Archive::start(&path, files, server.job())?),
        None => None,
    };
    let upload = args.upload.zip(args.signed).map(|(prefix, signed)| Upload { prefix, signed });
    let export = match (args.formats, files.as_ref()) {
        (Some(formats), Some(files)) if args.form.is_some() || upload.is_some() => {
            let settings = export::Settings { form: args.form, upload, formats };
            Some(Export::start(settings, files, server.job())?)
        }
        _ => None,
    };
    let (end, finished) = server.run(listener);
    Ok(match end {
        End::Job(Outcome::Done(summary)) => {
            tracing::info!(
                target: OUTCOME,
                "done: {} rows, of these {} rejects; SHA-256 of the results {}",
                summary.rows,
                summary.rejects,
                summary.sha256
            );
            if let Some(archive) = archive {
                let size = archive.finish().context("packing the results")?;
                tracing::info!("the archive is ready, {size} bytes");
            }
            if let Some(export) = export {
                export.finish()?;
                tracing::info!("the results are exported");
            }
            // Last, since the checkpoint tells a restarted receiver that work is left.
            if let Some(Err(error)) = finished.map(Finished::tidy) {
                tracing::warn!("{error:#}");
            }
            ExitCode::SUCCESS
        }
        End::Job(Outcome::Failed(reason)) => {
            if let Some(files) = files.filter(|_| ended.failure_lasts())
                && let Err(error) = replace_file(&files.failure, reason.as_bytes())
            {
                tracing::warn!("noting why the job failed: {error:#}");
            }
            // Last, since its reader looks for the outcome there.
            tracing::error!(target: OUTCOME, "the job failed: {reason}");
            ExitCode::FAILURE
        }
        End::Closed => ExitCode::SUCCESS,
        End::Stopped(rows) => {
            tracing::info!(target: OUTCOME, "stopped; {rows} rows are durable");
            process::exit::STOPPED.into()
        }
    })
}
