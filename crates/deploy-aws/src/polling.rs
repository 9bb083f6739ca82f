//! Polling with pauses that double, until a deadline.
//!
//! Most waits here are for a state and not for a call to succeed, and their deadlines have errors of their own.

use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(3);

pub(crate) struct Polling {
    pause: Duration,
    deadline: Instant,
}

impl Polling {
    /// Starts now, and is over after `limit`.
    pub(crate) fn until(limit: Duration) -> Self {
        Self { pause: FIRST_PAUSE, deadline: Instant::now() + limit }
    }

    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
    }
}
