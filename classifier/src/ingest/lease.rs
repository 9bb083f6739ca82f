//! What a sender has for as long as something lives: its time to send, and its right to be told the outcome.

use super::Shared;
use super::intake::LeaseId;

/// A sender's time to send; ends when it is dropped, or when the same sender comes back.
pub(super) struct Lease<'a> {
    port: &'a Shared,
    pub(super) id: LeaseId,
    /// The row that is wanted next.
    pub(super) next_row: u64,
}

impl<'a> Lease<'a> {
    pub(super) fn new(port: &'a Shared, id: LeaseId, next_row: u64) -> Self {
        Self { port, id, next_row }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // The lock is held, so that no other connection is admitted, and its wait ended, in between.
        let mut state = self.port.state.lock();
        if state.intake.release(self.id) {
            self.port.deadline.wait_for("waiting for a sender to come back with the rest of the rows");
        }
        self.port.changed.notify_all();
    }
}

/// A sender that is to be told the outcome; until this is dropped, the process should stay.
pub(super) struct Untold<'a>(&'a Shared);

impl<'a> Untold<'a> {
    pub(super) fn new(port: &'a Shared) -> Self {
        port.state.lock().untold += 1;
        Self(port)
    }
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        self.0.state.lock().untold -= 1;
        self.0.changed.notify_all();
    }
}
