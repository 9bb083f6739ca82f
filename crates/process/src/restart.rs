//! Decides whether and when to restart a program. Pure.

use std::time::Duration;

/// The pause before a restart. It doubles after each short run in which the program did not get ready.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Runs below this are short.
const SHORT: Duration = Duration::from_secs(10);
/// A program is given up after this many short runs in a row, even if it got ready in each.
const MOST_SHORT: u32 = 200;
/// A program is given up after this many short runs in a row without getting ready.
const MOST_UNREADY: u32 = 20;
/// A program is given up if it has not become ready for this long, however few runs that took: its peer is not coming back.
const LONGEST_UNREADY: Duration = Duration::from_secs(3600);

/// How a run of a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its work is done.
    Done,
    /// It cannot do its work, and would fail again.
    Failed,
    /// It reported a temporary failure, or panicked.
    FailedTemporarily,
    /// A user or the system killed it.
    Killed,
}

/// Counts the runs of a program.
#[derive(Debug, Clone, Copy, Default)]
pub struct Restarts {
    /// Short runs in a row.
    short: u32,
    /// Short runs in a row without getting ready.
    short_unready: u32,
    /// Runs in a row without getting ready, of any length, and how long they took together.
    unready: u32,
    unready_for: Duration,
}

impl Restarts {
    /// Counts a run that ended. Returns the pause before the next one; `None` if the program is not restarted.
    pub fn next(&mut self, ended: Ended, was_ready: bool, ran_for: Duration) -> Option<Duration> {
        if matches!(ended, Ended::Done | Ended::Failed) {
            return None;
        }
        self.short = if ran_for < SHORT { self.short + 1 } else { 0 };
        self.short_unready = if was_ready || ran_for >= SHORT { 0 } else { self.short_unready + 1 };
        (self.unready, self.unready_for) = match was_ready {
            true => (0, Duration::ZERO),
            false => (self.unready + 1, self.unready_for + ran_for),
        };
        // A single run may wait for as long as the program was told to.
        let waits_in_vain = self.unready > 1 && self.unready_for >= LONGEST_UNREADY;
        if self.short >= MOST_SHORT || self.short_unready >= MOST_UNREADY || waits_in_vain {
            return None;
        }
        Some((PAUSE * (1 << self.short_unready.min(10))).min(LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_program_that_is_done_or_has_failed_is_not_restarted() {
        let mut restarts = Restarts::default();
        assert_eq!(restarts.next(Ended::Done, true, SECOND), None);
        assert_eq!(restarts.next(Ended::Failed, false, SECOND), None);
    }

    #[test]
    fn a_program_that_got_ready_restarts_at_once_up_to_the_limit() {
        let mut restarts = Restarts::default();
        for _ in 1..MOST_SHORT {
            assert_eq!(restarts.next(Ended::Killed, true, SECOND), Some(PAUSE));
        }
        assert_eq!(restarts.next(Ended::Killed, true, SECOND), None);
    }

    #[test]
    fn a_program_that_never_gets_ready_pauses_longer_and_is_then_given_up() {
        let mut restarts = Restarts::default();
        let pauses: Vec<_> =
            (0..30).map_while(|_| restarts.next(Ended::FailedTemporarily, false, SECOND)).collect();
        assert_eq!(pauses.len(), MOST_UNREADY as usize - 1);
        assert!(pauses.is_sorted() && pauses.ends_with(&[LONGEST_PAUSE; 10]), "{pauses:?}");
    }

    #[test]
    fn a_long_run_resets_the_counts_of_short_ones() {
        let mut restarts = Restarts::default();
        for _ in 0..10 {
            for _ in 1..MOST_UNREADY {
                assert!(restarts.next(Ended::Killed, false, SECOND).is_some());
            }
            assert_eq!(restarts.next(Ended::Killed, false, SHORT), Some(PAUSE));
        }
    }

    #[test]
    fn a_program_that_waits_long_in_each_run_is_given_up_after_an_hour() {
        let mut restarts = Restarts::default();
        let mut restarts_after =
            |was_ready| restarts.next(Ended::FailedTemporarily, was_ready, 180 * SECOND).is_some();
        assert!((0..19).all(|_| restarts_after(false)) && restarts_after(true));
        assert!((0..19).all(|_| restarts_after(false)) && !restarts_after(false));
        assert!(Restarts::default().next(Ended::Killed, false, 2 * LONGEST_UNREADY).is_some());
    }
}
