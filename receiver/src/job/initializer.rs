//! The connection to the initializer, which is told how far the receiver is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::results::{Acknowledgement, FromReceiver};

use super::Peer;

/// Received batches are reported to the source at most this often, unless something became durable or there is
/// nothing else to do.
const REPORT_PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Initializer<W> {
    /// Its connection's number.
    pub(super) connection: u64,
    /// The way to it.
    pub(super) peer: Arc<W>,
    /// What the source was told to be durable.
    acknowledged: u64,
    /// Received batches by worker, and of how many the source was told.
    received: BTreeMap<u32, (u64, u64)>,
    reported: Instant,
}

impl<W: Peer> Initializer<W> {
    /// It has been told that all batches below `acknowledged` are durable.
    pub(super) fn new(connection: u64, peer: Arc<W>, acknowledged: u64) -> Self {
        Self { connection, peer, acknowledged, received: BTreeMap::new(), reported: Instant::now() }
    }

    /// Notes that a batch of this worker came in.
    pub(super) fn received(&mut self, worker: u32) {
        self.received.entry(worker).or_default().0 += 1;
    }

    /// Tells the source what is new, if anything is and if it is time to.
    pub(super) fn report(&mut self, next: u64, held: u64, now: bool) {
        if !now && self.reported.elapsed() < REPORT_PAUSE {
            return;
        }
        let mut received = Vec::new();
        for (&worker, (count, told)) in &mut self.received {
            if count != told {
                received.push((worker, *count));
                *told = *count;
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
