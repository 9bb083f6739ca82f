//! Measures the total time for which a condition has held.

use std::time::{Duration, Instant};

/// Runs while a condition holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stopwatch {
    total: Duration,
    since: Option<Instant>,
}

impl Stopwatch {
    /// From `now` on, the condition holds or does not.
    pub fn set(&mut self, holds: bool, now: Instant) {
        match (holds, self.since) {
            (true, None) => self.since = Some(now),
            (false, Some(since)) => {
                self.total += now.saturating_duration_since(since);
                self.since = None;
            }
            _ => {}
        }
    }

    /// Since when the condition holds, if it does.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// The total time up to `now`.
    pub fn total(&self, now: Instant) -> Duration {
        self.total + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Like [`Self::total`], in milliseconds.
    pub fn total_ms(&self, now: Instant) -> u64 {
        self.total(now).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_only_while_the_condition_holds() {
        let (mut watch, start) = (Stopwatch::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        watch.set(false, at(0));
        watch.set(true, at(1));
        watch.set(true, at(2));
        assert_eq!(watch.total(at(3)), Duration::from_secs(2));
        watch.set(false, at(4));
        watch.set(true, at(7));
        assert_eq!(watch.total_ms(at(8)), 4000);
    }
}
