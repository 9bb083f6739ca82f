//! A job's state, and the syncer's next work that follows from it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use protocol::rejects::Reasons;
use protocol::results::{Identity, Terms, Totals};
use telemetry::durations::Durations;

use super::initializer::Initializer;
use super::{End, SyncWork};
use crate::checkpoint::Position;
use crate::peer::Peer;
use crate::store::Finished;

#[derive(Debug)]
pub(super) struct State<W> {
    /// The newest generation.
    pub(super) generation: u64,
    /// A cluster has connected to this receiver.
    pub(super) begun: bool,
    /// Open connections of classifier processes, by number.
    pub(super) connections: BTreeMap<u64, Arc<W>>,
    /// The number of the latest connection.
    pub(super) connected: u64,
    /// When the last open connection was closed.
    pub(super) disconnected_since: Option<Instant>,
    pub(super) initializer: Option<Initializer<W>>,
    pub(super) started: Option<SystemTime>,
    pub(super) written: Position,
    pub(super) durable: Position,
    /// Bytes of results that wait for an earlier batch.
    pub(super) held: u64,
    /// The reasons of the rejects that are written.
    pub(super) reasons: Reasons,
    /// Sent by the source.
    pub(super) identity: Option<Identity>,
    /// Sent by the source, if the job has typed columns.
    pub(super) terms: Option<Terms>,
    pub(super) totals: Option<Totals>,
    /// Set when the receiver is asked to stop: batches before this one were written by then.
    pub(super) stop: Option<u64>,
    pub(super) end: Option<End>,
    /// It has failed for a reason that may last.
    pub(super) lasts: bool,
    /// The initializer knows how the job ended.
    pub(super) told: bool,
    pub(super) finished: Option<Finished>,
    /// How long syncs took.
    pub(super) syncs: Durations,
}

impl<W> Default for State<W> {
    fn default() -> Self {
        Self {
            generation: 0,
            begun: false,
            lasts: false,
            reasons: Reasons::default(),
            connections: BTreeMap::new(),
            connected: 0,
            disconnected_since: None,
            initializer: None,
            started: None,
            written: Position::default(),
            durable: Position::default(),
            held: 0,
            identity: None,
            terms: None,
            totals: None,
            stop: None,
            end: None,
            told: false,
            finished: None,
            syncs: Durations::default(),
        }
    }
}

impl<W: Peer> State<W> {
    /// Sends the source an acknowledgement, as in [`Initializer::report`].
    pub(super) fn report(&mut self, now: bool) {
        if let Some(initializer) = &mut self.initializer {
            initializer.report(self.durable.next, self.held, now);
        }
    }

    pub(super) fn sync_work(&self) -> Option<SyncWork> {
        // Nothing becomes durable before the job's identity is known.
        let can_sync = self.written.next > self.durable.next && self.identity.is_some();
        // Batches written after the request to stop need not become durable.
        if self.stop.is_some_and(|stop| self.durable.next >= stop || !can_sync) {
            return Some(SyncWork::Stop);
        }
        if can_sync {
            let started = self.started.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
            let started = started.map_or(0, |since_1970| since_1970.as_millis() as u64);
            let (identity, typed) = (self.identity, self.terms.is_some());
            return Some(SyncWork::Sync(Position { identity, typed, started, ..self.written }));
        }
        let totals = self.totals.filter(|totals| self.durable.next >= totals.batches)?;
        Some(SyncWork::Finish(totals))
    }
}
