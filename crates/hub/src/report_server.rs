//! Port 5001: receives reports.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use net::acceptor::{self, Connection};
use parking_lot::{Mutex, MutexGuard};
use protocol::handshake::{self, HANDSHAKE_LIMIT, Refusal};
use protocol::token::Token;
use serde::Deserialize;
use serde::de::IgnoredAny;
use telemetry::report::{HubHello, Report, Welcome};

use crate::tracker::Tracker;

/// The longest report in bytes: that of a process with a thousand workers has a few MiB.
const REPORT_LIMIT: usize = 16 << 20;
/// A report with fewer bytes cannot have too many workers. Each worker has histograms, which take some ten kilobytes of memory.
const UNCHECKED_LENGTH: usize = 64 << 10;
/// The most workers of a process.
const MOST_WORKERS: usize = 1024;
/// The most programs of a job, and the longest names of them and of their machines, in bytes.
const MOST_PROCESSES: usize = 2000;
const NAME_LENGTH: usize = 256;
/// Reports arrive each second; after this much silence, the connection is closed.
const SILENCE: Duration = Duration::from_secs(60);

/// The tracker, and the hub's clock: the time since 1970, which does not jump while the hub runs.
#[derive(Debug, Clone)]
pub struct Shared {
    tracker: Arc<Mutex<Tracker>>,
    started: Instant,
    started_at: Duration,
}

impl Shared {
    pub fn new(tracker: Tracker) -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Late enough that times before the hub's start are not negative, whatever the machine's clock says.
        let started_at = since_1970.max(Duration::from_secs(process::LONGEST_WAIT));
        Self { tracker: Arc::new(Mutex::new(tracker)), started: Instant::now(), started_at }
    }

    /// The locked tracker and the time.
    pub fn lock(&self) -> (MutexGuard<'_, Tracker>, Duration) {
        (self.tracker.lock(), self.started_at + self.started.elapsed())
    }
}

/// Receives reports, on its own threads.
///
/// # Errors
/// No thread can be started.
pub fn open(listener: TcpListener, token: Option<Token>, shared: Shared) -> anyhow::Result<()> {
    let serve = move |connection: Connection| {
        if let Err(error) = serve(&connection, token.as_ref(), &shared) {
            connection.complain(format_args!("reports from {}: {error:#}", connection.peer));
        }
        let _ = connection.stream.shutdown(std::net::Shutdown::Both);
    };
    let broken = |error| {
        tracing::warn!("accepting reports: {error}");
        std::process::exit(1);
    };
    acceptor::open("reports", listener, serve, broken)
}

fn serve(connection: &Connection, token: Option<&Token>, shared: &Shared) -> anyhow::Result<()> {
    let Some((first, mut reader)) = connection.first_frame(HANDSHAKE_LIMIT)? else { return Ok(()) };
    let checked = handshake::check(&first, token).and_then(|HubHello::Reporter(origin)| {
        let (tracker, _) = shared.lock();
        let known = tracker.processes();
        let is_one_too_many = known.len() >= MOST_PROCESSES && !known.contains_key(&origin.name);
        let is_long = origin.name.len().max(origin.machine.len()) > NAME_LENGTH;
        if is_one_too_many || is_long {
            return Err(Refusal::new("there are too many programs, or their names are too long".to_owned()));
        }
        Ok(origin)
    });
    let origin = match checked {
        Ok(origin) => origin,
        Err(refusal) => {
            handshake::refuse(&connection.stream, &refusal);
            return Err(refusal).context("refused");
        }
    };
    connection.admit();
    handshake::send_json(&*connection.stream, &Welcome {}).context("answering")?;
    reader.set_limit(REPORT_LIMIT);
    reader.set_patience(SILENCE)?;
    while let Some(payload) = reader.next_frame()? {
        let report = decode(&payload).inspect_err(|error| {
            handshake::refuse(&connection.stream, &Refusal::new(format!("a report is invalid: {error:#}")));
        })?;
        let (mut tracker, now) = shared.lock();
        tracker.on_report(&origin, report, now);
    }
    Ok(())
}

/// Decodes a report, unless that would take much more memory than the report has bytes.
fn decode(payload: &[u8]) -> anyhow::Result<Report> {
    if payload.len() > UNCHECKED_LENGTH {
        let shape: Shape = serde_json::from_slice(payload)?;
        let workers = shape.counts.classifier.workers.len();
        ensure!(workers <= MOST_WORKERS, "{workers} workers are more than {MOST_WORKERS}");
    }
    Ok(Report::decode(payload)?)
}

/// Decodes only the number of workers of a report.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Shape {
    counts: ShapeOfCounts,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ShapeOfCounts {
    classifier: ShapeOfClassifier,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ShapeOfClassifier {
    workers: Vec<IgnoredAny>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use telemetry::report::{Counts, WorkerCounts};

    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn a_report_with_too_many_workers_is_refused() {
        let scenario = Scenario { machines: 1, seconds: 10, ..Scenario::default() };
        let encoded = |workers: usize| {
            let mut report = scenario.report("initializer", 5, 0);
            let Counts::Classifier(counts) = &mut report.counts else { panic!("{report:?}") };
            counts.workers = vec![WorkerCounts::default(); workers];
            counts.workers[0].queue.record(Duration::from_millis(1));
            serde_json::to_vec(&report).unwrap()
        };
        assert!(decode(&encoded(MOST_WORKERS)).is_ok());
        let error = decode(&encoded(MOST_WORKERS + 1)).unwrap_err();
        assert_eq!(error.to_string(), "1025 workers are more than 1024");
        assert!(decode(b"{}").is_err());
    }
}
