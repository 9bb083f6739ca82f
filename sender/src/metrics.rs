//! The sender's counts for the Monitoring Hub.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use telemetry::report::{Counts, SenderCounts};
use telemetry::stopwatch::Stopwatch;

use crate::input::Input;

/// The sender's counts. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    counts: SenderCounts,
    blocked: Stopwatch,
}

impl Metrics {
    /// Records whether a write is in progress.
    pub(crate) fn writing(&self, is_writing: bool) {
        self.state().blocked.set(is_writing, Instant::now());
    }

    /// Records that the input has been sent up to its position.
    pub(crate) fn sent(&self, input: &dyn Input, all_sent: bool) {
        let (rows, extent) = (input.position(), input.extent());
        let mut state = self.state();
        state.counts = SenderCounts {
            rows,
            rows_total: extent.rows_total,
            bytes: extent.bytes,
            bytes_total: extent.bytes_total,
            all_sent,
            blocked_ms: 0,
        };
    }

    pub fn counts(&self) -> Counts {
        let state = self.state();
        Counts::Sender(SenderCounts {
            blocked_ms: state.blocked.total_ms(Instant::now()),
            ..state.counts.clone()
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}
