//! What is said of strangers: not a line for each, or they would fill the disk.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// So many lines are said in a [`SPAN`]: all that somebody needs who looks for the reason of a refusal.
const MOST: u32 = 200;
const SPAN: Duration = Duration::from_secs(60);

/// Complaints of the span of time that began last.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    began: Option<Instant>,
    made: u32,
}

impl Complaints {
    /// The line to be said for this complaint, if one is.
    pub(super) fn take(&mut self, what: impl Display, now: Instant) -> Option<String> {
        let mut before = None;
        if self.began.is_none_or(|began| now.duration_since(began) >= SPAN) {
            let unsaid = self.made.saturating_sub(MOST);
            before = (unsaid > 0).then(|| format!("({unsaid} more like it were not said) "));
            *self = Self { began: Some(now), made: 0 };
        }
        self.made = self.made.saturating_add(1);
        match self.made {
            ..MOST => Some(format!("{}{what}", before.unwrap_or_default())),
            MOST => Some(format!("{what} (what comes of this kind within {SPAN:?} is only counted)")),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_complaints_are_few_lines_and_their_number() {
        let (mut complaints, start) = (Complaints::default(), Instant::now());
        let lines: Vec<_> = (0..1000).filter_map(|i| complaints.take(i, start)).collect();
        assert_eq!((lines.len(), lines[0].as_str(), lines[198].as_str()), (200, "0", "198"));
        assert_eq!(lines[199], "199 (what comes of this kind within 60s is only counted)");
        let later = complaints.take("again", start + SPAN).unwrap();
        assert_eq!(later, "(800 more like it were not said) again");
        assert_eq!(complaints.take("and again", start + SPAN).unwrap(), "and again");
    }
}
