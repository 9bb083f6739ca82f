//! Whether the rows of a job that are durable become more.

use std::time::{Duration, Instant};

use protocol::results::Progress;

/// The receiver tells its progress several times a second; after so long without it, nothing is known.
const SILENCE: Duration = Duration::from_secs(5);

/// What the receiver has told so far.
pub(crate) struct Growth {
    rows: u64,
    grown: Instant,
    heard: Instant,
    has_ended: bool,
}

impl Growth {
    pub(crate) fn new() -> Self {
        Self { rows: 0, grown: Instant::now(), heard: Instant::now(), has_ended: false }
    }

    pub(crate) fn note(&mut self, progress: Option<&Progress>) {
        let Some(progress) = progress else { return };
        self.heard = Instant::now();
        self.has_ended |= progress.ended;
        if progress.rows > self.rows {
            (self.rows, self.grown) = (progress.rows, Instant::now());
        }
    }

    /// Whether the receiver, which is heard of, has had no more rows for so long.
    pub(crate) fn stands_still_for(&self, time: Duration) -> bool {
        !self.has_ended && self.heard.elapsed() < SILENCE && self.grown.elapsed() >= time
    }
}
