//! Whether the job will make it, when, and what holds it back.

use std::time::Duration;

use serde::Serialize;

use crate::history::{History, Point};
use crate::process::{Liveness, Process, Worker};
use crate::tracker::{Rows, State, Tracker};

/// From so much of the job on there is an estimate: after so many seconds with output, and this share of the rows.
const ESTIMATE_SECONDS: f64 = 5.0;
const ESTIMATE_SHARE: f64 = 0.005;
/// The rates of how many of the last seconds an estimate is made of, and of how many seconds each is.
const ESTIMATE_SPAN: usize = 60;
const ESTIMATE_STEP: usize = 5;
/// Workers that are busy for this share of their time are what the job waits for.
const BUSY: f64 = 0.8;
/// Something that is at its limit for this share of the time.
const STRAINED: f64 = 0.3;

/// When the job will be done, in seconds from now.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// If it goes on as it did when it went well.
    pub low_seconds: f64,
    /// If it goes on as it did when it did not.
    pub high_seconds: f64,
}

/// An estimate, if it can mean something.
pub fn estimate(rows: &Rows, history: &History, state: State) -> Option<Estimate> {
    let total = rows.total.or(rows.total_about)?;
    if !matches!(state, State::Running | State::Draining) || total < rows.written {
        return None;
    }
    let points: Vec<_> = history.recent().rev().take(ESTIMATE_SPAN).filter(|p| p.rows_out > 0).collect();
    let (last, first) = (points.first()?, points.last()?);
    if last.seconds - first.seconds < ESTIMATE_SECONDS
        || (rows.written as f64) < ESTIMATE_SHARE * total as f64
    {
        return None;
    }
    let rate = |later: &Point, earlier: &Point| {
        (later.rows_out.saturating_sub(earlier.rows_out)) as f64 / (later.seconds - earlier.seconds).max(0.1)
    };
    let steps: Vec<_> = points.iter().step_by(ESTIMATE_STEP).collect();
    let mut rates: Vec<_> = steps.windows(2).map(|two| rate(two[0], two[1])).collect();
    rates.push(rate(last, first));
    rates.sort_by(f64::total_cmp);
    let at = |share: f64| rates[((rates.len() - 1) as f64 * share).round() as usize];
    let (quick, slow) = (at(0.8), at(0.2));
    let left = (total - rows.written) as f64;
    (slow > 0.0).then(|| Estimate { low_seconds: left / quick, high_seconds: left / slow })
}

/// A stage of the dataflow, in its order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// What has come in.
    #[serde(rename = "in")]
    pub came: u64,
    /// What has gone out.
    #[serde(rename = "out")]
    pub gone: u64,
    /// What is between, and what may be.
    pub in_flight: u64,
    /// What may be between, where there is a limit.
    pub limit: Option<u64>,
    /// Bytes of what is between, where that is known.
    pub bytes: Option<u64>,
    /// How many these may be, where there is a limit.
    pub limit_bytes: Option<u64>,
    /// Shares of the time, lately.
    pub busy: Option<f64>,
    /// With nothing to do.
    pub idle: Option<f64>,
    /// Waiting for the next stage.
    pub back_pressured: Option<f64>,
}

/// The stages, as the programs tell them.
pub fn stages(tracker: &Tracker, now: Duration) -> Vec<Stage> {
    let (sender, blocked) = counted(tracker.sender(), now);
    let (source, full) = counted(tracker.source(), now);
    let (receiver, syncing) = counted(tracker.receiver(), now);
    let busy = busy(tracker, now);
    let workers = || tracker.processes().values().flat_map(|process| &process.workers);
    let rest = |share: Option<f64>| share.map(|share| 1.0 - share);
    let (classified, at_workers): (u64, u64) =
        (workers().map(Worker::batches).sum(), workers().map(Worker::in_flight).sum());
    let sent = sender.rows.max(source.rows_in);
    let stage = |name, unit, came, gone| Stage {
        name,
        unit,
        came,
        gone,
        in_flight: u64::saturating_sub(came, gone),
        limit: None,
        bytes: None,
        limit_bytes: None,
        busy: None,
        idle: None,
        back_pressured: None,
    };
    vec![
        Stage {
            // One that has sent everything has nothing to do.
            busy: rest(blocked).filter(|_| !sender.all_sent),
            back_pressured: blocked,
            ..stage("source", "rows", sent, source.rows_in)
        },
        Stage {
            limit: Some(source.limit_batches).filter(|limit| *limit > 0),
            bytes: Some(source.window_bytes),
            limit_bytes: Some(source.limit_bytes).filter(|limit| *limit > 0),
            idle: rest(full),
            back_pressured: full,
            ..stage("batcher", "batches", source.batches, source.durable_batches)
        },
        Stage {
            busy,
            idle: rest(busy),
            // What was lost with an earlier life is made once more.
            ..stage("classify", "batches", classified + at_workers, classified)
        },
        Stage {
            // Results that wait for an earlier batch.
            bytes: Some(receiver.held_bytes),
            busy: syncing,
            idle: rest(syncing),
            ..stage("sink", "rows", receiver.rows_written, receiver.rows)
        },
    ]
}

/// What a program counts, and for which share of the time it is at its limit, if that is known now.
fn counted<T: Clone + Default>(program: Option<(&Process, &T)>, now: Duration) -> (T, Option<f64>) {
    program.map_or_else(Default::default, |(process, counts)| {
        (counts.clone(), process.strain.filter(|_| process.liveness(now) == Liveness::Up))
    })
}

/// The workers that are there.
fn present(tracker: &Tracker, now: Duration) -> impl Iterator<Item = &Worker> {
    let up = tracker.processes().values().filter(move |process| process.liveness(now) == Liveness::Up);
    up.flat_map(|process| &process.workers)
}

/// For which share of their time the workers are busy, on average.
fn busy(tracker: &Tracker, now: Duration) -> Option<f64> {
    let known: Vec<_> = present(tracker, now).filter_map(|worker| worker.busy).collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

/// The stage that holds the job back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bottleneck {
    /// Its name.
    pub stage: &'static str,
    /// What it is about, in words.
    pub words: String,
}

/// What holds the job back, if that can be said.
pub fn bottleneck(tracker: &Tracker, now: Duration) -> Option<Bottleneck> {
    let found = |stage, words: String| Some(Bottleneck { stage, words });
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    match tracker.state() {
        State::Waiting | State::Done | State::Failed => return None,
        State::Stalled => {
            let gone: Vec<_> = (tracker.processes().iter())
                .filter(|(_, process)| process.liveness(now) < Liveness::Up)
                .map(|(name, _)| name.as_str())
                .collect();
            let words = match gone[..] {
                [] => "nothing was written for a while, although all programs are there".to_owned(),
                _ => format!("nothing is heard of {}", gone.join(", ")),
            };
            let stage = match gone.first() {
                Some(&"receiver") => "sink",
                Some(&"sender") => "source",
                _ => "classify",
            };
            return found(stage, words);
        }
        State::Running | State::Draining => {}
    }
    let (sender, blocked) = counted(tracker.sender(), now);
    let (_, full) = counted(tracker.source(), now);
    let (_, syncing) = counted(tracker.receiver(), now);
    let busy = busy(tracker, now)?;
    let count = present(tracker, now).count();
    let is_strained = |share: Option<f64>| share.is_some_and(|share| share >= STRAINED);
    if busy >= BUSY {
        let who = if count == 1 { "the worker is".to_owned() } else { format!("all {count} workers are") };
        let words = "of the time; more workers or a quicker box would help";
        found("classify", format!("{who} busy {} {words}", percent(busy)))
    } else if is_strained(full) && is_strained(syncing) {
        let words =
            format!("results wait for the receiver's disk, which is busy {} of the time", percent(syncing?));
        found("sink", words)
    } else if is_strained(full) {
        let words = format!("batches wait for the workers, which are busy {} of the time", percent(busy));
        found("classify", words)
    } else if !sender.all_sent && !is_strained(blocked) {
        let words =
            format!("rows come in no faster; the workers are idle {} of the time", percent(1.0 - busy));
        found("source", words)
    } else {
        None
    }
}
