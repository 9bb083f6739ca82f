//! The receiver's counts for the Monitoring Hub.

use std::time::Duration;

use protocol::results::Outcome;
use telemetry::report::{Counts, JobOutcome, ReceiverCounts};

use super::{End, Job};
use crate::checkpoint::Position;
use crate::peer::Peer;

impl<W: Peer> Job<W> {
    /// Records how long a sync took.
    pub fn synced(&self, took: Duration) {
        self.state().syncs.record(took);
    }

    pub fn counts(&self) -> Counts {
        let state = self.state();
        let Position { next, next_row, rejects, result_bytes, .. } = state.durable;
        Counts::Receiver(ReceiverCounts {
            rows_written: state.written.next_row.max(next_row),
            rows: next_row,
            rejects,
            batches: next,
            bytes: result_bytes,
            held_bytes: state.held,
            reject_reasons: state.reasons.clone(),
            sync: state.syncs.clone(),
            outcome: state.end.as_ref().and_then(outcome),
        })
    }
}

/// How the job ended; `None` without a job.
fn outcome(end: &End) -> Option<JobOutcome> {
    match end {
        End::Job(Outcome::Done(summary)) => Some(JobOutcome::Done(summary.clone())),
        End::Job(Outcome::Failed(reason)) => Some(JobOutcome::Failed(reason.clone())),
        End::Stopped(_) => Some(JobOutcome::Stopped),
        End::Closed => None,
    }
}
