//! The thread that reports this process's counts to the hub.
//!
//! A process has one. It never holds up the work: whether a hub is there, slow, dead or back affects the hub's page alone.

use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use parking_lot::{Condvar, Mutex};
use protocol::frame::{DEFAULT_LIMIT, FrameReader};
use protocol::handshake::{self, Refused};
use protocol::token::Token;

use crate::report::{Counts, Ending, HubOpening, Origin, Report, Welcome};
use crate::usage::Meter;

/// How often there is a report.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// How long the hub may take for the handshake, or to take a report.
const HUB_TIME: Duration = Duration::from_secs(1);
/// How long connecting may take; the next report tries again.
const CONNECT_TIME: Duration = Duration::from_millis(100);
/// How long the last report may hold up the end of the process.
const FAREWELL: Duration = Duration::from_millis(500);

/// Where reports go, and what they say of their origin: the same options for all programs.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where the Monitoring Hub takes reports; without it, there are none
    #[arg(long, value_name = "HOST:PORT", value_parser = net::host_and_port)]
    metrics: Option<String>,
    /// What this machine is called in reports [default: its host name]
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
    /// The last report is sent, or has failed.
    is_over: bool,
}

/// Starts to report under a name, if the options say where; `count` is called once a second.
///
/// # Errors
/// When no thread can be started, or reports are sent already.
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
    anyhow::ensure!(REPORTER.set(Reporter::default()).is_ok(), "reports are sent already");
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

/// Reports how this process ends, if it reports at all; waits up to [`FAREWELL`] for that.
pub fn end(ending: Ending) {
    let Some(reporter) = REPORTER.get() else { return };
    let mut state = reporter.state.lock();
    // The first reason is the cause of the others.
    state.ending.get_or_insert(ending);
    reporter.changed.notify_all();
    reporter.changed.wait_while_for(&mut state, |state| !state.is_over, FAREWELL);
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

/// The connection to the hub, and what it takes to open it again.
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
        handshake::send(&stream, self.token.as_ref(), &HubOpening::Reporter(self.origin.clone()))?;
        let clone = stream.try_clone().context("splitting a connection")?;
        let mut reader = FrameReader::new(clone, format!("the Monitoring Hub at {address}"), DEFAULT_LIMIT);
        let Welcome {} = handshake::await_answer(&mut reader, HUB_TIME)?;
        Ok(stream)
    }
}
