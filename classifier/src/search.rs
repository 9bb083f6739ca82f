//! Decides which rows of a batch to try next when its model fails or hangs. Pure: the caller passes how each try ended and how
//! long it took.
//!
//! After a *failure*, the same rows are tried again, and then each half of them, until each failing row is alone.
//!
//! A *hang* costs the whole time limit. Either there were too many rows for the limit, or a row never ends. The rows are then
//! tried in small parts, each with the whole limit. The time of the first row decides how small the parts are. Each hang makes
//! them [`SMALLER`] times smaller, so parts of several rows hang only a few times in a batch.

use std::ops::Range;
use std::time::Duration;

/// After a hang, parts have this many times fewer rows.
const SMALLER: usize = 32;
/// A part should take this share of the time limit, at the pace of earlier rows.
const CAREFUL: f64 = 0.5;

/// How much time a batch may lose to hangs.
struct Budget {
    /// How many hangs may take the whole limit.
    whole: u32,
    /// The time that all hangs together may take, as a multiple of the limit. Tries after the first `whole` hangs get the limit
    /// divided by [`SHORT`].
    all: f64,
}

/// While no row of the batch is done: the model may hang on all rows.
const NOTHING_DONE: Budget = Budget { whole: 8, all: 12.0 };
/// Once a row is done.
const SOME_DONE: Budget = Budget { whole: 16, all: 32.0 };
/// Later tries get the limit divided by this.
const SHORT: u32 = 8;

/// A worker's estimate of the time per row.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Pace {
    /// No batch has taken too long yet, so no estimate is needed.
    #[default]
    Unknown,
    /// A batch took too long. The next row is tried alone, to measure it.
    Measuring,
    /// Seconds per row.
    Seconds(f64),
}

impl Pace {
    /// How many rows to try at once within `limit`.
    fn fits(self, limit: Duration) -> usize {
        match self {
            Self::Unknown => usize::MAX,
            Self::Measuring => 1,
            Self::Seconds(seconds) => ((limit.as_secs_f64() * CAREFUL / seconds) as usize).max(1),
        }
    }

    /// Updates the estimate after a try. A slower pace counts at once, a faster one gradually.
    fn learn(&mut self, rows: usize, took: Duration) {
        let latest = took.as_secs_f64().max(1e-9) / rows as f64;
        *self = match *self {
            Self::Unknown => Self::Unknown,
            Self::Seconds(before) if before > latest => Self::Seconds((before + latest) / 2.0),
            Self::Measuring | Self::Seconds(_) => Self::Seconds(latest),
        };
    }
}

/// What to do next. Rows are counted from 0 within the batch, and handled in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Try these rows, within this time.
    Try(Range<usize>, Duration),
    /// Reject these rows: hangs have cost this batch too much time.
    GiveUp(Range<usize>),
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The model returned results.
    Done,
    Failed {
        /// Another try would fail in the same way.
        permanent: bool,
    },
    /// The model took longer than the limit.
    Hung,
}

/// Rows to try.
#[derive(Debug, Clone)]
struct Part {
    rows: Range<usize>,
    /// Whether the rows are tried once more, undivided, if the model fails.
    has_second_try: bool,
}

/// The search in one batch.
#[derive(Debug)]
pub struct Search {
    limit: Duration,
    /// A stack of parts still to try.
    parts: Vec<Part>,
    /// The part being tried, and its time limit.
    tried: Option<(Part, Duration)>,
    /// The most rows to try at once.
    most: usize,
    has_done_some: bool,
    hangs: u32,
    /// The time of all hangs so far, as a multiple of the limit.
    wasted: f64,
}

impl Search {
    /// Starts with a batch of `rows` rows and the model's time limit for a batch.
    pub fn new(rows: usize, limit: Duration) -> Self {
        let all = Part { rows: 0..rows, has_second_try: true };
        let parts = if rows == 0 { Vec::new() } else { vec![all] };
        Self { limit, parts, tried: None, most: rows, has_done_some: false, hangs: 0, wasted: 0.0 }
    }

    /// What to do next; `None` when each row is done or rejected.
    pub fn next(&mut self, pace: Pace) -> Option<Next> {
        let Part { rows, has_second_try } = self.parts.pop()?;
        let Some(limit) = self.allowance() else {
            return Some(Next::GiveUp(rows));
        };
        let end = rows.end.min(rows.start.saturating_add(self.most.min(pace.fits(limit))));
        if end < rows.end {
            self.push(end..rows.end, has_second_try);
        }
        let next = Next::Try(rows.start..end, limit);
        // A row alone gets two tries, as in a batch of its own.
        let has_second_try = has_second_try || (rows.len() > 1 && end - rows.start == 1);
        self.tried = Some((Part { rows: rows.start..end, has_second_try }, limit));
        Some(next)
    }

    /// Whether the latest part is the last one, if it succeeds.
    pub fn is_last(&self) -> bool {
        self.parts.is_empty()
    }

    fn push(&mut self, rows: Range<usize>, has_second_try: bool) {
        self.parts.push(Part { has_second_try: has_second_try || rows.len() == 1, rows });
    }

    /// How long the next try may take; `None` when hangs have cost too much.
    fn allowance(&self) -> Option<Duration> {
        let budget = if self.has_done_some { SOME_DONE } else { NOTHING_DONE };
        if self.hangs < budget.whole {
            return Some(self.limit);
        }
        (self.wasted < budget.all).then(|| self.limit / SHORT)
    }

    /// Handles the end of the try from [`Search::next`]. Returns whether the try had a single row, which must be rejected.
    pub fn end(&mut self, end: End, took: Duration, pace: &mut Pace) -> bool {
        let Some((Part { rows, has_second_try }, limit)) = self.tried.take() else { return false };
        let is_alone = rows.len() == 1;
        match end {
            End::Done => {
                self.has_done_some = true;
                pace.learn(rows.len(), took);
                return false;
            }
            End::Hung => {
                self.hangs += 1;
                self.wasted += limit.as_secs_f64() / self.limit.as_secs_f64();
                if !is_alone {
                    self.most = self.most.min(rows.len()).div_ceil(SMALLER);
                    *pace = Pace::Measuring;
                    self.push(rows, true);
                    return false;
                }
            }
            End::Failed { .. } => {}
        }
        // The cause may have been temporary, such as a machine that was paused.
        let is_retried = has_second_try && end != End::Failed { permanent: true };
        if is_retried {
            self.parts.push(Part { rows, has_second_try: false });
        } else if is_alone {
            return true;
        } else {
            let middle = rows.start + rows.len() / 2;
            self.push(middle..rows.end, false);
            self.push(rows.start..middle, false);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// What a row does to a model.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Row {
        /// Takes this many seconds.
        Takes(f64),
        Hangs,
        Fails,
    }

    /// The outcome of a search with a simulated clock.
    #[derive(Debug, Default)]
    struct Searched {
        done: Vec<usize>,
        rejected: Vec<usize>,
        given_up: Vec<usize>,
        seconds: f64,
        tries: usize,
        hangs: usize,
    }

    impl Searched {
        /// Searches a batch with a model that takes `call` extra seconds per call.
        fn search(rows: &[Row], call: f64, pace: &mut Pace) -> Self {
            let mut search = Search::new(rows.len(), LIMIT);
            let mut found = Self::default();
            while let Some(next) = search.next(*pace) {
                let (range, limit) = match next {
                    Next::GiveUp(range) => {
                        found.given_up.extend(range);
                        continue;
                    }
                    Next::Try(range, limit) => (range, limit.as_secs_f64()),
                };
                found.tries += 1;
                let (mut took, mut end) = (call, End::Done);
                for row in &rows[range.clone()] {
                    match row {
                        Row::Takes(seconds) => took += seconds,
                        Row::Hangs => took = f64::INFINITY,
                        Row::Fails => end = End::Failed { permanent: false },
                    }
                }
                if took > limit {
                    (took, end) = (limit, End::Hung);
                    found.hangs += 1;
                }
                found.seconds += took;
                let is_rejected = search.end(end, Duration::from_secs_f64(took), pace);
                match end {
                    End::Done => found.done.extend(range),
                    _ if is_rejected => found.rejected.extend(range),
                    _ => {}
                }
            }
            found
        }

        /// All rows that were done, rejected or given up.
        fn ends(&self) -> Vec<usize> {
            let mut all = [&self.done[..], &self.rejected, &self.given_up].concat();
            assert!(self.done.is_sorted() && self.rejected.is_sorted() && self.given_up.is_sorted());
            all.sort_unstable();
            all
        }
    }

    fn own_time(rows: &[Row]) -> f64 {
        rows.iter().map(|row| if let Row::Takes(seconds) = row { *seconds } else { 0.0 }).sum()
    }

    fn row() -> impl Strategy<Value = Row> {
        prop_oneof![
            4 => (0.0..0.1).prop_map(Row::Takes),
            2 => (0.0..59.0).prop_map(Row::Takes),
            1 => Just(Row::Hangs),
            1 => Just(Row::Fails),
        ]
    }

    proptest! {
        #[test]
        fn each_row_ends_exactly_once_in_bounded_time(rows in prop::collection::vec(row(), 0..300), call in 0.0..1.0) {
            let found = Searched::search(&rows, call, &mut Pace::default());
            prop_assert_eq!(found.ends(), (0..rows.len()).collect::<Vec<_>>());
            let wasted = SOME_DONE.all * LIMIT.as_secs_f64();
            // A failing row is tried in each of the parts that halve a batch, and the other rows of these parts take their
            // time again.
            let fails = rows.iter().filter(|row| **row == Row::Fails).count();
            let halvings = (1 + fails) as f64 * 20.0;
            prop_assert!(found.seconds <= own_time(&rows) * halvings + wasted + LIMIT.as_secs_f64() + call * found.tries as f64);
            prop_assert!(found.tries <= 40 + rows.len() * 12);
        }

        #[test]
        fn all_rows_within_the_limit_are_done_despite_a_few_hanging_rows(
            takes in prop::collection::vec(prop_oneof![0.0..0.01, 0.0..1.0, 0.0..59.0], 1..400),
            hanging in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
            call in 0.0..1.0,
        ) {
            let mut rows: Vec<_> = takes.into_iter().map(Row::Takes).collect();
            for index in hanging {
                *index.get_mut(&mut rows) = Row::Hangs;
            }
            let found = Searched::search(&rows, call, &mut Pace::default());
            let hang: Vec<_> = (0..rows.len()).filter(|&i| rows[i] == Row::Hangs).collect();
            prop_assert_eq!(&found.rejected, &hang);
            prop_assert_eq!(found.given_up.len(), 0);
            // Parts of several rows hang twice in a batch of this length, and a row alone twice.
            prop_assert!(found.hangs <= 2 + 2 * hang.len(), "{}", found.hangs);
        }

        #[test]
        fn slow_rows_waste_one_limit_in_the_first_batch_and_nothing_in_later_batches(
            seconds in 0.61..59.0, call in 0.0..0.5, spread in 0.5..1.0, rows in 100usize..200,
        ) {
            let rows: Vec<_> = (0..rows)
                .map(|i| Row::Takes(if i % 2 == 0 { seconds } else { seconds * spread }))
                .collect();
            let mut pace = Pace::default();
            let first = Searched::search(&rows, call, &mut pace);
            let hangs = usize::from(own_time(&rows) + call > LIMIT.as_secs_f64());
            prop_assert_eq!((first.done.len(), first.hangs), (rows.len(), hangs));
            let later = Searched::search(&rows, call, &mut pace);
            prop_assert_eq!((later.done.len(), later.hangs), (rows.len(), 0));
            prop_assert!(later.seconds <= own_time(&rows) + call * later.tries as f64 + 1e-6);
        }

        #[test]
        fn exactly_the_failing_rows_are_rejected(
            fails in prop::collection::vec(prop::bool::weighted(0.1), 0..200),
        ) {
            let rows: Vec<_> = fails.iter().map(|&f| if f { Row::Fails } else { Row::Takes(0.001) }).collect();
            let found = Searched::search(&rows, 0.001, &mut Pace::default());
            let failing: Vec<_> = (0..rows.len()).filter(|&i| fails[i]).collect();
            prop_assert_eq!(found.rejected, failing);
            prop_assert_eq!(found.given_up.len(), 0);
        }
    }

    #[test]
    fn a_batch_whose_rows_all_hang_is_given_up_after_twelve_limits() {
        for rows in [2, 100, 10_000] {
            let found = Searched::search(&vec![Row::Hangs; rows], 0.01, &mut Pace::default());
            assert!(found.seconds <= 12.2 * LIMIT.as_secs_f64(), "{rows} rows: {} s", found.seconds);
            assert_eq!(found.done.len(), 0);
        }
    }

    #[test]
    fn a_pace_rises_at_once_and_falls_gradually() {
        let mut pace = Pace::Measuring;
        pace.learn(1, Duration::from_secs(4));
        assert_eq!((pace, pace.fits(LIMIT)), (Pace::Seconds(4.0), 7));
        pace.learn(2, Duration::from_secs(4));
        assert_eq!((pace, pace.fits(LIMIT)), (Pace::Seconds(3.0), 10));
        pace.learn(2, Duration::from_secs(100));
        assert_eq!((pace, pace.fits(LIMIT)), (Pace::Seconds(50.0), 1));
        let mut unknown = Pace::Unknown;
        unknown.learn(1, Duration::from_secs(50));
        assert_eq!(unknown.fits(LIMIT), usize::MAX);
    }
}
