//! `hub`: see `hub --help`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use clap::Parser;
use hub::report_server::{self, Shared};
use hub::tracker::Tracker;
use hub::{report_files, snapshot, web};
use net::{self, WhenTaken};
use parking_lot::Mutex;
use process::ready::Ready;
use protocol::ports;
use protocol::token::Token;
use telemetry::job::Description;

/// Shows the state of a job: receives reports of its programs, and serves a page, JSON and metrics for Prometheus
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Address for reports of programs
    #[arg(long, value_name = "HOST:PORT", default_value_t = format!("127.0.0.1:{}", ports::METRICS), value_parser = net::host_and_port)]
    listen: String,
    /// Address of the page
    #[arg(long, value_name = "HOST:PORT", default_value_t = format!("127.0.0.1:{}", ports::HUB), value_parser = net::host_and_port)]
    web: String,
    /// If the page's port is taken, take any free one; the ready file says which
    #[arg(long)]
    any_web_port: bool,
    /// A file with the job's token; programs that do not show it are refused
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A file with a token that the page requires; without it, only this machine can see the page
    #[arg(long, value_name = "FILE")]
    web_token_file: Option<PathBuf>,
    /// Description of the job, for the page: JSON with `model`, `input`, `output`, `batch_rows`, `workers`,
    /// `threads_per_worker` and `machines`, all optional
    #[arg(long, value_name = "JSON", value_parser = description)]
    job: Option<Description>,
    /// Write report.html and report.json to this folder when the job is over, or the hub is stopped
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Write addresses to this file: `metrics` and `web`
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    #[command(flatten)]
    log: process::log::Options,
}

fn description(json: &str) -> Result<Description, String> {
    serde_json::from_str(json).map_err(|error| format!("not the JSON of a job's description: {error}"))
}

/// How often to check whether the job is over.
const CHECK_PAUSE: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let args = Args::parse();
    process::begin("hub", args.log.log_format, process::log::LevelFilter::INFO);
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => process::exit::failure(&error),
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let load = |file: &Option<PathBuf>| file.as_deref().map(Token::load).transpose();
    let (token, web_token) = (load(&args.token_file)?, load(&args.web_token_file)?);
    let before = Ready::before(args.ready_file.as_deref())?.unwrap_or_default();
    let listen = |what: &'static str, address, when_taken| {
        net::listen_again(what, before.addresses.get(what).copied(), address, when_taken)
    };
    let reports = listen("metrics", &args.listen, WhenTaken::Fail)?;
    let when_taken = if args.any_web_port { WhenTaken::AnyPort } else { WhenTaken::Fail };
    let page = listen("web", &args.web, when_taken)?;
    let (at, reports_at) = (page.local_addr()?, reports.local_addr()?);
    ensure!(
        token.is_some() || reports_at.ip().is_loopback(),
        "{reports_at} can be reached from other machines: reports need the job's token there (--token-file)"
    );
    ensure!(
        web_token.is_some() || at.ip().is_loopback(),
        "{at} can be reached from other machines: the page needs a token there (--web-token-file)"
    );
    Ready::new([("metrics", reports_at), ("web", at)]).write(args.ready_file.as_deref())?;
    let shared = Shared::new(Tracker::new(args.job.clone()));
    report_server::open(reports, token, shared.clone())?;
    match args.report.clone() {
        Some(folder) => leave_report(folder, shared.clone())?,
        None => process::signals::on_end_signals(|| std::process::exit(0))?,
    }
    tracing::info!("http://{at}");
    web::serve(page, web_token, shared)
}

/// Writes the report when the job is over, again after the last reports of its programs, and when this process is stopped.
fn leave_report(folder: PathBuf, shared: Shared) -> anyhow::Result<()> {
    // Two threads write, and one of them exits the process.
    static WRITING: Mutex<()> = Mutex::new(());
    let write = |folder: &Path, shared: &Shared| {
        let everything = {
            let (tracker, now) = shared.lock();
            // A hub that was restarted after the job knows less than the existing report.
            if tracker.processes().is_empty() {
                return;
            }
            snapshot::report(&tracker, now)
        };
        if let Err(error) = report_files::write(folder, &everything) {
            tracing::warn!("the job's report could not be written: {error:#}");
        }
    };
    let (last_folder, last_shared) = (folder.clone(), shared.clone());
    process::signals::on_end_signals(move || {
        let _alone = WRITING.lock();
        write(&last_folder, &last_shared);
        std::process::exit(0);
    })?;
    std::thread::spawn(move || {
        let conditions: [fn(&Tracker, Duration) -> bool; 2] =
            [|tracker, _| tracker.state().is_over(), Tracker::is_settled];
        for holds in conditions {
            let holds = || {
                let (tracker, now) = shared.lock();
                holds(&tracker, now)
            };
            while !holds() {
                std::thread::sleep(CHECK_PAUSE);
            }
            let _alone = WRITING.lock();
            write(&folder, &shared);
        }
    });
    Ok(())
}
