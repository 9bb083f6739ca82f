//! The numbers of rows over time: each second of the last minutes, and up to a thousand points of the whole job.

use std::collections::VecDeque;

use telemetry::view::Point;

/// The number of last points that are kept, one per second: five minutes.
pub const RECENT: usize = 300;
/// The most points for the whole job.
const MOST: usize = 1000;
/// Points closer together than this, in seconds, are merged: a rate between them would mean nothing.
const LEAST_STEP: f64 = 0.5;
/// A rate spans at least this many seconds, this many of the steps in which rows are written, and this many batches of a worker.
pub const RATE_SECONDS: f64 = 5.0;
const RATE_STEPS: f64 = 2.0;
const RATE_BATCHES: f64 = 2.0;

/// The job's progress so far.
#[derive(Debug, Clone, Default)]
pub struct History {
    recent: VecDeque<Point>,
    whole: Vec<Point>,
    /// The number of points left out between two in `whole`. It about doubles each time that `whole` is full.
    skip: usize,
    skipped: usize,
}

impl History {
    /// Adds the next point. There is one per second.
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
            // The last point was removed just now; the one before it is half of the new distance ago.
            self.skipped = self.skip.div_ceil(2);
        }
    }

    /// The last five minutes, with one point per second.
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

    /// The pace at which rows are written, if some were. `batch_seconds` is a worker's mean time for a batch.
    pub fn pace(&self, batch_seconds: f64) -> Option<Pace> {
        Pace::of(&self.recent, batch_seconds)
    }

    /// Rows per second, read and written.
    pub fn rates(&self, batch_seconds: f64) -> Option<(f64, f64)> {
        let (first, last) = (self.recent.front()?, self.recent.back()?);
        match self.pace(batch_seconds) {
            Some(pace) => pace.rates(last),
            None => rates(first, last),
        }
    }
}

/// The steps in which rows are written: one batch, or one of each worker, at a time. A rate between any two moments would
/// rise and fall with them, so rates are measured from one step to another.
#[derive(Debug, Clone, PartialEq)]
pub struct Pace {
    /// The points with more written rows than a second before.
    steps: Vec<Point>,
    /// The seconds that a rate spans.
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

    /// The last step at or before this time.
    fn step_before(&self, seconds: f64) -> Option<&Point> {
        self.steps.iter().rev().find(|step| step.seconds <= seconds)
    }

    /// The recent rows per second, read and written. The latter is 0 if nothing has been written for longer than the span.
    fn rates(&self, now: &Point) -> Option<(f64, f64)> {
        let last = self.steps.last()?;
        let end = if now.seconds - last.seconds > self.span { now } else { last };
        let start = self.step_before(end.seconds - self.span).or(self.steps.first())?;
        rates(start, end)
    }

    /// Written rows per second in each of the last `spans` spans, and over all of them.
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

    /// When rows were last written.
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
    fn a_rate_spans_the_last_seconds() {
        let mut history = History::default();
        assert_eq!(history.rates(0.0), None);
        for second in 0..10 {
            history.add(Point { seconds: second as f64, rows_in: second * second, rows_out: second });
        }
        assert_eq!(history.rates(0.0), Some(((81.0 - 16.0) / 5.0, 1.0)));
    }

    #[test]
    fn rare_equal_batches_have_a_constant_rate_until_they_stop() {
        let mut history = History::default();
        // Four hundred rows every eight seconds.
        let at = |second: u64| Point { seconds: second as f64, rows_in: 9000, rows_out: second / 8 * 400 };
        for second in 0..60 {
            history.add(at(second));
            if second >= 24 {
                assert_eq!(history.rates(0.0).unwrap().1, 50.0, "second {second}");
            }
        }
        for second in 60..90 {
            history.add(Point { seconds: second as f64, ..at(59) });
            // The last rows were written in second 56; the next ones are due in second 64.
            let expected = if second <= 56 + 16 { 50.0 } else { 0.0 };
            assert_eq!(history.rates(0.0).unwrap().1, expected, "second {second}");
        }
    }

    #[test]
    fn points_close_together_are_merged() {
        let mut history = History::default();
        (0..3).for_each(|second| history.add(point(second)));
        let end = Point { seconds: 2.1, rows_in: 70, rows_out: 70 };
        history.add(end);
        assert_eq!(history.whole(), [point(0), point(1), end]);
    }

    proptest! {
        #[test]
        fn any_job_keeps_its_first_and_last_point_and_a_limited_number_of_points(length in 1..20_000u64) {
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
