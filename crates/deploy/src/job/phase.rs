//! The phases of a watched job. Pure: the caller passes events and the time.

use std::time::{Duration, Instant};

/// What the receiver does after the last row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    Nothing,
    /// It packs or converts the results.
    Packing,
    /// It uploads them, as fast as the network is. The requests have deadlines of their own.
    Uploading,
}

impl After {
    /// How long the other programs may take to end after the first one.
    fn limit(self) -> Duration {
        match self {
            Self::Nothing => Duration::from_secs(30),
            Self::Packing => Duration::from_secs(1800),
            Self::Uploading => Duration::from_secs(24 * 3600),
        }
    }
}

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
    pub(super) fn next(&mut self, ended: Ended, after: After, now: Instant) -> Next {
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
                let limit = after.limit();
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
    fn run(after: After, seen: &[(u64, Ended)]) -> Next {
        let (mut phase, start) = (Phase::Running, Instant::now());
        let mut next = Next::Wait;
        for (seconds, ended) in seen {
            assert_eq!(next, Next::Wait, "it is over before {seconds} s");
            next = phase.next(*ended, after, start + Duration::from_secs(*seconds));
        }
        next
    }

    #[test]
    fn a_job_is_done_when_all_have_ended() {
        let seen = [(0, Ended::None), (500, Ended::None), (501, Ended::Some), (504, Ended::All)];
        assert_eq!(run(After::Nothing, &seen), Next::Done { packing: Duration::from_secs(3) });
        assert_eq!(run(After::Nothing, &[(9, Ended::All)]), Next::Done { packing: Duration::ZERO });
    }

    #[test]
    fn a_receiver_that_packs_has_more_time_to_end() {
        let seen = [(10, Ended::Some), (1800, Ended::Some)];
        assert_eq!(run(After::Packing, &seen), Next::Wait);
        assert_eq!(
            run(After::Packing, &[(10, Ended::Some), (1810, Ended::Some)]),
            Next::TooLate(Duration::from_secs(1800))
        );
        assert_eq!(
            run(After::Nothing, &[(10, Ended::Some), (40, Ended::Some)]),
            Next::TooLate(Duration::from_secs(30))
        );
        assert_eq!(run(After::Uploading, &[(10, Ended::Some), (9000, Ended::Some)]), Next::Wait);
    }

    #[test]
    fn after_the_receiver_the_others_have_ten_seconds_to_end() {
        let seen = [(10, Ended::Some), (20, Ended::Receiver), (29, Ended::Receiver)];
        assert_eq!(run(After::Packing, &seen), Next::Wait);
        let seen = [(10, Ended::Some), (20, Ended::Receiver), (30, Ended::Receiver)];
        assert_eq!(run(After::Packing, &seen), Next::Done { packing: Duration::from_secs(20) });
    }
}
