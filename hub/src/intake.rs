//! Port 5001: reports come in.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use telemetry::report::{HubOpening, Report, Welcome};
use wire::door::{self, Visitor};
use wire::opening::{self, OPENING_LIMIT, Refusal};
use wire::token::Token;

use crate::model::Model;

/// The longest report: one of a process with a thousand workers has a few MiB.
const REPORT_LIMIT: usize = 16 << 20;
/// Reports come each second; after this long, the connection is of no use.
const SILENCE: Duration = Duration::from_secs(60);

/// What the hub's clock shows when it begins, so that what began before it has a time as well.
const BEFORE: Duration = Duration::from_secs(wire::program::LONGEST_WAIT);

/// The model, and the hub's clock.
#[derive(Debug, Clone)]
pub struct Shared {
    model: Arc<Mutex<Model>>,
    began: Instant,
}

impl Default for Shared {
    fn default() -> Self {
        Self { model: Arc::default(), began: Instant::now() }
    }
}

impl Shared {
    /// The model, for a moment, and the time.
    pub fn look(&self) -> (MutexGuard<'_, Model>, Duration) {
        (self.model.lock().unwrap_or_else(PoisonError::into_inner), BEFORE + self.began.elapsed())
    }
}

/// Takes reports in, on threads of its own.
///
/// # Errors
/// When no thread can be started.
pub fn open(listener: TcpListener, token: Option<Token>, shared: Shared) -> anyhow::Result<()> {
    let serve = move |visitor: Visitor| {
        if let Err(error) = serve(&visitor, token.as_ref(), &shared) {
            visitor.complain(format_args!("hub: reports from {}: {error:#}", visitor.peer));
        }
        let _ = visitor.stream.shutdown(std::net::Shutdown::Both);
    };
    let broken = |error| {
        wire::say!("hub: accepting reports: {error}");
        std::process::exit(1);
    };
    door::open("reports", listener, serve, broken)
}

fn serve(visitor: &Visitor, token: Option<&Token>, shared: &Shared) -> anyhow::Result<()> {
    let Some((first, mut reader)) = visitor.first_frame(OPENING_LIMIT)? else { return Ok(()) };
    let HubOpening::Reporter(origin) = match opening::check(&first, token) {
        Ok(opening) => opening,
        Err(refusal) => {
            opening::refuse(&visitor.stream, &refusal);
            return Err(refusal).context("refused");
        }
    };
    visitor.admit();
    opening::send_json(&*visitor.stream, &Welcome {}).context("answering")?;
    reader.set_limit(REPORT_LIMIT);
    reader.set_patience(SILENCE)?;
    while let Some(payload) = reader.next_frame()? {
        let report: Report = serde_json::from_slice(&payload).inspect_err(|error| {
            opening::refuse(&visitor.stream, &Refusal::new(format!("a report is not understood: {error}")));
        })?;
        let (mut model, now) = shared.look();
        model.hear(&origin, report, now);
    }
    Ok(())
}
