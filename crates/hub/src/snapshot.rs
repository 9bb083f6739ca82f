//! Computes from the [`Tracker`] the figures that all interfaces show: the page, the JSON, the metrics and the report.

use std::collections::BTreeMap;
use std::time::Duration;

use telemetry::durations::Durations;
use telemetry::report::{JobOutcome, ModelCounts, WorkerCounts};
use telemetry::view::{
    Cell, Computation, Job, Live, Liveness, Machine, Process as ProcessView, Report, Worker as WorkerView,
    WorkerDetail,
};

use crate::bottleneck::bottleneck;
use crate::estimate::estimate;
use crate::histogram::histogram;
use crate::history::RATE_SECONDS;
use crate::process::{Process, Worker};
use crate::stages::{Load, stages};
use crate::stragglers::{self, Pace};
use crate::tracker::Tracker;

/// The number of workers in each message to a page, those with problems first.
pub const SHOWN: usize = 10;
/// Up to this many workers, a message has all of them.
const FEW: usize = 16;
/// The number of last events in each message to a page.
const LAST_EVENTS: usize = 8;

pub fn job(tracker: &Tracker, now: Duration) -> Job {
    let now = tracker.as_of(now);
    let rows = tracker.rows();
    let receiver = tracker.receiver().map(|(_, receiver)| receiver);
    let summary = receiver.and_then(|receiver| match &receiver.outcome {
        Some(JobOutcome::Done(summary)) => Some(summary.clone()),
        _ => None,
    });
    let seconds = tracker.seconds(now);
    let (rate_in, rate_out) = match &summary {
        // The mean rate of a finished job.
        Some(summary) => {
            let rate = Some(summary.rows as f64 / summary.seconds.max(1e-3));
            (rate, rate)
        }
        None => tracker.history().rates(tracker.batch_seconds()).unzip(),
    };
    let processes = || tracker.processes().values();
    let up = processes().filter(|process| process.liveness(now) == Liveness::Up);
    let pace = tracker.history().pace(tracker.batch_seconds());
    let load = Load::of(tracker, now);
    let mut model = ModelCounts::default();
    processes().for_each(|process| model.add(&process.model()));
    Job {
        state: tracker.state(),
        description: tracker.description().cloned(),
        started_at: tracker.started_at().map(|started| started.as_secs_f64()),
        elapsed_seconds: seconds,
        workers_up: up.map(|process| process.workers.len() as u64).sum(),
        workers_expected: u64::from(tracker.workers()),
        restarts: processes().map(|process| process.restarts() as u64).sum(),
        rows,
        bytes: receiver.map_or(0, |receiver| receiver.bytes),
        rate_in,
        rate_out,
        rate_seconds: pace.as_ref().map_or(RATE_SECONDS, |pace| pace.span),
        estimate: pace.and_then(|pace| estimate(&rows, &pace, tracker.state(), seconds)),
        stalled_seconds: tracker.stalled_for(now).map(|stalled| stalled.as_secs_f64()),
        stages: stages(tracker, &load),
        bottleneck: bottleneck(tracker, &load, now),
        failure: tracker.failure().map(str::to_owned),
        reject_reasons: receiver.map(|receiver| receiver.reject_reasons.clone()).unwrap_or_default(),
        model,
        summary,
    }
}

/// All workers, those with problems first.
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
                // A worker without work is not slow.
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
    views.sort_by_cached_key(|view| natural(&view.name));
    (1..).zip(&mut views).for_each(|(number, view)| view.number = number);
    let is_well = |view: &WorkerView| (view.state.min(Liveness::Up), view.straggler.is_none());
    views.sort_by_key(is_well);
    views
}

/// A sort key that puts `worker10` after `worker9`.
pub fn natural(name: &str) -> Vec<(u64, String)> {
    let number = |part: &str| part.parse().unwrap_or_default();
    name.split_inclusive(|c: char| !c.is_ascii_digit())
        .map(|part| (number(part.trim_end_matches(|c: char| !c.is_ascii_digit())), part.to_owned()))
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
        number: 0,
        process: name.to_owned(),
        machine: process.machine.clone(),
        state,
        rate: worker.rate().filter(|_| known),
        rates: worker.rates.iter().map(|rate| rate.map(|rate| rate.round() as u32)).collect(),
        batches: totals.batches,
        rows: totals.rows,
        rejects: totals.rejects,
        ms_per_row: (totals.rows > 0).then(|| 1e3 * totals.classify.sum().as_secs_f64() / totals.rows as f64),
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
        model: totals.model.clone(),
    }
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The computations of the job, in the order of the dataflow.
pub fn computations(tracker: &Tracker) -> Vec<Computation> {
    durations(tracker).iter().map(|(name, what, durations)| computation(name, what, durations)).collect()
}

/// A worker and its computations; `None` if there is no such worker.
pub fn worker_detail(tracker: &Tracker, name: &str, now: Duration) -> Option<WorkerDetail> {
    let worker = workers(tracker, now).into_iter().find(|worker| worker.name == name)?;
    let place: usize = name.rsplit_once('.')?.1.parse().ok()?;
    let totals = tracker.processes().get(&worker.process)?.workers.get(place)?.totals();
    let computations =
        vec![computation("queue", QUEUE, &totals.queue), computation("classify", CLASSIFY, &totals.classify)];
    Some(WorkerDetail { worker, computations })
}

const QUEUE: &str = "how long a batch waits at a worker for its model";
const CLASSIFY: &str = "how long the model takes for a batch";
const TRANSIT: &str = "how long it takes from the issue of a batch until the receiver has its results";
const SYNC: &str = "how long the receiver takes to sync results";

/// The durations of each computation, with its name and what it measures.
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
        ("transit", TRANSIT, transit),
        ("sync", SYNC, sync),
    ]
}

fn computation(name: &str, what: &str, durations: &Durations) -> Computation {
    Computation {
        name: name.to_owned(),
        what: what.to_owned(),
        count: durations.count(),
        p50_ms: ms(durations.quantile(0.5)),
        p95_ms: ms(durations.quantile(0.95)),
        p99_ms: ms(durations.quantile(0.99)),
        p999_ms: ms(durations.quantile(0.999)),
        max_ms: ms(durations.max()),
        histogram: histogram(durations),
    }
}

pub fn machines(tracker: &Tracker, now: Duration) -> Vec<Machine> {
    let now = tracker.as_of(now);
    let mut machines: BTreeMap<&str, (Vec<String>, &Process)> = BTreeMap::new();
    for (name, process) in tracker.processes() {
        let (programs, last) = machines.entry(&process.machine).or_insert_with(|| (Vec::new(), process));
        programs.push(name.clone());
        if process.seen > last.seen {
            *last = process;
        }
    }
    let machine = |(name, (programs, process)): (&str, (Vec<String>, &Process))| {
        let state = process.liveness(now);
        let known = !matches!(state, Liveness::Stale | Liveness::Lost);
        let network = process.network.filter(|_| known);
        Machine {
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
    };
    let mut views: Vec<_> = machines.into_iter().map(machine).collect();
    views.sort_by_cached_key(|view| natural(&view.name));
    views
}

pub fn processes(tracker: &Tracker, now: Duration) -> Vec<ProcessView> {
    let now = tracker.as_of(now);
    let view = |(name, process): (&String, &Process)| {
        let state = process.liveness(now);
        ProcessView {
            name: name.clone(),
            machine: process.machine.clone(),
            state,
            workers: process.workers.len() as u32,
            processors: process.processors.filter(|_| state == Liveness::Up),
            resident_bytes: process.usage.resident_bytes,
            restarts: process.restarts(),
            last_seen_seconds: now.saturating_sub(process.seen).as_secs_f64(),
        }
    };
    let mut views: Vec<_> = tracker.processes().iter().map(view).collect();
    views.sort_by_cached_key(|view| natural(&view.name));
    views
}

/// All figures.
pub fn report(tracker: &Tracker, now: Duration) -> Report {
    Report {
        job: job(tracker, now),
        workers: workers(tracker, now),
        computations: computations(tracker),
        machines: machines(tracker, now),
        processes: processes(tracker, now),
        events: tracker.events().iter().cloned().collect(),
        history: tracker.history().whole(),
    }
}

/// The figures that a page gets each second. Kept small, since a job may have a thousand workers.
pub fn live(tracker: &Tracker, now: Duration) -> Live {
    let Report { job, mut workers, computations, machines, mut events, history, .. } = report(tracker, now);
    let mut in_order: Vec<_> = workers.iter().collect();
    in_order.sort_by_key(|worker| worker.number);
    let cell = |worker: &WorkerView| {
        Cell(worker.name.clone(), worker.state, worker.straggler.is_some(), worker.rate.map(f32::round))
    };
    let cells = in_order.into_iter().map(cell).collect();
    if workers.len() > FEW {
        workers.truncate(SHOWN);
    }
    let events = events.split_off(events.len().saturating_sub(LAST_EVENTS));
    Live { job, workers, cells, computations, machines, events, point: history.last().copied() }
}
