//! One program of the job, over all its lives.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use telemetry::report::{Counts, Ending, ModelCounts, Report, WorkerCounts};
use telemetry::usage::Usage;
use telemetry::view::Liveness;

use crate::stages::strained_ms;

/// Without a report for so long, a program is stale: how it is doing is unknown.
pub const STALE: Duration = Duration::from_secs(3);
/// Without a report for so long, it is lost.
pub const LOST: Duration = Duration::from_secs(10);
/// Of each worker, the rates of so many seconds are kept.
const RATES: usize = 60;
/// Over how many of them a worker's pace is an average.
const PACE_SPAN: usize = 10;
/// A worker that takes so many times as long for its next batch as for the last one is slower than it was.
const LATE: u64 = 2;

/// A program of the job. Times are those of the hub's clock.
#[derive(Debug, Clone)]
pub struct Process {
    /// The machine's name.
    pub machine: String,
    incarnation: u64,
    /// The incarnations of its lives before this one.
    retired: Vec<u64>,
    /// When its last report came.
    pub seen: Duration,
    /// What its last report said of its machine and itself.
    pub usage: Usage,
    /// Cores that it used between its last two reports.
    pub processors: Option<f64>,
    /// Bytes a second that its machine received and sent between its last two reports.
    pub network: Option<(f64, f64)>,
    uptime_ms: u64,
    /// The share of the time in which it is at its limit, lately; see [`Load`](crate::stages::Load).
    pub strain: Option<f64>,
    /// What it has counted in this life; of its workers, see there.
    pub counts: Counts,
    /// What its last report said of its end.
    pub ending: Option<Ending>,
    /// Its workers, if it is a classifier.
    pub workers: Vec<Worker>,
    /// It has the source, or had it in an earlier life.
    is_initializer: bool,
    /// How it was doing when [`change`](Self::change) was called last.
    liveness_before: Liveness,
}

/// A worker thread, over all lives of its process.
#[derive(Debug, Clone, Default)]
pub struct Worker {
    /// What was counted in earlier lives, if there were any.
    before: Option<Box<WorkerCounts>>,
    /// The last report of this one.
    pub now: WorkerCounts,
    /// Rows a second, one for each second, the last of them last; nothing, where they are not known.
    pub rates: VecDeque<Option<f32>>,
    /// The share of the time in which its model is at work, lately.
    pub busy: Option<f64>,
    /// Since its last batch was done; and how long that took.
    unfinished_ms: u64,
    step_ms: u64,
}

/// A span as a number of rates.
fn seconds(span: Duration) -> usize {
    (span.as_secs_f64().round() as usize).clamp(1, RATES)
}

impl Worker {
    /// What it has counted in all its lives. Histograms are large: they are added up only for a worker that has had several.
    pub fn totals(&self) -> Cow<'_, WorkerCounts> {
        let Some(before) = &self.before else { return Cow::Borrowed(&self.now) };
        let WorkerCounts { batches_in, batches, rows, rejects, busy_ms, oldest_ms, queue, classify, model } =
            &self.now;
        let mut totals = WorkerCounts::clone(before);
        totals.batches_in += batches_in;
        totals.batches += batches;
        totals.rows += rows;
        totals.rejects += rejects;
        totals.busy_ms += busy_ms;
        totals.oldest_ms = *oldest_ms;
        totals.queue.add(queue);
        totals.classify.add(classify);
        totals.model.add(model);
        Cow::Owned(totals)
    }

    /// Rows a second, between its last two reports.
    pub fn rate(&self) -> Option<f32> {
        self.rates.back().copied().flatten()
    }

    /// The same, on average over the last seconds: batches that take long come seldom.
    pub fn pace(&self) -> Option<f32> {
        self.rate()?;
        let last: Vec<_> = self.rates.iter().rev().take(PACE_SPAN).copied().collect::<Option<_>>()?;
        (last.len() == PACE_SPAN).then(|| last.iter().sum::<f32>() / PACE_SPAN as f32)
    }

    /// What has happened to its model, in all its lives.
    pub fn model(&self) -> ModelCounts {
        let mut counts = self.before.as_ref().map(|before| before.model.clone()).unwrap_or_default();
        counts.add(&self.now.model);
        counts
    }

    /// Batches that it has classified, in all its lives.
    pub fn batches(&self) -> u64 {
        self.before.as_ref().map_or(0, |before| before.batches) + self.now.batches
    }

    /// So long, its rates were so, or were not known.
    fn remember(&mut self, rate: Option<f32>, span: Duration) {
        for _ in 0..seconds(span) {
            if self.rates.len() == RATES {
                self.rates.pop_front();
            }
            self.rates.push_back(rate);
        }
    }

    /// Batches that are with it.
    pub fn in_flight(&self) -> u64 {
        self.now.batches_in.saturating_sub(self.now.batches)
    }

    /// Takes in what it has counted a moment later.
    fn on_report(&mut self, counts: WorkerCounts, span_ms: u64) {
        if span_ms > 0 {
            self.measure(&counts, span_ms);
            self.busy = smooth(self.busy, share(counts.busy_ms, self.now.busy_ms, span_ms));
        }
        self.now = counts;
    }

    /// A batch may take many seconds. So its rows count for all of them, and until the next batch is done, the rate is taken to be
    /// what it was.
    fn measure(&mut self, counts: &WorkerCounts, span_ms: u64) {
        let rows = counts.rows.saturating_sub(self.now.rows);
        let was_idle = self.in_flight() == 0;
        self.unfinished_ms = if was_idle { span_ms } else { self.unfinished_ms + span_ms };
        let unfinished = Duration::from_millis(self.unfinished_ms);
        let span = Duration::from_millis(span_ms);
        if rows > 0 {
            let rate = (rows * 1000) as f32 / self.unfinished_ms as f32;
            self.remember(Some(rate), span);
            self.rates.iter_mut().rev().take(seconds(unfinished)).flatten().for_each(|known| *known = rate);
            (self.step_ms, self.unfinished_ms) = (self.unfinished_ms, 0);
        } else {
            let is_late = was_idle || self.unfinished_ms > LATE * self.step_ms;
            self.remember(Some(if is_late { 0.0 } else { self.rate().unwrap_or_default() }), span);
        }
    }
}

/// What a report brought besides counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The program lives its first life.
    Joined,
    /// It lives another one.
    Restarted,
    /// Nothing but counts.
    None,
}

impl Process {
    /// A program whose first report this is. Its rates are known with the next one.
    pub fn new(machine: &str, incarnation: u64, report: Report, now: Duration) -> Self {
        let Report { uptime_ms, usage, mut counts, ending } = report;
        let worker = |now| Worker { now, ..Worker::default() };
        Self {
            machine: machine.to_owned(),
            incarnation,
            retired: Vec::new(),
            seen: now,
            usage,
            processors: None,
            network: None,
            strain: None,
            uptime_ms,
            workers: take_workers(&mut counts).into_iter().map(worker).collect(),
            is_initializer: has_source(&counts),
            counts,
            ending,
            liveness_before: Liveness::Up,
        }
    }

    /// Takes in a report.
    pub fn on_report(&mut self, machine: &str, incarnation: u64, report: Report, now: Duration) -> News {
        // What was on its way for long, and has been overtaken.
        let is_older = incarnation == self.incarnation && report.uptime_ms < self.uptime_ms;
        if is_older || self.retired.contains(&incarnation) {
            return News::None;
        }
        let silent = now.saturating_sub(self.seen);
        self.seen = now;
        if incarnation != self.incarnation {
            self.retired.push(std::mem::replace(&mut self.incarnation, incarnation));
            machine.clone_into(&mut self.machine);
            for worker in &mut self.workers {
                worker.before = Some(Box::new(worker.totals().into_owned()));
                worker.now = WorkerCounts::default();
                worker.remember(None, silent);
            }
            self.take(report, 0);
            self.liveness_before = Liveness::Up;
            return News::Restarted;
        }
        let span_ms = report.uptime_ms.saturating_sub(self.uptime_ms);
        self.take(report, span_ms);
        News::None
    }

    fn take(&mut self, report: Report, span_ms: u64) {
        let Report { uptime_ms, usage, mut counts, ending } = report;
        let per_second = |now: u64, then: u64| {
            (span_ms > 0).then(|| now.saturating_sub(then) as f64 * 1000.0 / span_ms as f64)
        };
        self.processors = per_second(usage.cpu_ms, self.usage.cpu_ms).map(|ms| ms / 1000.0);
        self.network = per_second(usage.received_bytes, self.usage.received_bytes)
            .zip(per_second(usage.sent_bytes, self.usage.sent_bytes));
        if span_ms > 0 {
            self.strain =
                smooth(self.strain, share(strained_ms(&counts), strained_ms(&self.counts), span_ms));
        }
        let workers = take_workers(&mut counts);
        self.workers.resize_with(self.workers.len().max(workers.len()), Worker::default);
        for (worker, counts) in self.workers.iter_mut().zip(workers) {
            worker.on_report(counts, span_ms);
        }
        self.is_initializer |= has_source(&counts);
        (self.uptime_ms, self.usage, self.counts, self.ending) = (uptime_ms, usage, counts, ending);
    }

    /// What has happened to the models of its workers.
    pub fn model(&self) -> ModelCounts {
        let mut counts = ModelCounts::default();
        self.workers.iter().for_each(|worker| counts.add(&worker.model()));
        counts
    }

    /// Its lives before this one.
    pub fn restarts(&self) -> usize {
        self.retired.len()
    }

    /// When it began, in this life.
    pub fn begun(&self) -> Duration {
        self.seen.saturating_sub(Duration::from_millis(self.uptime_ms))
    }

    /// How it was doing when this was asked before, and how it is doing now, if that is something else.
    pub fn change(&mut self, now: Duration) -> Option<(Liveness, Liveness)> {
        let liveness = self.liveness(now);
        let before = std::mem::replace(&mut self.liveness_before, liveness);
        (before != liveness).then_some((before, liveness))
    }

    /// Why it cannot go on, if it has said so.
    pub fn failure(&self) -> Option<&str> {
        match &self.ending {
            Some(Ending::Failed(why)) => Some(why),
            _ => None,
        }
    }

    /// Whether the job may go on without it: it is a classifier, and not the initializer.
    pub fn is_dispensable(&self) -> bool {
        matches!(&self.counts, Counts::Classifier(_)) && !self.is_initializer
    }

    /// How it is.
    pub fn liveness(&self, now: Duration) -> Liveness {
        let silent = now.saturating_sub(self.seen);
        match &self.ending {
            Some(Ending::Finished) => Liveness::Finished,
            Some(Ending::Failed(_)) => Liveness::Failed,
            _ if silent >= LOST => Liveness::Lost,
            Some(Ending::Leaving(_)) => Liveness::Stale,
            None if silent >= STALE => Liveness::Stale,
            None => Liveness::Up,
        }
    }
}

fn has_source(counts: &Counts) -> bool {
    matches!(counts, Counts::Classifier(counts) if counts.source.is_some())
}

fn share(now_ms: u64, then_ms: u64, span_ms: u64) -> f64 {
    (now_ms.saturating_sub(then_ms) as f64 / span_ms as f64).min(1.0)
}

/// What is said in words should not change with every second.
fn smooth(before: Option<f64>, now: f64) -> Option<f64> {
    Some(before.map_or(now, |before| before + (now - before) * 0.3))
}

fn take_workers(counts: &mut Counts) -> Vec<WorkerCounts> {
    match counts {
        Counts::Classifier(counts) => std::mem::take(&mut counts.workers),
        Counts::Sender(_) | Counts::Receiver(_) => Vec::new(),
    }
}
