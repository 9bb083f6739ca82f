//! The thread that tells the hub what this process counts.
//!
//! A process has one. It never holds the work up: whether a hub is there, is slow, dies or comes back, only pictures depend
//! on it.

use std::net::TcpStream;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use protocol::frame::{DEFAULT_LIMIT, FrameReader};
use protocol::handshake::{self, Refused};
use protocol::token::Token;

use crate::report::{Counts, Ending, HubOpening, Origin, Report, Welcome};
use crate::usage::Meter;

/// How often there is a report.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// How long the hub may take to let this process in, or to take a report.
const HUB_TIME: Duration = Duration::from_secs(1);
/// How long a hub is looked for that is not there, until the next report.
const LOOK_TIME: Duration = Duration::from_millis(100);
/// How long the end of the process may be held up by its last report.
const FAREWELL: Duration = Duration::from_millis(500);

/// Where reports go, and where they come from: the same options for all programs.
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
    /// Nothing more is told.
    over: bool,
}

/// Reports to the hub from now on, if there is one, as the program of this name; `count` is asked once a second.
///
/// # Errors
/// When no thread can be started, or it was started before.
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
    let line = Line { address, token: token.cloned(), origin, stream: None };
    anyhow::ensure!(REPORTER.set(Reporter::default()).is_ok(), "reports are sent already");
    std::thread::Builder::new()
        .name("reports".into())
        .spawn(move || {
            if let Some(reporter) = REPORTER.get() {
                reporter.run(line, count);
            }
        })
        .context("starting a thread for reports to the hub")?;
    Ok(())
}

/// Tells the hub how this process ends, if it reports to one; waits for that a moment, and no longer.
pub fn end(ending: Ending) {
    let Some(reporter) = REPORTER.get() else { return };
    let mut state = reporter.state();
    // Whoever is the first to say it knows best.
    state.ending.get_or_insert(ending);
    reporter.changed.notify_all();
    let _ = reporter
        .changed
        .wait_timeout_while(state, FAREWELL, |state| !state.over)
        .unwrap_or_else(PoisonError::into_inner);
}

impl Reporter {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut line: Line, mut count: impl FnMut() -> Counts) {
        let (begun, mut meter) = (Instant::now(), Meter::new());
        let mut due = begun;
        let mut is_silent = false;
        loop {
            let ending = self.wait_until(due);
            let report = Report {
                uptime_ms: begun.elapsed().as_millis() as u64,
                usage: meter.look(),
                counts: count(),
                ending,
            };
            let outcome = line.tell(&report);
            let is_refused = outcome.as_ref().is_err_and(anyhow::Error::is::<Refused>);
            if let Err(error) = &outcome
                && !is_silent
            {
                tracing::warn!("reports to the Monitoring Hub: {error:#}; the job does not depend on it");
            }
            is_silent = outcome.is_err();
            if report.ending.is_some() || is_refused {
                self.state().over = true;
                return self.changed.notify_all();
            }
            due = Instant::now().max(due) + INTERVAL;
        }
    }

    /// Waits for the next report's time; or for the last one's, which says how this process ends.
    fn wait_until(&self, due: Instant) -> Option<Ending> {
        let left = due.saturating_duration_since(Instant::now());
        let (state, _) = self
            .changed
            .wait_timeout_while(self.state(), left, |state| state.ending.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        state.ending.clone()
    }
}

/// The connection to the hub, when there is one.
struct Line {
    address: String,
    token: Option<Token>,
    origin: Origin,
    stream: Option<TcpStream>,
}

impl Line {
    fn tell(&mut self, report: &Report) -> anyhow::Result<()> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open()?,
        };
        handshake::send_json(&stream, report)
            .with_context(|| format!("telling the Monitoring Hub at {}", self.address))?;
        self.stream = Some(stream);
        Ok(())
    }

    fn open(&self) -> anyhow::Result<TcpStream> {
        let address = &self.address;
        let stream = net::connect("the Monitoring Hub", address, LOOK_TIME)?;
        net::limit_writes(&stream, HUB_TIME).context("preparing a connection")?;
        handshake::send(&stream, self.token.as_ref(), &HubOpening::Reporter(self.origin.clone()))?;
        let clone = stream.try_clone().context("splitting a connection")?;
        let mut reader = FrameReader::new(clone, format!("the Monitoring Hub at {address}"), DEFAULT_LIMIT);
        let Welcome {} = handshake::await_answer(&mut reader, HUB_TIME)?;
        Ok(stream)
    }
}
