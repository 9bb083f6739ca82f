//! One program of the job, over all its restarts.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use telemetry::report::{Counts, Ending, ModelCounts, Report, WorkerCounts};
use telemetry::usage::Usage;
use telemetry::view::Liveness;

/// Without a report for this long, a program is stale: its state is unknown.
pub const STALE: Duration = Duration::from_secs(3);
/// Without a report for this long, a program is lost.
pub const LOST: Duration = Duration::from_secs(10);
/// The seconds for which each worker's rates are kept.
const RATES: usize = 60;
/// The seconds over which a worker's pace is averaged.
const PACE_SPAN: usize = 10;
/// If the next batch takes more than this many times as long as the last one, the worker's rate counts as 0.
const LATE: u64 = 2;

/// A program of the job. Times are those of the hub's clock.
#[derive(Debug, Clone)]
pub struct Process {
    pub machine: String,
    incarnation: u64,
    /// Earlier incarnations.
    retired: Vec<u64>,
    /// When its last report arrived.
    pub seen: Duration,
    /// From its last report.
    pub usage: Usage,
    /// Cores used between its last two reports.
    pub processors: Option<f64>,
    /// Bytes per second that its machine received and sent between its last two reports.
    pub network: Option<(f64, f64)>,
    uptime_ms: u64,
    /// The recent share of the time at its limit; see [`Load`](crate::stages::Load).
    pub strain: Option<f64>,
    /// The counts of this incarnation, without those of `workers`.
    pub counts: Counts,
    /// From its last report.
    pub ending: Option<Ending>,
    /// Empty unless it is a classifier.
    pub workers: Vec<Worker>,
    /// It has the source, or had it in an earlier incarnation.
    is_initializer: bool,
    /// Its state at the last call of [`change`](Self::change).
    liveness_before: Liveness,
}

/// A worker thread, over all incarnations of its process.
#[derive(Debug, Clone, Default)]
pub struct Worker {
    /// The counts of earlier incarnations, if any.
    before: Option<Box<WorkerCounts>>,
    /// The last reported counts of this incarnation.
    pub now: WorkerCounts,
    /// Rows per second, for each second, the last one last; `None` where unknown.
    pub rates: VecDeque<Option<f32>>,
    /// The recent share of the time for which its model is at work.
    pub busy: Option<f64>,
    /// Time since its last batch was done.
    unfinished_ms: u64,
    /// How long the last batch took.
    step_ms: u64,
}

/// A span as a number of rates, one per second.
fn seconds(span: Duration) -> usize {
    (span.as_secs_f64().round() as usize).clamp(1, RATES)
}

impl Worker {
    /// The counts of all incarnations. Histograms are large, so they are added only if there were several.
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

    /// Rows per second, between its last two reports.
    pub fn rate(&self) -> Option<f32> {
        self.rates.back().copied().flatten()
    }

    /// Rows per second, averaged over `PACE_SPAN`, since long batches are rare.
    pub fn pace(&self) -> Option<f32> {
        self.rate()?;
        let last: Vec<_> = self.rates.iter().rev().take(PACE_SPAN).copied().collect::<Option<_>>()?;
        (last.len() == PACE_SPAN).then(|| last.iter().sum::<f32>() / PACE_SPAN as f32)
    }

    /// The counts of its model over all incarnations.
    pub fn model(&self) -> ModelCounts {
        let mut counts = self.before.as_ref().map(|before| before.model.clone()).unwrap_or_default();
        counts.add(&self.now.model);
        counts
    }

    /// Classified batches over all incarnations.
    pub fn batches(&self) -> u64 {
        self.before.as_ref().map_or(0, |before| before.batches) + self.now.batches
    }

    /// Appends a rate, or an unknown one, for each second of a span.
    fn remember(&mut self, rate: Option<f32>, span: Duration) {
        for _ in 0..seconds(span) {
            if self.rates.len() == RATES {
                self.rates.pop_front();
            }
            self.rates.push_back(rate);
        }
    }

    /// Batches at this worker.
    pub fn in_flight(&self) -> u64 {
        self.now.batches_in.saturating_sub(self.now.batches)
    }

    /// Handles the counts of a report, `span_ms` after the last one.
    fn on_report(&mut self, counts: WorkerCounts, span_ms: u64) {
        if span_ms > 0 {
            self.measure(&counts, span_ms);
            self.busy = smooth(self.busy, share(counts.busy_ms, self.now.busy_ms, span_ms));
        }
        self.now = counts;
    }

    /// A batch may take many seconds. Its rows are spread over all of them, and until the next batch is done, the rate is
    /// assumed to be unchanged.
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

/// What a report says besides counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// This is the program's first report.
    Joined,
    /// The program was restarted.
    Restarted,
    None,
}

impl Process {
    /// A program with its first report. Its rates are known after the next one.
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

    pub fn on_report(&mut self, machine: &str, incarnation: u64, report: Report, now: Duration) -> News {
        // A late report that was overtaken by a newer one.
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

    /// The counts of its workers' models.
    pub fn model(&self) -> ModelCounts {
        let mut counts = ModelCounts::default();
        self.workers.iter().for_each(|worker| counts.add(&worker.model()));
        counts
    }

    pub fn restarts(&self) -> usize {
        self.retired.len()
    }

    /// When this incarnation began.
    pub fn begun(&self) -> Duration {
        self.seen.saturating_sub(Duration::from_millis(self.uptime_ms))
    }

    /// Its state at the last call and now, if these differ.
    pub fn change(&mut self, now: Duration) -> Option<(Liveness, Liveness)> {
        let liveness = self.liveness(now);
        let before = std::mem::replace(&mut self.liveness_before, liveness);
        (before != liveness).then_some((before, liveness))
    }

    /// Why it cannot continue, if it reported that.
    pub fn failure(&self) -> Option<&str> {
        match &self.ending {
            Some(Ending::Failed(why)) => Some(why),
            _ => None,
        }
    }

    /// Whether the job can continue without it: it is a classifier, and not the initializer.
    pub fn is_dispensable(&self) -> bool {
        matches!(&self.counts, Counts::Classifier(_)) && !self.is_initializer
    }

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

/// The time for which a program has been at its limit.
fn strained_ms(counts: &Counts) -> u64 {
    match counts {
        Counts::Sender(counts) => counts.blocked_ms,
        Counts::Classifier(counts) => counts.source.as_ref().map_or(0, |source| source.full_ms),
        Counts::Receiver(counts) => counts.sync.sum().as_millis() as u64,
    }
}

fn share(now_ms: u64, then_ms: u64, span_ms: u64) -> f64 {
    (now_ms.saturating_sub(then_ms) as f64 / span_ms as f64).min(1.0)
}

/// Averages exponentially, so that texts do not change every second.
fn smooth(before: Option<f64>, now: f64) -> Option<f64> {
    Some(before.map_or(now, |before| before + (now - before) * 0.3))
}

fn take_workers(counts: &mut Counts) -> Vec<WorkerCounts> {
    match counts {
        Counts::Classifier(counts) => std::mem::take(&mut counts.workers),
        Counts::Sender(_) | Counts::Receiver(_) => Vec::new(),
    }
}
