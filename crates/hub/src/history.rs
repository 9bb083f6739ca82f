//! How many rows there were, over the whole job: each second of the last minutes, and about a thousand points of all of it.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

/// So many of the last points are kept as they came, one a second: five minutes.
pub const RECENT: usize = 300;
/// At most so many points tell of the whole job.
const MOST: usize = 1000;

/// Points that are closer together are one: a rate between them would mean nothing.
const LEAST_STEP: f64 = 0.5;

/// How far the job was at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Seconds since the job began.
    pub seconds: f64,
    /// Rows that had come in.
    pub rows_in: u64,
    /// Rows that were written.
    pub rows_out: u64,
}

/// The job's course so far.
#[derive(Debug, Clone, Default)]
pub struct History {
    recent: VecDeque<Point>,
    whole: Vec<Point>,
    /// Of so many points that come, one is kept in `whole`, less one: it doubles when that is full.
    skip: usize,
    skipped: usize,
}

impl History {
    /// Adds the next point; there is one a second.
    pub fn add(&mut self, point: Point) {
        if let Some(last) = self.recent.back_mut()
            && point.seconds - last.seconds < LEAST_STEP
        {
            let before = std::mem::replace(last, point);
            if let Some(last) = self.whole.last_mut().filter(|last| **last == before) {
                *last = point;
            }
            return;
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(point);
        if self.skipped < self.skip {
            self.skipped += 1;
            return;
        }
        self.skipped = 0;
        self.whole.push(point);
        if self.whole.len() == MOST {
            let mut keep = false;
            self.whole.retain(|_| {
                keep = !keep;
                keep
            });
            self.skip = 2 * self.skip + 1;
            // The last one that is left came as many points ago as there were from one to the next before.
            self.skipped = self.skip.div_ceil(2);
        }
    }

    /// The last five minutes, a point a second.
    pub fn recent(&self) -> impl DoubleEndedIterator<Item = &Point> + ExactSizeIterator {
        self.recent.iter()
    }

    /// The whole job, up to the last second.
    pub fn whole(&self) -> Vec<Point> {
        let mut points = self.whole.clone();
        if let Some(last) = self.recent.back().filter(|last| points.last() != Some(last)) {
            points.push(*last);
        }
        points
    }

    /// Rows that came in and went out a second, over the last `span`; or since the point before, if that is longer ago.
    pub fn rates(&self, span: Duration) -> Option<(f64, f64)> {
        let last = self.recent.back()?;
        let mut before = self.recent.iter().rev().skip(1);
        let is_before = |point: &&Point| last.seconds - point.seconds >= span.as_secs_f64();
        let first = before.find(is_before).or(self.recent.front())?;
        let seconds = last.seconds - first.seconds;
        (seconds > 0.0).then(|| {
            let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            (rate(last.rows_in, first.rows_in), rate(last.rows_out, first.rows_out))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn point(second: u64) -> Point {
        Point { seconds: second as f64, rows_in: 20 * second, rows_out: 10 * second }
    }

    #[test]
    fn a_rate_is_of_the_last_seconds() {
        let mut history = History::default();
        assert_eq!(history.rates(Duration::from_secs(5)), None);
        for second in 0..10 {
            history.add(Point { seconds: second as f64, rows_in: second * second, rows_out: second });
        }
        assert_eq!(history.rates(Duration::from_secs(2)), Some(((81.0 - 49.0) / 2.0, 1.0)));
    }

    #[test]
    fn points_that_are_close_together_are_one() {
        let mut history = History::default();
        (0..3).for_each(|second| history.add(point(second)));
        let end = Point { seconds: 2.1, rows_in: 70, rows_out: 70 };
        history.add(end);
        assert_eq!(history.whole(), [point(0), point(1), end]);
    }

    proptest! {
        #[test]
        fn a_job_of_any_length_has_a_beginning_an_end_and_not_too_many_points(length in 1..20_000u64) {
            let mut history = History::default();
            (0..length).for_each(|second| history.add(point(second)));
            let whole = history.whole();
            prop_assert!(whole.len() <= MOST && whole.len() as u64 >= length.min(MOST as u64 / 2 - 1));
            prop_assert_eq!(whole[0], point(0));
            prop_assert_eq!(whole[whole.len() - 1], point(length - 1));
            // All steps but the last are the same.
            let steps: Vec<_> = whole.windows(2).map(|two| two[1].seconds - two[0].seconds).collect();
            if let Some((last, others)) = steps.split_last() {
                prop_assert!(others.iter().all(|step| *step == others[0]), "{:?}", steps);
                prop_assert!(others.is_empty() || *last <= others[0]);
            }
            prop_assert_eq!(history.recent().len() as u64, length.min(RECENT as u64));
        }
    }
}
