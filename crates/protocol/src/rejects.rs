//! Why rows were rejected, by kind of reason, and how many rows a job may reject.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most kinds that are counted separately, including [`OTHERS`].
const MOST_KINDS: usize = 20;
/// The most characters of a kind and of an example.
const LONGEST: usize = 120;
/// The kind in which all further kinds are counted.
const OTHERS: &str = "other reasons";

/// A kind of reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The reason with `…` in place of numbers and quoted text.
    pub kind: String,
    /// The number of rows rejected for this kind of reason.
    pub rows: u64,
    /// The first of these rows, counted from 0.
    pub first_row: u64,
    /// The full reason of that row.
    pub example: String,
}

/// Kinds of reasons, in the order of their first rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reasons(Vec<Reason>);

impl Reasons {
    /// Counts a reject. Calls must be in row order; then the kinds do not depend on where rows were classified.
    pub fn count(&mut self, row: u64, reason: &str) {
        let kind = kind_of(reason);
        let known = self.0.iter().position(|known| known.kind == kind);
        let others = || self.0.iter().position(|known| known.kind == OTHERS);
        let place = known.or_else(|| if self.0.len() < MOST_KINDS { None } else { others() });
        match place {
            Some(place) => self.0[place].rows += 1,
            None => {
                let kind = if self.0.len() + 1 < MOST_KINDS { kind } else { OTHERS.to_owned() };
                self.0.push(Reason { kind, rows: 1, first_row: row, example: cut(reason) });
            }
        }
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Reason> {
        self.0.iter()
    }

    /// Whether no row was rejected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The kinds, the most frequent first.
    pub fn by_rows(&self) -> Vec<&Reason> {
        let mut reasons: Vec<_> = self.0.iter().collect();
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.rows));
        reasons
    }
}

impl fmt::Display for Reasons {
    /// The three most frequent kinds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons = self.by_rows();
        for (i, Reason { rows, first_row, example, .. }) in reasons.iter().take(3).enumerate() {
            let separator = if i > 0 { "; " } else { "" };
            write!(f, "{separator}{rows} as row {first_row}: {example}")?;
        }
        match reasons.len().checked_sub(3) {
            Some(1) => write!(f, "; and one more kind"),
            Some(more @ 2..) => write!(f, "; and {more} more kinds"),
            _ => Ok(()),
        }
    }
}

/// The kind of a reason: the reason with `…` in place of numbers and quoted text.
pub fn kind_of(reason: &str) -> String {
    let mut kind = String::new();
    let mut rest = reason.chars().peekable();
    let mut before = None;
    while let Some(c) = rest.next() {
        let begins_word = before.is_none_or(|before: char| !before.is_alphanumeric());
        match c {
            '0'..='9' => {
                let is_number = |c: &char| c.is_ascii_digit() || matches!(c, '.' | ',' | '_');
                while rest.next_if(is_number).is_some() {}
                kind.push('…');
            }
            // An apostrophe inside a word quotes nothing.
            '\'' | '"' | '`' if begins_word => {
                let quote = c;
                let mut closed = false;
                let quoted: String = rest
                    .clone()
                    .take_while(|&c| {
                        closed = c == quote;
                        !closed
                    })
                    .collect();
                kind.push(quote);
                if closed {
                    rest.by_ref().take(quoted.chars().count() + 1).for_each(drop);
                    kind.push('…');
                    kind.push(quote);
                }
            }
            other => kind.push(other),
        }
        before = Some(c);
    }
    cut(&kind)
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// How many rows a job may reject.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MostRejects {
    /// Any number, but not all of the first [`FIRST`](MostRejects::FIRST) rows: then all others would be rejected, too.
    #[default]
    NotAllOfTheFirst,
    /// At most this many rows.
    Rows(u64),
    /// At most this percentage, checked from [`FIRST`](MostRejects::FIRST) rows on, and at the end of the job.
    Percent(f64),
}

impl MostRejects {
    /// Percentages are checked from this many rows on.
    pub const FIRST: u64 = 1000;

    /// Whether `rejected` of the first `rows` rows are too many.
    pub fn are_too_many(self, rejected: u64, rows: u64) -> bool {
        match self {
            Self::NotAllOfTheFirst => rows == Self::FIRST && rejected == rows,
            Self::Rows(most) => rejected > most,
            Self::Percent(_) => rows >= Self::FIRST && self.are_too_many_in_all(rejected, rows),
        }
    }

    /// Whether `rejected` of all `rows` rows of a job are too many, however few rows it has.
    pub fn are_too_many_in_all(self, rejected: u64, rows: u64) -> bool {
        match self {
            Self::NotAllOfTheFirst => false,
            Self::Rows(most) => rejected > most,
            Self::Percent(most) => rejected as f64 * 100.0 > most * rows as f64,
        }
    }
}

impl fmt::Display for MostRejects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllOfTheFirst => write!(f, "not all of the first {}", Self::FIRST),
            Self::Rows(most) => write!(f, "{most}"),
            Self::Percent(most) => write!(f, "{most}%"),
        }
    }
}

impl TryFrom<String> for MostRejects {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MostRejects> for String {
    fn from(most: MostRejects) -> Self {
        most.to_string()
    }
}

impl FromStr for MostRejects {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither a number of rows nor a percentage from 0% to 100%");
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse() {
                Ok(percent @ 0.0..=100.0) => Ok(Self::Percent(percent)),
                _ => Err(wrong()),
            },
            None => text.parse().map(Self::Rows).map_err(|_| wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reasons_of_one_kind_differ_only_in_numbers_and_quoted_text() {
        for (reason, kind) in [
            ("KeyError: 'SCORE'", "KeyError: '…'"),
            (
                "ValueError: could not convert string to float: 'a b'",
                "ValueError: could not convert string to float: '…'",
            ),
            ("1 values; the header has 2", "… values; the header has …"),
            ("not UTF-8 after byte 1,024", "not UTF-… after byte …"),
            ("the model doesn't know row 7", "the model doesn't know row …"),
            ("an open 'quote", "an open 'quote"),
            ("took 3.5s", "took …s"),
            ("", ""),
        ] {
            assert_eq!(kind_of(reason), kind, "{reason}");
        }
        assert_eq!(kind_of(&"é".repeat(500)).chars().count(), LONGEST + 1);
    }

    #[test]
    fn the_most_frequent_kinds_are_printed_first() {
        let mut reasons = Reasons::default();
        for row in 0..10 {
            reasons.count(row, if row < 3 { "too long" } else { "KeyError: 'A'" });
        }
        assert_eq!(reasons.to_string(), "7 as row 3: KeyError: 'A'; 3 as row 0: too long");
        reasons.count(10, "x");
        reasons.count(11, "y");
        assert!(reasons.to_string().ends_with("; 1 as row 10: x; and one more kind"), "{reasons}");
    }

    proptest! {
        /// Each row is counted, and the list stays short, whatever the reasons.
        #[test]
        fn all_rows_are_counted(kinds in prop::collection::vec(0u32..60, 0..300)) {
            let mut reasons = Reasons::default();
            for (row, kind) in kinds.iter().enumerate() {
                let letters: String = format!("{kind}").bytes().map(|b| char::from(b + 49)).collect();
                reasons.count(row as u64, &letters);
            }
            prop_assert_eq!(reasons.iter().map(|reason| reason.rows).sum::<u64>(), kinds.len() as u64);
            prop_assert!(reasons.iter().count() <= MOST_KINDS);
        }
    }

    #[test]
    fn limits_are_numbers_or_percentages() {
        let most = |text: &str| text.parse::<MostRejects>();
        assert_eq!(most("5"), Ok(MostRejects::Rows(5)));
        assert_eq!(most("0.5%"), Ok(MostRejects::Percent(0.5)));
        for wrong in ["", "-1", "%", "101%", "-1%", "NaN%", "five", "5 %"] {
            assert!(most(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_percentage_is_checked_from_a_thousand_rows_on_and_at_the_end() {
        let most = MostRejects::Percent(1.0);
        assert!(!most.are_too_many(999, 999) && most.are_too_many_in_all(999, 999));
        assert!(!most.are_too_many(10, 1000) && most.are_too_many(11, 1000));
        assert!(!MostRejects::Percent(100.0).are_too_many(1000, 1000));
        let usual = MostRejects::default();
        assert!(usual.are_too_many(1000, 1000));
        assert!(!usual.are_too_many(999, 1000) && !usual.are_too_many(1001, 1001));
        assert!(!MostRejects::Rows(3).are_too_many(3, 3) && MostRejects::Rows(3).are_too_many(4, 9));
    }
}
