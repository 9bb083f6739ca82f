//! Limits log lines about unauthenticated peers, which could otherwise fill the disk.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Lines logged in a [`SPAN`]: enough to find the reason of a refusal.
const MOST: u32 = 200;
const SPAN: Duration = Duration::from_secs(60);

/// Counts the complaints of the current span.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    began: Option<Instant>,
    made: u32,
}

impl Complaints {
    /// The line to log for this complaint, if any.
    pub(super) fn take(&mut self, what: impl Display, now: Instant) -> Option<String> {
        let mut before = None;
        if self.began.is_none_or(|began| now.duration_since(began) >= SPAN) {
            let unlogged = self.made.saturating_sub(MOST);
            before = (unlogged > 0).then(|| format!("({unlogged} similar lines were not logged) "));
            *self = Self { began: Some(now), made: 0 };
        }
        self.made = self.made.saturating_add(1);
        match self.made {
            ..MOST => Some(format!("{}{what}", before.unwrap_or_default())),
            MOST => Some(format!("{what} (further lines of this kind within {SPAN:?} are only counted)")),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_beyond_the_limit_are_counted_and_not_logged() {
        let (mut complaints, start) = (Complaints::default(), Instant::now());
        let lines: Vec<_> = (0..1000).filter_map(|i| complaints.take(i, start)).collect();
        assert_eq!((lines.len(), lines[0].as_str(), lines[198].as_str()), (200, "0", "198"));
        assert_eq!(lines[199], "199 (further lines of this kind within 60s are only counted)");
        let later = complaints.take("again", start + SPAN).unwrap();
        assert_eq!(later, "(800 similar lines were not logged) again");
        assert_eq!(complaints.take("and again", start + SPAN).unwrap(), "and again");
    }
}
