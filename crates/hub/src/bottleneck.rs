//! Finds what limits the job's rate, and what would help.

use std::collections::BTreeMap;
use std::time::Duration;

use telemetry::view::{Bottleneck, JobState, Liveness, StageName};

use crate::stages::{Load, present};
use crate::tracker::Tracker;
use crate::words;

/// Workers that are busy for at least this share of the time are the bottleneck.
const BUSY: f64 = 0.8;
/// A program that is at its limit for at least this share of the time delays others.
const STRAINED: f64 = 0.3;
/// In a Python model's batches that take less than this, the call of pandas costs more than the rows.
const SHORT_BATCH: Duration = Duration::from_millis(100);
/// The advised batch takes about this long, and has at most this many rows.
const GOOD_BATCH: Duration = Duration::from_millis(500);
const MOST_BATCH_ROWS: f64 = 5000.0;
/// Cores that are busy for at least the first share are all in use; for at most the second one, half of them are free.
const FULL_MACHINE: f32 = 0.9;
const FREE_MACHINE: f32 = 0.5;

/// What limits the job's rate, or did if the job is done; `None` if unknown.
pub fn bottleneck(tracker: &Tracker, load: &Load, now: Duration) -> Option<Bottleneck> {
    match tracker.state() {
        JobState::Waiting | JobState::Failed => None,
        JobState::Stalled => Some(of_stalled(tracker, now)),
        JobState::Running | JobState::Draining | JobState::Done => of_moving(tracker, load, now),
    }
}

fn found(stage: StageName, words: String) -> Bottleneck {
    Bottleneck { stage, words, advice: None }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn of_stalled(tracker: &Tracker, now: Duration) -> Bottleneck {
    let silent = tracker.processes().iter().filter(|(_, process)| process.liveness(now) < Liveness::Up);
    let silent: Vec<_> =
        silent.map(|(name, process)| (name.as_str(), format!("{name} on {}", process.machine))).collect();
    let stage = match silent.first() {
        Some(("receiver", _)) => StageName::Sink,
        Some(("sender", _)) => StageName::Source,
        _ => StageName::Classify,
    };
    let silent: Vec<_> = silent.into_iter().map(|(_, words)| words).collect();
    let words = match silent[..] {
        [] => "nothing was written for a while, although all programs report".to_owned(),
        _ => format!("no report from {}", silent.join(", ")),
    };
    found(stage, words)
}

fn of_moving(tracker: &Tracker, load: &Load, now: Duration) -> Option<Bottleneck> {
    let is_over = tracker.state().is_over();
    let (is, are, wait, arrive) =
        if is_over { ("was", "were", "waited", "arrived") } else { ("is", "are", "wait", "arrive") };
    let is_strained = |share: Option<f64>| share.is_some_and(|share| share >= STRAINED);
    let busy = load.workers_busy?;
    let all_sent = tracker.sender().is_some_and(|(_, sender)| sender.all_sent);
    let some = |stage, words: String| Some(found(stage, words));
    if busy >= BUSY {
        let count = match is_over {
            true => tracker.processes().values().map(|process| process.workers.len()).sum(),
            false => present(tracker, now).count(),
        };
        let workers =
            if count == 1 { format!("the worker {is}") } else { format!("all {count} workers {are}") };
        let words = format!("{workers} busy {} of the time", percent(busy));
        Some(Bottleneck { advice: Some(advice(tracker)), ..found(StageName::Classify, words) })
    } else if is_strained(load.window_full) && is_strained(load.disk_busy) {
        let share = percent(load.disk_busy?);
        some(
            StageName::Sink,
            format!("results {wait} for the receiver's disk, which {is} busy {share} of the time"),
        )
    } else if is_strained(load.window_full) {
        let share = percent(busy);
        some(
            StageName::Classify,
            format!("batches {wait} for the workers, which {are} busy {share} of the time"),
        )
    } else if !is_strained(load.sender_blocked) && (is_over || !all_sent) {
        let share = percent(1.0 - busy);
        some(
            StageName::Source,
            format!("rows {arrive} no faster; the workers {are} idle {share} of the time"),
        )
    } else {
        None
    }
}

/// What would relieve busy workers.
fn advice(tracker: &Tracker) -> String {
    many_threads(tracker)
        .or_else(|| small_batches(tracker))
        .or_else(|| free_processors(tracker))
        .unwrap_or_else(|| "more machines or a quicker model would help".to_owned())
}

/// The threads of the models' libraries share too few processors.
fn many_threads(tracker: &Tracker) -> Option<String> {
    let threads = tracker.description()?.threads_per_worker.filter(|threads| *threads > 1)?;
    machines(tracker).into_values().find_map(|Machine { cores, busy, workers }| {
        let is_full = workers * threads > cores && busy >= FULL_MACHINE;
        is_full.then(|| {
            format!(
                "{workers} workers with {threads} threads each share {cores} cores: fewer threads (--threads-per-worker) \
                 may be quicker"
            )
        })
    })
}

/// Batches are so small that calling the model costs more than its rows.
fn small_batches(tracker: &Tracker) -> Option<String> {
    let description = tracker.description()?;
    let model = description.model.as_deref()?;
    if model == "native" || model.starts_with("sleep:") {
        return None;
    }
    let rows = f64::from(description.batch_rows?);
    let mean = Duration::from_secs_f64(tracker.batch_seconds());
    let good = (rows * GOOD_BATCH.as_secs_f64() / mean.as_secs_f64().max(1e-6)).min(MOST_BATCH_ROWS);
    // Rounded down to one digit.
    let power = 10f64.powf(good.log10().floor());
    let good = (good / power).floor() * power;
    (!mean.is_zero() && mean < SHORT_BATCH && good >= 2.0 * rows).then(|| {
        format!(
            "a batch of {rows:.0} rows takes only {}: larger ones may be quicker (--chunk-size {good:.0})",
            words::duration(mean)
        )
    })
}

/// Machines have unused cores.
fn free_processors(tracker: &Tracker) -> Option<String> {
    let machines = machines(tracker);
    let cores: u32 = machines.values().map(|machine| machine.cores).sum();
    let used: f32 = machines.values().map(|machine| machine.busy * machine.cores as f32).sum();
    let is_free = cores > 0 && used <= FREE_MACHINE * cores as f32;
    is_free.then(|| {
        let are = if tracker.state().is_over() { "were" } else { "are" };
        format!("only {used:.1} of {cores} cores {are} in use: more workers (--workers) or a quicker model would help")
    })
}

/// A machine with workers.
#[derive(Debug, Default)]
struct Machine {
    cores: u32,
    /// How busy all cores are, recently, or over the whole of a finished job.
    busy: f32,
    workers: u32,
}

fn machines(tracker: &Tracker) -> BTreeMap<&str, Machine> {
    let span = tracker.working_time().filter(|_| tracker.state().is_over());
    let mut machines: BTreeMap<&str, Machine> = BTreeMap::new();
    for process in tracker.processes().values().filter(|process| !process.workers.is_empty()) {
        let usage = &process.usage;
        let machine = machines.entry(process.machine.as_str()).or_default();
        machine.cores = usage.cores;
        machine.workers += process.workers.len() as u32;
        machine.busy = match span {
            Some(span) => {
                let available_ms = 1000.0 * span.as_secs_f32() * usage.cores as f32;
                (machine.busy + usage.cpu_ms as f32 / available_ms).min(1.0)
            }
            None => machine.busy.max(usage.machine_busy),
        };
    }
    machines
}
