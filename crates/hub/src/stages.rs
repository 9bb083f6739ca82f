//! The stages of the dataflow, and how busy they are.

use std::time::Duration;

use telemetry::view::{Liveness, Stage, StageName};

use crate::process::{Process, Worker};
use crate::tracker::Tracker;

/// The share of the time for which each stage is at its limit: of the last seconds, or of the whole of a finished job.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// The sender waits for the source to accept rows.
    pub sender_blocked: Option<f64>,
    /// Rows wait for room in the window.
    pub window_full: Option<f64>,
    /// Models are at work, averaged over the workers.
    pub workers_busy: Option<f64>,
    /// The receiver waits for its disk.
    pub disk_busy: Option<f64>,
}

impl Load {
    pub fn of(tracker: &Tracker, now: Duration) -> Self {
        match tracker.working_time() {
            Some(span) if tracker.state().is_over() => Self::whole(tracker, span),
            _ => Self::recent(tracker, now),
        }
    }

    fn recent(tracker: &Tracker, now: Duration) -> Self {
        let is_up = |process: &&Process| process.liveness(now) == Liveness::Up;
        let strain = |process: Option<&Process>| process.filter(is_up).and_then(|process| process.strain);
        let busy: Vec<_> = present(tracker, now).filter_map(|worker| worker.busy).collect();
        Self {
            sender_blocked: strain(tracker.sender().map(|(process, _)| process)),
            window_full: strain(tracker.source().map(|(process, _)| process)),
            workers_busy: (!busy.is_empty()).then(|| busy.iter().sum::<f64>() / busy.len() as f64),
            disk_busy: strain(tracker.receiver().map(|(process, _)| process)),
        }
    }

    fn whole(tracker: &Tracker, span: Duration) -> Self {
        let share = |ms: u64| (ms as f64 / (1000.0 * span.as_secs_f64())).min(1.0);
        let workers = || tracker.processes().values().flat_map(|process| &process.workers);
        let busy_ms: u64 = workers().map(|worker| worker.totals().busy_ms).sum();
        Self {
            sender_blocked: tracker.sender().map(|(_, sender)| share(sender.blocked_ms)),
            window_full: tracker.source().map(|(_, source)| share(source.full_ms)),
            workers_busy: Some(workers().count() as u64)
                .filter(|count| *count > 0)
                .map(|count| share(busy_ms / count)),
            disk_busy: tracker.receiver().map(|(_, receiver)| share(receiver.sync.sum().as_millis() as u64)),
        }
    }
}

/// The workers of processes that report.
pub fn present(tracker: &Tracker, now: Duration) -> impl Iterator<Item = &Worker> {
    let up = tracker.processes().values().filter(move |process| process.liveness(now) == Liveness::Up);
    up.flat_map(|process| &process.workers)
}

/// The stages, in the order of the dataflow.
pub fn stages(tracker: &Tracker, load: &Load) -> Vec<Stage> {
    let sender = tracker.sender().map(|(_, counts)| counts.clone()).unwrap_or_default();
    let source = tracker.source().map(|(_, counts)| counts.clone()).unwrap_or_default();
    let receiver = tracker.receiver().map(|(_, counts)| counts.clone()).unwrap_or_default();
    let workers = || tracker.processes().values().flat_map(|process| &process.workers);
    let rest = |share: Option<f64>| share.map(|share| 1.0 - share);
    let (classified, at_workers): (u64, u64) =
        (workers().map(Worker::batches).sum(), workers().map(Worker::in_flight).sum());
    let stage = |name, unit: &str, received: u64, sent: u64| Stage {
        name,
        unit: unit.to_owned(),
        received,
        sent,
        in_flight: received.saturating_sub(sent),
        limit: None,
        bytes: None,
        limit_bytes: None,
        busy: None,
        idle: None,
        back_pressured: None,
    };
    vec![
        Stage {
            // A sender that has sent all rows is not busy.
            busy: rest(load.sender_blocked).filter(|_| !sender.all_sent),
            back_pressured: load.sender_blocked,
            ..stage(StageName::Source, "rows", sender.rows.max(source.rows_in), source.rows_in)
        },
        Stage {
            limit: Some(source.limit_batches).filter(|limit| *limit > 0),
            bytes: Some(source.window_bytes),
            limit_bytes: Some(source.limit_bytes).filter(|limit| *limit > 0),
            idle: rest(load.window_full),
            back_pressured: load.window_full,
            ..stage(StageName::Batcher, "batches", source.batches, source.durable_batches)
        },
        Stage {
            busy: load.workers_busy,
            idle: rest(load.workers_busy),
            // Batches that a restart lost are classified again.
            ..stage(StageName::Classify, "batches", classified + at_workers, classified)
        },
        Stage {
            // Results that wait for an earlier batch.
            bytes: Some(receiver.held_bytes),
            busy: load.disk_busy,
            idle: rest(load.disk_busy),
            ..stage(StageName::Sink, "rows", receiver.rows_written, receiver.rows)
        },
    ]
}
