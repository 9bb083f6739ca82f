//! What a sender has for as long as something lives: its turn, and its right to be told the outcome.

use super::Shared;

/// A sender's time; ends when it is dropped, or when the same sender comes back.
pub(super) struct Turn<'a> {
    pub(super) port: &'a Shared,
    /// Turns are counted.
    pub(super) number: u64,
    /// The row that is wanted next.
    pub(super) next_row: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.port.state();
        if state.sender.as_ref().is_some_and(|sender| sender.turn == self.number) {
            state.sender = None;
            if state.ended_by.is_none() {
                self.port.deadline.wait_for("waiting for a sender to come back with the rest of the rows");
            }
            self.port.changed.notify_all();
        }
    }
}

/// A sender that is to be told the outcome; until this is dropped, the process should stay.
pub(super) struct Untold<'a>(&'a Shared);

impl<'a> Untold<'a> {
    pub(super) fn new(port: &'a Shared) -> Self {
        port.state().untold += 1;
        Self(port)
    }
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        self.0.state().untold -= 1;
        self.0.changed.notify_all();
    }
}
