//! Guards of a sender's connection: its right to send, and its right to the outcome. Each ends on drop.

use super::Shared;
use super::intake::LeaseId;

/// A sender's right to send; ends on drop, or when the same sender reconnects.
pub(super) struct Lease<'a> {
    port: &'a Shared,
    pub(super) id: LeaseId,
    /// The first row that the sender must send.
    pub(super) next_row: u64,
}

impl<'a> Lease<'a> {
    pub(super) fn new(port: &'a Shared, id: LeaseId, next_row: u64) -> Self {
        Self { port, id, next_row }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // Locked throughout: if another connection were admitted in between, this would restart a wait that it has ended.
        let mut state = self.port.state.lock();
        if state.intake.release(self.id) {
            self.port.deadline.wait_for("waiting for a sender to come back with the rest of the rows");
        }
        self.port.changed.notify_all();
    }
}

/// A sender that must still receive the outcome. The process should not end before this is dropped.
pub(super) struct PendingOutcome<'a>(&'a Shared);

impl<'a> PendingOutcome<'a> {
    pub(super) fn new(port: &'a Shared) -> Self {
        port.state.lock().pending_outcomes += 1;
        Self(port)
    }
}

impl Drop for PendingOutcome<'_> {
    fn drop(&mut self) {
        self.0.state.lock().pending_outcomes -= 1;
        self.0.changed.notify_all();
    }
}
