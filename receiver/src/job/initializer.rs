//! The connection to the initializer, which gets the acknowledgements.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::results::{Acknowledgement, FromReceiver};

use crate::peer::Peer;

/// The pause between acknowledgements, unless something has become durable or the writer is idle.
const REPORT_PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Initializer<W> {
    /// The connection's number.
    pub(super) connection: u64,
    pub(super) peer: Arc<W>,
    /// The source knows that batches before this one are durable.
    acknowledged: u64,
    /// By worker: the batches received, and how many of these were reported to the source.
    received: BTreeMap<u32, (u64, u64)>,
    reported: Instant,
}

impl<W: Peer> Initializer<W> {
    /// The welcome acknowledged batches before `acknowledged`.
    pub(super) fn new(connection: u64, peer: Arc<W>, acknowledged: u64) -> Self {
        Self { connection, peer, acknowledged, received: BTreeMap::new(), reported: Instant::now() }
    }

    pub(super) fn received(&mut self, worker: u32) {
        self.received.entry(worker).or_default().0 += 1;
    }

    /// Sends an acknowledgement if there is news, and if the pause is over or `now` is set.
    pub(super) fn report(&mut self, next: u64, held: u64, now: bool) {
        if !now && self.reported.elapsed() < REPORT_PAUSE {
            return;
        }
        let mut received = Vec::new();
        for (&worker, (count, reported)) in &mut self.received {
            if count != reported {
                received.push((worker, *count));
                *reported = *count;
            }
        }
        if received.is_empty() && self.acknowledged == next {
            return;
        }
        self.acknowledged = next;
        self.reported = Instant::now();
        self.peer.send(FromReceiver::Acknowledgement(Acknowledgement { next, received, held }));
    }
}
