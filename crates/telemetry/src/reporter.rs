//! The thread that reports this process's counts to the hub.
//!
//! Each process has one such thread. It never delays the job: a missing, slow or restarted hub affects only the hub's page.

use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use parking_lot::{Condvar, Mutex};
use protocol::frame::{DEFAULT_LIMIT, FrameReader};
use protocol::handshake::{self, Refused};
use protocol::token::Token;

use crate::report::{Counts, Ending, HubHello, Origin, Report, Welcome};
use crate::usage::Meter;

/// The interval between reports.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// How long the hub may take for the handshake, or to accept a report.
const HUB_TIME: Duration = Duration::from_secs(1);
/// How long connecting may take; the next report retries.
const CONNECT_TIME: Duration = Duration::from_millis(100);
/// How long the last report may delay the end of the process.
const END_TIME: Duration = Duration::from_millis(500);

/// The reporting options of all programs.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Address at which the Monitoring Hub accepts reports; without it, none are sent
    #[arg(long, value_name = "HOST:PORT", value_parser = net::host_and_port)]
    metrics: Option<String>,
    /// This machine's name in reports [default: its host name]
    #[arg(long, value_name = "NAME")]
    machine: Option<String>,
}

static REPORTER: OnceLock<Reporter> = OnceLock::new();

#[derive(Debug, Default)]
struct Reporter {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ending: Option<Ending>,
    /// The last report was sent, or has failed.
    is_over: bool,
}

/// Starts reporting as `name`, if the options have the hub's address. Calls `count` once a second.
///
/// # Errors
/// No thread can be started, or this process reports already.
pub fn start(
    options: &Options,
    token: Option<&Token>,
    name: &str,
    count: impl FnMut() -> Counts + Send + 'static,
) -> anyhow::Result<()> {
    let Some(address) = options.metrics.clone() else { return Ok(()) };
    let machine = options.machine.clone().or_else(|| sysinfo::System::host_name().ok());
    let machine = machine.unwrap_or_else(|| "this machine".to_owned());
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let origin = Origin { name: name.to_owned(), machine, incarnation: since_1970.as_nanos() as u64 };
    let hub = HubConnection { address, token: token.cloned(), origin, stream: None };
    anyhow::ensure!(REPORTER.set(Reporter::default()).is_ok(), "this process reports to the hub already");
    std::thread::Builder::new()
        .name("reports".into())
        .spawn(move || {
            if let Some(reporter) = REPORTER.get() {
                reporter.run(hub, count);
            }
        })
        .context("starting a thread for reports to the hub")?;
    Ok(())
}

/// Reports how this process ends, if it reports at all. Waits up to `END_TIME` for that.
pub fn end(ending: Ending) {
    let Some(reporter) = REPORTER.get() else { return };
    let mut state = reporter.state.lock();
    // The first end is the cause of later ones.
    state.ending.get_or_insert(ending);
    reporter.changed.notify_all();
    reporter.changed.wait_while_for(&mut state, |state| !state.is_over, END_TIME);
}

impl Reporter {
    fn run(&self, mut hub: HubConnection, mut count: impl FnMut() -> Counts) {
        let (begun, mut meter) = (Instant::now(), Meter::new());
        let mut due = begun;
        let mut has_failed = false;
        loop {
            let ending = self.wait_until(due);
            let report = Report {
                uptime_ms: begun.elapsed().as_millis() as u64,
                usage: meter.measure(),
                counts: count(),
                ending,
            };
            let outcome = hub.send(&report);
            let is_refused = outcome.as_ref().is_err_and(anyhow::Error::is::<Refused>);
            if let Err(error) = &outcome
                && !has_failed
            {
                tracing::warn!("reports to the Monitoring Hub: {error:#}; the job does not depend on it");
            }
            has_failed = outcome.is_err();
            if report.ending.is_some() || is_refused {
                self.state.lock().is_over = true;
                self.changed.notify_all();
                return;
            }
            due = Instant::now().max(due) + INTERVAL;
        }
    }

    /// Waits until the next report is due, or until this process ends.
    fn wait_until(&self, due: Instant) -> Option<Ending> {
        let mut state = self.state.lock();
        self.changed.wait_while_until(&mut state, |state| state.ending.is_none(), due);
        state.ending.clone()
    }
}

/// The connection to the hub, which is opened again after a failure.
struct HubConnection {
    address: String,
    token: Option<Token>,
    origin: Origin,
    stream: Option<TcpStream>,
}

impl HubConnection {
    fn send(&mut self, report: &Report) -> anyhow::Result<()> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open()?,
        };
        handshake::send_json(&stream, report)
            .with_context(|| format!("reporting to the Monitoring Hub at {}", self.address))?;
        self.stream = Some(stream);
        Ok(())
    }

    fn open(&self) -> anyhow::Result<TcpStream> {
        let address = &self.address;
        let stream = net::connect("the Monitoring Hub", address, CONNECT_TIME)?;
        net::limit_writes(&stream, HUB_TIME).context("preparing a connection")?;
        handshake::send(&stream, self.token.as_ref(), &HubHello::Reporter(self.origin.clone()))?;
        let clone = stream.try_clone().context("splitting a connection")?;
        let mut reader = FrameReader::new(clone, format!("the Monitoring Hub at {address}"), DEFAULT_LIMIT);
        let Welcome {} = handshake::await_answer(&mut reader, HUB_TIME)?;
        Ok(stream)
    }
}
