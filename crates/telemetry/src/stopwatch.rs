//! For how long something has been so, in all.

use std::time::{Duration, Instant};

/// Runs while something is so.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stopwatch {
    total: Duration,
    since: Option<Instant>,
}

impl Stopwatch {
    /// From now on it is so, or it is not.
    pub fn set(&mut self, is_so: bool, now: Instant) {
        match (is_so, self.since) {
            (true, None) => self.since = Some(now),
            (false, Some(since)) => {
                self.total += now.saturating_duration_since(since);
                self.since = None;
            }
            _ => {}
        }
    }

    /// Since when it is so, if it is.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// It has been so for this long.
    pub fn total(&self, now: Instant) -> Duration {
        self.total + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// The same, in milliseconds.
    pub fn total_ms(&self, now: Instant) -> u64 {
        self.total(now).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_while_it_is_so_time_counts() {
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
