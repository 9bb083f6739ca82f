//! How many rows there were, over the whole job: each second of the last minutes, and about a thousand points of all of it.

use std::collections::VecDeque;

use telemetry::view::Point;

/// So many of the last points are kept as they came, one a second: five minutes.
pub const RECENT: usize = 300;
/// At most so many points tell of the whole job.
const MOST: usize = 1000;
/// Points that are closer together, in seconds, are one: a rate between them would mean nothing.
const LEAST_STEP: f64 = 0.5;
/// A rate is that of so many seconds, at least; of so many of the steps in which rows are written; and of so many batches of a
/// worker.
pub const RATE_SECONDS: f64 = 5.0;
const RATE_STEPS: f64 = 2.0;
const RATE_BATCHES: f64 = 2.0;

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

    /// The pace at which rows are written, if some were, in batches that take a worker so many seconds.
    pub fn pace(&self, batch_seconds: f64) -> Option<Pace> {
        Pace::of(&self.recent, batch_seconds)
    }

    /// Rows that come in and go out a second, likewise.
    pub fn rates(&self, batch_seconds: f64) -> Option<(f64, f64)> {
        let (first, last) = (self.recent.front()?, self.recent.back()?);
        match self.pace(batch_seconds) {
            Some(pace) => pace.rates(last),
            None => rates(first, last),
        }
    }
}

/// Rows are written in steps: a batch, or as many as there are workers, at a time. A rate between any two moments would go up and
/// down with them; so it is taken from one step to another.
#[derive(Debug, Clone, PartialEq)]
pub struct Pace {
    /// Points at which more rows were written than a second before.
    steps: Vec<Point>,
    /// Over how many seconds a rate is taken.
    pub span: f64,
}

impl Pace {
    fn of(points: &VecDeque<Point>, batch_seconds: f64) -> Option<Self> {
        let pairs = points.iter().zip(points.iter().skip(1));
        let steps: Vec<_> = pairs
            .filter(|(before, after)| after.rows_out > before.rows_out)
            .map(|(_, after)| *after)
            .collect();
        if steps.len() < 2 {
            return None;
        }
        let mut gaps: Vec<_> = steps.windows(2).map(|two| two[1].seconds - two[0].seconds).collect();
        gaps.sort_by(f64::total_cmp);
        let usual = gaps[(gaps.len() - 1) * 3 / 4];
        let span = RATE_SECONDS.max(RATE_STEPS * usual).max(RATE_BATCHES * batch_seconds);
        Some(Self { steps, span })
    }

    /// The last step at this time or before.
    fn step_before(&self, seconds: f64) -> Option<&Point> {
        self.steps.iter().rev().find(|step| step.seconds <= seconds)
    }

    /// Rows in and out a second, lately; none once nothing has been written for longer than usual.
    fn rates(&self, now: &Point) -> Option<(f64, f64)> {
        let last = self.steps.last()?;
        let end = if now.seconds - last.seconds > self.span { now } else { last };
        let start = self.step_before(end.seconds - self.span).or(self.steps.first())?;
        rates(start, end)
    }

    /// Rows out a second in each span, back from the last step for so many spans; and over all of them.
    pub fn recent_rates(&self, spans: usize) -> Vec<f64> {
        let Some(last) = self.steps.last() else { return Vec::new() };
        let (mut found, mut end) = (Vec::new(), last);
        while found.len() < spans
            && let Some(start) = self.step_before(end.seconds - self.span)
        {
            found.extend(rates(start, end).map(|(_, out)| out));
            end = start;
        }
        found.extend(rates(end, last).map(|(_, out)| out));
        found
    }

    /// From the first step to the last one.
    pub fn seconds(&self) -> f64 {
        self.steps.last().zip(self.steps.first()).map_or(0.0, |(last, first)| last.seconds - first.seconds)
    }

    /// When rows were written last.
    pub fn last_seconds(&self) -> f64 {
        self.steps.last().map_or(0.0, |last| last.seconds)
    }
}

fn rates(start: &Point, end: &Point) -> Option<(f64, f64)> {
    let seconds = end.seconds - start.seconds;
    let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
    (seconds > 0.0).then(|| (rate(end.rows_in, start.rows_in), rate(end.rows_out, start.rows_out)))
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
        assert_eq!(history.rates(0.0), None);
        for second in 0..10 {
            history.add(Point { seconds: second as f64, rows_in: second * second, rows_out: second });
        }
        assert_eq!(history.rates(0.0), Some(((81.0 - 16.0) / 5.0, 1.0)));
    }

    #[test]
    fn equal_batches_that_come_seldom_have_one_rate_until_they_come_no_more() {
        let mut history = History::default();
        // Four hundred rows each eight seconds.
        let at = |second: u64| Point { seconds: second as f64, rows_in: 9000, rows_out: second / 8 * 400 };
        for second in 0..60 {
            history.add(at(second));
            if second >= 24 {
                assert_eq!(history.rates(0.0).unwrap().1, 50.0, "second {second}");
            }
        }
        for second in 60..90 {
            history.add(Point { seconds: second as f64, ..at(59) });
            // The last ones came in second 56; the next ones are due in second 64.
            let expected = if second <= 56 + 16 { 50.0 } else { 0.0 };
            assert_eq!(history.rates(0.0).unwrap().1, expected, "second {second}");
        }
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
