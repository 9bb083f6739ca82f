//! The phases of a watched job. Pure: the caller passes events and the time.

use std::time::{Duration, Instant};

/// How long the other programs may take to end after the first one, if no results are packed.
const END_TIME: Duration = Duration::from_secs(30);
/// The same, if the receiver packs the results.
const PACK_TIME: Duration = Duration::from_secs(1800);
/// How long to wait for the others after the receiver, which has all results when it ends.
const FOLLOW_TIME: Duration = Duration::from_secs(10);

/// Which programs of a job have ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    None,
    /// Some, but not the receiver.
    Some,
    /// The receiver, but not all.
    Receiver,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Rows are read, classified or written.
    Running,
    /// The first program has ended, so all rows are classified. The receiver may still pack the results.
    Ending { since: Instant },
    /// The receiver has ended. The others get only a moment: a program that was just restarted waits for others that are gone.
    Concluding { ending: Instant, since: Instant },
}

/// What the watching command does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Wait,
    /// The job is done. `packing` is the time since the first program ended.
    Done {
        packing: Duration,
    },
    /// A program has not ended within this time.
    TooLate(Duration),
}

impl Phase {
    /// Updates the phase by which programs have ended.
    pub(super) fn next(&mut self, ended: Ended, packs: bool, now: Instant) -> Next {
        *self = match (*self, ended) {
            (Self::Running, Ended::None) => Self::Running,
            (Self::Running, Ended::Some) => Self::Ending { since: now },
            (Self::Running, Ended::Receiver | Ended::All) => Self::Concluding { ending: now, since: now },
            (Self::Ending { since }, Ended::Receiver | Ended::All) => {
                Self::Concluding { ending: since, since: now }
            }
            (phase, _) => phase,
        };
        match *self {
            Self::Running => Next::Wait,
            Self::Ending { since } => {
                let limit = if packs { PACK_TIME } else { END_TIME };
                if now - since >= limit { Next::TooLate(limit) } else { Next::Wait }
            }
            Self::Concluding { ending, since } if ended == Ended::All || now - since >= FOLLOW_TIME => {
                Next::Done { packing: now - ending }
            }
            Self::Concluding { .. } => Next::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps through times in seconds, each with what has ended by then.
    fn run(packs: bool, seen: &[(u64, Ended)]) -> Next {
        let (mut phase, start) = (Phase::Running, Instant::now());
        let mut next = Next::Wait;
        for (seconds, ended) in seen {
            assert_eq!(next, Next::Wait, "it is over before {seconds} s");
            next = phase.next(*ended, packs, start + Duration::from_secs(*seconds));
        }
        next
    }

    #[test]
    fn a_job_is_done_when_all_have_ended() {
        let seen = [(0, Ended::None), (500, Ended::None), (501, Ended::Some), (504, Ended::All)];
        assert_eq!(run(false, &seen), Next::Done { packing: Duration::from_secs(3) });
        assert_eq!(run(false, &[(9, Ended::All)]), Next::Done { packing: Duration::ZERO });
    }

    #[test]
    fn a_receiver_that_packs_has_more_time_to_end() {
        let seen = [(10, Ended::Some), (1800, Ended::Some)];
        assert_eq!(run(true, &seen), Next::Wait);
        assert_eq!(run(true, &[(10, Ended::Some), (1810, Ended::Some)]), Next::TooLate(PACK_TIME));
        assert_eq!(run(false, &[(10, Ended::Some), (40, Ended::Some)]), Next::TooLate(END_TIME));
    }

    #[test]
    fn after_the_receiver_the_others_have_ten_seconds_to_end() {
        let seen = [(10, Ended::Some), (20, Ended::Receiver), (29, Ended::Receiver)];
        assert_eq!(run(true, &seen), Next::Wait);
        let seen = [(10, Ended::Some), (20, Ended::Receiver), (30, Ended::Receiver)];
        assert_eq!(run(true, &seen), Next::Done { packing: Duration::from_secs(20) });
    }
}
