//! What the interfaces show: the same figures for the page, the JSON and the report.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::rejects::Reasons;
use protocol::results::Summary;
use serde::Serialize;
use telemetry::durations::Durations;
use telemetry::report::{JobOutcome, WorkerCounts};

use crate::process::{Liveness, Process, Worker};
use crate::stragglers::{self, Pace};
use crate::tracker::{Rows, State, Tracker};
use crate::verdict::{self, Bottleneck, Estimate, Stage};

/// The rate that is shown is that of the last seconds.
const RATE_SPAN: Duration = Duration::from_secs(5);

/// The job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobView {
    /// How it is.
    pub state: State,
    /// Seconds since it began, up to its end.
    pub elapsed_seconds: f64,
    /// Workers that report, of those that there should be.
    pub workers_up: u64,
    /// How many there should be; 0 while that is not known.
    pub workers_expected: u64,
    /// How often programs were started again.
    pub restarts: u64,
    /// Its rows.
    pub rows: Rows,
    /// Bytes of durable results.
    pub bytes: u64,
    /// Rows that come in a second.
    pub rate_in: Option<f64>,
    /// Rows that are written a second.
    pub rate_out: Option<f64>,
    /// When it will be done.
    pub estimate: Option<Estimate>,
    /// The stages of the dataflow.
    pub stages: Vec<Stage>,
    /// What holds it back.
    pub bottleneck: Option<Bottleneck>,
    /// Why it has failed.
    pub failure: Option<String>,
    /// Why rows were rejected, by kinds of reasons, in the order in which they came first.
    pub reject_reasons: Reasons,
    /// What it has brought.
    pub summary: Option<Summary>,
}

/// Looks at the job.
pub fn job(tracker: &Tracker, now: Duration) -> JobView {
    let now = tracker.as_of(now);
    let rows = tracker.rows();
    let receiver = tracker.receiver().map(|(_, receiver)| receiver);
    let summary = receiver.and_then(|receiver| match &receiver.outcome {
        Some(JobOutcome::Done(summary)) => Some(summary.clone()),
        _ => None,
    });
    let seconds = tracker.seconds(now);
    let (rate_in, rate_out) = match &summary {
        // Of the whole job, when it is over.
        Some(summary) => {
            let rate = Some(summary.rows as f64 / summary.seconds.max(1e-3));
            (rate, rate)
        }
        None => tracker.history().rates(RATE_SPAN).unzip(),
    };
    let up = tracker.processes().values().filter(|process| process.liveness(now) == Liveness::Up);
    JobView {
        state: tracker.state(),
        elapsed_seconds: seconds,
        workers_up: up.map(|process| process.workers.len() as u64).sum(),
        workers_expected: u64::from(tracker.workers()),
        restarts: tracker.processes().values().map(|process| process.restarts() as u64).sum(),
        rows,
        bytes: receiver.map_or(0, |receiver| receiver.bytes),
        rate_in,
        rate_out,
        estimate: verdict::estimate(&rows, tracker.history(), tracker.state()),
        stages: verdict::stages(tracker, now),
        bottleneck: verdict::bottleneck(tracker, now),
        failure: tracker.failure().map(str::to_owned),
        reject_reasons: receiver.map(|receiver| receiver.reject_reasons.clone()).unwrap_or_default(),
        summary,
    }
}

/// A worker thread.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerView {
    /// Its name: its process's, a dot, and its number there.
    pub name: String,
    /// Its process.
    pub process: String,
    /// Its machine.
    pub machine: String,
    /// How its process is.
    pub state: Liveness,
    /// Rows a second; unknown while nothing is heard of it.
    pub rate: Option<f32>,
    /// The same for the last minute, a second each.
    pub rates: Vec<Option<u32>>,
    /// Batches that it has classified, in all its lives.
    pub batches: u64,
    /// Rows in these.
    pub rows: u64,
    /// Of these, rejects.
    pub rejects: u64,
    /// How long its box takes for a batch, in milliseconds.
    pub p50_ms: f64,
    /// The 95th percentile.
    pub p95_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// Batches that are with it.
    pub in_flight: u64,
    /// For how long the oldest of them has been.
    pub oldest_seconds: Option<f64>,
    /// Which share of the time its box is at work.
    pub busy: Option<f64>,
    /// How much of a processor its process uses, with all its workers.
    pub processors: Option<f64>,
    /// Memory of its process.
    pub resident_bytes: u64,
    /// How often its process was started again.
    pub restarts: usize,
    /// For how long nothing has been heard of it.
    pub last_seen_seconds: f64,
    /// Why it is thought to hold the others back.
    pub straggler: Option<String>,
}

/// All workers, problems first.
pub fn workers(tracker: &Tracker, now: Duration) -> Vec<WorkerView> {
    let now = tracker.as_of(now);
    let mut views = Vec::new();
    let (mut paces, mut stage) = (Vec::new(), Durations::default());
    for (name, process) in tracker.processes() {
        for (place, worker) in process.workers.iter().enumerate() {
            let totals = worker.totals();
            let view = worker_view(name, place, process, worker, &totals, now);
            if view.state == Liveness::Up {
                let oldest = Duration::from_secs_f64(view.oldest_seconds.unwrap_or_default());
                // Who has nothing to do is not slow.
                let rate = worker.pace().filter(|_| view.in_flight > 0);
                paces.push(Pace { rate, p99: totals.classify.quantile(0.99), oldest });
                stage.add(&totals.classify);
                stage.add(&totals.queue);
            }
            views.push(view);
        }
    }
    let mut reasons = Vec::new();
    if !tracker.state().is_over() {
        reasons = stragglers::find(&paces, stage.quantile(0.99));
    }
    let mut reasons = reasons.into_iter();
    for view in &mut views {
        if view.state == Liveness::Up {
            view.straggler = reasons.next().flatten();
        }
    }
    views.sort_by(|a, b| {
        let troubled = |view: &WorkerView| (view.state.min(Liveness::Up), view.straggler.is_none());
        troubled(a).cmp(&troubled(b)).then_with(|| natural(&a.name).cmp(&natural(&b.name)))
    });
    views
}

/// `worker10` comes after `worker9`.
pub fn natural(name: &str) -> Vec<(u64, &str)> {
    let number = |part: &str| part.parse().unwrap_or_default();
    name.split_inclusive(|c: char| !c.is_ascii_digit())
        .map(|part| (number(part.trim_end_matches(|c: char| !c.is_ascii_digit())), part))
        .collect()
}

fn worker_view(
    name: &str,
    place: usize,
    process: &Process,
    worker: &Worker,
    totals: &WorkerCounts,
    now: Duration,
) -> WorkerView {
    let state = process.liveness(now);
    let known = state == Liveness::Up;
    WorkerView {
        name: format!("{name}.{place}"),
        process: name.to_owned(),
        machine: process.machine.clone(),
        state,
        rate: worker.rate().filter(|_| known),
        rates: worker.rates.iter().map(|rate| rate.map(|rate| rate as u32)).collect(),
        batches: totals.batches,
        rows: totals.rows,
        rejects: totals.rejects,
        p50_ms: ms(totals.classify.quantile(0.5)),
        p95_ms: ms(totals.classify.quantile(0.95)),
        p99_ms: ms(totals.classify.quantile(0.99)),
        in_flight: worker.in_flight(),
        oldest_seconds: worker.now.oldest_ms.map(|ms| ms as f64 / 1000.0),
        busy: worker.busy.filter(|_| known),
        processors: process.processors.filter(|_| known),
        resident_bytes: process.usage.resident_bytes,
        restarts: process.restarts(),
        last_seen_seconds: now.saturating_sub(process.seen).as_secs_f64(),
        straggler: None,
    }
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// How long something takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComputationView {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// How often it was measured.
    pub count: u64,
    /// Percentiles, and the longest, in milliseconds.
    pub p50_ms: f64,
    /// The 95th percentile.
    pub p95_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The 99.9th percentile.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// How many took no longer than so many milliseconds, and longer than those before.
    pub bars: Vec<(f64, u64)>,
}

/// The computations of the job, in the order in which a batch meets them.
pub fn computations(tracker: &Tracker) -> Vec<ComputationView> {
    durations(tracker)
        .into_iter()
        .map(|(name, what, durations)| computation(name, what, &durations))
        .collect()
}

/// The same of one worker.
pub fn computations_of(worker: &Worker) -> Vec<ComputationView> {
    let totals = worker.totals();
    vec![computation("queue", QUEUE, &totals.queue), computation("classify", CLASSIFY, &totals.classify)]
}

const QUEUE: &str = "how long batches wait at a worker for its box";
const CLASSIFY: &str = "how long the box takes for a batch";

/// The durations of each computation.
pub fn durations(tracker: &Tracker) -> Vec<(&'static str, &'static str, Durations)> {
    let (mut queue, mut classify) = (Durations::default(), Durations::default());
    for worker in tracker.processes().values().flat_map(|process| &process.workers) {
        let totals = worker.totals();
        queue.add(&totals.queue);
        classify.add(&totals.classify);
    }
    let transit = tracker.source().map(|(_, source)| source.transit.clone()).unwrap_or_default();
    let sync = tracker.receiver().map(|(_, receiver)| receiver.sync.clone()).unwrap_or_default();
    vec![
        ("queue", QUEUE, queue),
        ("classify", CLASSIFY, classify),
        (
            "transit",
            "how long it takes from a batch's being issued to the receiver's having its results",
            transit,
        ),
        ("sync", "how long the receiver takes to make results durable", sync),
    ]
}

fn computation(name: &'static str, what: &'static str, durations: &Durations) -> ComputationView {
    let mut bars = Vec::new();
    let mut before = 0;
    for (bound, count) in durations.counts_up_to(bounds()) {
        // Without empty bars at both ends.
        if count > 0 && before < durations.count() {
            bars.push((ms(bound), count - before));
        }
        before = count;
    }
    if before < durations.count() {
        bars.push((ms(durations.max()), durations.count() - before));
    }
    ComputationView {
        name,
        what,
        count: durations.count(),
        p50_ms: ms(durations.quantile(0.5)),
        p95_ms: ms(durations.quantile(0.95)),
        p99_ms: ms(durations.quantile(0.99)),
        p999_ms: ms(durations.quantile(0.999)),
        max_ms: ms(durations.max()),
        bars,
    }
}

/// 1, 2 and 5 of each power of ten, from a microsecond to a thousand seconds.
pub fn bounds() -> impl Iterator<Item = Duration> {
    (0..9).flat_map(|power| [1, 2, 5].map(|first| Duration::from_micros(first * 10u64.pow(power))))
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MachineView {
    /// Its name.
    pub name: String,
    /// Programs of the job that run there.
    pub programs: Vec<String>,
    /// How the program is that was heard of last.
    pub state: Liveness,
    /// Its processors.
    pub cores: u32,
    /// How busy they are, from 0 to 1; unknown while nothing is heard of it, as all of the following.
    pub busy: Option<f32>,
    /// Memory that is used.
    pub used_bytes: Option<u64>,
    /// Memory that it has.
    pub total_bytes: u64,
    /// Bytes that come in a second.
    pub received_per_second: Option<f64>,
    /// Bytes that go out a second.
    pub sent_per_second: Option<f64>,
    /// For how long nothing has been heard of it.
    pub last_seen_seconds: f64,
}

/// The machines, as the last report of any program there tells.
pub fn machines(tracker: &Tracker, now: Duration) -> Vec<MachineView> {
    let now = tracker.as_of(now);
    let mut machines: BTreeMap<&str, (Vec<String>, &Process)> = BTreeMap::new();
    for (name, process) in tracker.processes() {
        let (programs, last) = machines.entry(&process.machine).or_insert_with(|| (Vec::new(), process));
        programs.push(name.clone());
        if process.seen > last.seen {
            *last = process;
        }
    }
    machines
        .into_iter()
        .map(|(name, (programs, process))| {
            let state = process.liveness(now);
            let known = !matches!(state, Liveness::Stale | Liveness::Lost);
            let network = process.network.filter(|_| known);
            MachineView {
                name: name.to_owned(),
                programs,
                state,
                cores: process.usage.cores,
                busy: known.then_some(process.usage.machine_busy),
                used_bytes: known.then_some(process.usage.machine_used_bytes),
                total_bytes: process.usage.machine_bytes,
                received_per_second: network.map(|(received, _)| received),
                sent_per_second: network.map(|(_, sent)| sent),
                last_seen_seconds: now.saturating_sub(process.seen).as_secs_f64(),
            }
        })
        .collect()
}
