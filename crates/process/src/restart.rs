//! Whether a program is started again, and when. Pure.

use std::time::Duration;

/// The pause before a program is started again; it doubles with each life in which it did not get ready.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A life that is shorter than this is a short one.
const SHORT: Duration = Duration::from_secs(10);
/// So many short lives in a row are no accident, even if it got ready in each of them.
const MOST_SHORT: u32 = 200;
/// So many in a row in which it did not even get ready.
const MOST_UNREADY: u32 = 20;
/// So long a time without getting ready is too long, however few lives it took: what it waits for does not come back.
const LONGEST_UNREADY: Duration = Duration::from_secs(3600);

/// How a program's life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its work is done.
    Well,
    /// It says that it cannot do its work. It would say so again.
    Badly,
    /// It says that something is in its way that passes, or it panicked.
    Temporarily,
    /// Somebody, or the system, killed it.
    Killed,
}

/// The lives of a program until now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Restarts {
    short: u32,
    unready: u32,
    unready_lives: u32,
    unready_for: Duration,
}

impl Restarts {
    /// A life has ended: the pause before the next one, if there is to be one.
    pub fn next(&mut self, ended: Ended, was_ready: bool, lived: Duration) -> Option<Duration> {
        if matches!(ended, Ended::Well | Ended::Badly) {
            return None;
        }
        self.short = if lived < SHORT { self.short + 1 } else { 0 };
        self.unready = if was_ready || lived >= SHORT { 0 } else { self.unready + 1 };
        (self.unready_lives, self.unready_for) = match was_ready {
            true => (0, Duration::ZERO),
            false => (self.unready_lives + 1, self.unready_for + lived),
        };
        // A single life may wait for as long as the program was told to.
        let waits_in_vain = self.unready_lives > 1 && self.unready_for >= LONGEST_UNREADY;
        if self.short >= MOST_SHORT || self.unready >= MOST_UNREADY || waits_in_vain {
            return None;
        }
        Some((PAUSE * (1 << self.unready.min(10))).min(LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_has_said_its_last_word_is_not_started_again() {
        let mut restarts = Restarts::default();
        assert_eq!(restarts.next(Ended::Well, true, SECOND), None);
        assert_eq!(restarts.next(Ended::Badly, false, SECOND), None);
    }

    #[test]
    fn what_was_ready_comes_back_at_once_however_often() {
        let mut restarts = Restarts::default();
        for _ in 1..MOST_SHORT {
            assert_eq!(restarts.next(Ended::Killed, true, SECOND), Some(PAUSE));
        }
        assert_eq!(restarts.next(Ended::Killed, true, SECOND), None);
    }

    #[test]
    fn what_never_gets_ready_is_given_time_and_then_up() {
        let mut restarts = Restarts::default();
        let pauses: Vec<_> =
            (0..30).map_while(|_| restarts.next(Ended::Temporarily, false, SECOND)).collect();
        assert_eq!(pauses.len(), MOST_UNREADY as usize - 1);
        assert!(pauses.is_sorted() && pauses.ends_with(&[LONGEST_PAUSE; 10]), "{pauses:?}");
    }

    #[test]
    fn a_long_life_makes_short_ones_forgotten() {
        let mut restarts = Restarts::default();
        for _ in 0..10 {
            for _ in 1..MOST_UNREADY {
                assert!(restarts.next(Ended::Killed, false, SECOND).is_some());
            }
            assert_eq!(restarts.next(Ended::Killed, false, SHORT), Some(PAUSE));
        }
    }

    #[test]
    fn what_waits_long_in_each_life_is_given_up_after_an_hour() {
        let mut restarts = Restarts::default();
        let mut lives = |was_ready| restarts.next(Ended::Temporarily, was_ready, 180 * SECOND).is_some();
        assert!((0..19).all(|_| lives(false)) && lives(true));
        assert!((0..19).all(|_| lives(false)) && !lives(false));
        assert!(Restarts::default().next(Ended::Killed, false, 2 * LONGEST_UNREADY).is_some());
    }
}
