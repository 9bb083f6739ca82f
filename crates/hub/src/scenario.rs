//! A simulated job, for tests and measurements: the report of each program at any second.

mod gallery;

use std::sync::LazyLock;
use std::time::Duration;

use protocol::rejects::Reasons;
use protocol::results::Summary;
use telemetry::durations::Durations;
use telemetry::report::{
    ClassifierCounts, Counts, Ending, JobOutcome, ModelCounts, Origin, ReceiverCounts, Report, SenderCounts,
    SourceCounts, WorkerCounts,
};
use telemetry::usage::Usage;

use crate::tracker::Tracker;

pub use gallery::gallery;

/// Rows that each worker classifies per second, unless batches take longer.
pub const ROWS_PER_SECOND: u64 = 1000;
const BATCH_ROWS: u64 = 100;

/// A job with one classifier process on each machine, the first of which is the initializer.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub machines: u64,
    /// Workers on each machine.
    pub workers: u64,
    /// The job's duration.
    pub seconds: u64,
    /// Seconds that a slow model takes for a batch. With 0, a worker classifies ten batches per second.
    pub batch_seconds: u64,
    /// When the outage of `worker1` begins, and its length, in seconds.
    pub outage: (u64, u64),
    /// The model raises an exception for every other row.
    pub rejects: bool,
}

impl Default for Scenario {
    fn default() -> Self {
        Self { machines: 2, workers: 7, seconds: 100, batch_seconds: 0, outage: (0, 0), rejects: false }
    }
}

impl Scenario {
    /// All rows of the job.
    pub fn rows(&self) -> u64 {
        self.rows_by(self.seconds)
    }

    /// Rows that are done at a second.
    fn rows_by(&self, second: u64) -> u64 {
        let workers = 0..self.machines * self.workers;
        workers.map(|worker| BATCH_ROWS * self.batches_by(worker, 0, second)).sum()
    }

    /// Batches that a worker has classified between two seconds.
    fn batches_by(&self, worker: u64, from: u64, to: u64) -> u64 {
        let (start, length) = self.outage;
        let is_away = worker / self.workers == 1 && (from..to).contains(&start);
        let seconds = if is_away { (start - from) + to.saturating_sub(start + length) } else { to - from };
        match self.batch_seconds {
            0 => seconds * ROWS_PER_SECOND / BATCH_ROWS,
            // Batches differ: each takes up to a fifth more or less.
            batch_seconds => {
                let took = |batch: u64| 800 + (batch * 7 + worker * 5) * 37 % 400;
                let mut left = 1000 * seconds;
                (0..)
                    .take_while(|batch| {
                        let took = took(*batch) * batch_seconds;
                        let is_done = took <= left;
                        left = left.saturating_sub(took);
                        is_done
                    })
                    .count() as u64
            }
        }
    }

    /// The number of a program's first worker.
    fn first_worker(&self, name: &str) -> u64 {
        self.workers * name.strip_prefix("worker").and_then(|place| place.parse().ok()).unwrap_or(0)
    }

    /// The names of all programs.
    pub fn names(&self) -> Vec<String> {
        let workers = (1..self.machines).map(|i| format!("worker{i}"));
        ["sender", "receiver", "initializer"].map(str::to_owned).into_iter().chain(workers).collect()
    }

    pub fn origin(name: &str, incarnation: u64) -> Origin {
        Origin { name: name.to_owned(), machine: format!("host-of-{name}"), incarnation }
    }

    /// The report of a program at a second, if it began `began` seconds after the job.
    pub fn report(&self, name: &str, second: u64, began: u64) -> Report {
        let second = second.min(self.seconds);
        let counts = match name {
            "sender" => Counts::Sender(self.sender(second)),
            "receiver" => Counts::Receiver(self.receiver(second)),
            _ => Counts::Classifier(ClassifierCounts {
                workers: (0..self.workers)
                    .map(|place| self.worker(self.first_worker(name) + place, began, second))
                    .collect(),
                source: (name == "initializer").then(|| self.source(second)),
            }),
        };
        let uptime = second - began;
        Report {
            uptime_ms: 1000 * uptime,
            usage: Usage {
                cpu_ms: 850 * self.workers * uptime,
                resident_bytes: 30 << 20,
                cores: 8,
                machine_busy: 0.9,
                machine_used_bytes: 9 << 30,
                machine_bytes: 32 << 30,
                received_bytes: 250_000 * uptime,
                sent_bytes: 400_000 * uptime,
            },
            counts,
            ending: None,
        }
    }

    fn sender(&self, second: u64) -> SenderCounts {
        SenderCounts {
            rows: self.read_by(second),
            rows_total: Some(self.rows()),
            all_sent: self.is_over(second),
            blocked_ms: 900 * second,
            ..SenderCounts::default()
        }
    }

    fn receiver(&self, second: u64) -> ReceiverCounts {
        let done = self.rows_by(second);
        let reject_reasons = self.reasons(done);
        ReceiverCounts {
            rows_written: done,
            rows: done,
            rejects: reject_reasons.iter().map(|reason| reason.rows).sum(),
            reject_reasons,
            batches: done / BATCH_ROWS,
            bytes: 50 * done,
            sync: spread(second, 2_000, 3_100),
            outcome: self.is_over(second).then(|| JobOutcome::Done(self.summary())),
            ..ReceiverCounts::default()
        }
    }

    fn source(&self, second: u64) -> SourceCounts {
        SourceCounts {
            workers: (self.machines * self.workers) as u32,
            rows_in: self.read_by(second),
            batches: self.read_by(second) / BATCH_ROWS,
            durable_batches: self.rows_by(second) / BATCH_ROWS,
            limit_batches: 16_384,
            limit_bytes: 64 << 20,
            ended: self.is_over(second),
            full_ms: 700 * second,
            transit: spread(self.batches_by(0, 0, second).min(500), 30_000, 91),
            ..SourceCounts::default()
        }
    }

    /// Rows that have been read at a second. With a slow model, rows wait in the window.
    fn read_by(&self, second: u64) -> u64 {
        let ahead = if self.batch_seconds > 0 { 20 * self.machines * self.workers * BATCH_ROWS } else { 0 };
        self.rows().min(self.rows_by(second) + ahead)
    }

    fn is_over(&self, second: u64) -> bool {
        second == self.seconds
    }

    fn worker(&self, worker: u64, began: u64, second: u64) -> WorkerCounts {
        let batches = self.batches_by(worker, began, second);
        let mut counts = WorkerCounts {
            batches_in: batches + if self.is_over(second) { 0 } else { 2 },
            batches,
            rows: BATCH_ROWS * batches,
            busy_ms: 950 * (second - began),
            oldest_ms: (!self.is_over(second)).then_some(1000 * self.batch_seconds / 3 + 12),
            ..WorkerCounts::default()
        };
        if self.rejects {
            counts.rejects = counts.rows / 2;
            counts.model = Self::model_failures(batches);
        }
        // As many different durations as in a long job.
        static MANY: LazyLock<[Durations; 2]> = LazyLock::new(|| Scenario::durations(500));
        [counts.classify, counts.queue] = match self.batch_seconds {
            0 if batches >= 500 => MANY.clone(),
            0 => Self::durations(batches),
            batch_seconds => [
                spread(batches, 1_000_000 * batch_seconds - 900_000, 1_700_000 / batches.max(1)),
                spread(batches, 300, 11),
            ],
        };
        counts
    }

    fn durations(batches: u64) -> [Durations; 2] {
        [spread(batches, 20_000, 37), spread(batches, 300, 11)]
    }

    fn model_failures(batches: u64) -> ModelCounts {
        let mut counts = ModelCounts {
            exceptions: 150 * batches,
            kills: batches / 40,
            retries: 51 * batches,
            splits: 99 * batches,
            ..ModelCounts::default()
        };
        if batches > 0 {
            counts.failed("KeyError: 'AMOUNT'");
            counts.printed(
                "UserWarning: X does not have valid feature names, but the pipeline was fitted with them",
            );
            counts.printed("row 17 has no AMOUNT");
            counts.printed_lines = 4 * batches;
            counts.printed[0].lines = 3 * batches;
            counts.printed[1].lines = batches;
        }
        counts
    }

    /// The reasons if half of `rows` rows were rejected.
    fn reasons(&self, rows: u64) -> Reasons {
        let rejected = if self.rejects { rows / 2 } else { 0 };
        let of = |rows: u64, first_row: u64, kind: &str, example: &str| serde_json::json!({ "kind": kind, "rows": rows, "first_row": first_row, "example": example });
        let late = rejected / 50;
        let kinds = [
            of(rejected - 2 * late, 3, "KeyError: '…'", "KeyError: 'AMOUNT'"),
            of(
                late,
                118,
                "ValueError: could not convert string to float: '…'",
                "ValueError: could not convert string to float: 'n/a'",
            ),
            of(late, 451, "… values; the header has …", "7 values; the header has 8"),
        ];
        let kinds = if rejected >= 100 { kinds.to_vec() } else { Vec::new() };
        serde_json::from_value(kinds.into()).unwrap_or_default()
    }

    fn summary(&self) -> Summary {
        let reject_reasons = self.reasons(self.rows());
        Summary {
            rows: self.rows(),
            rejects: reject_reasons.iter().map(|reason| reason.rows).sum(),
            reject_reasons,
            columns: ["ID", "AMOUNT", "CLASSIFICATION"].map(str::to_owned).to_vec(),
            batches: self.rows() / BATCH_ROWS,
            bytes: 50 * self.rows(),
            sha256: "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4".to_owned(),
            seconds: self.seconds as f64,
            ..Summary::default()
        }
    }

    /// Reports of all programs except `silent` ones arrive, and the second passes.
    pub fn pass(&self, tracker: &mut Tracker, second: u64, silent: &[&str]) {
        let now = Duration::from_secs(second);
        for name in self.names() {
            if !silent.contains(&name.as_str()) {
                tracker.on_report(&Self::origin(&name, 1), self.report(&name, second, 0), now);
            }
        }
        tracker.tick(now);
    }
}

/// `count` durations from `shortest` on, `step` apart, in microseconds.
fn spread(count: u64, shortest: u64, step: u64) -> Durations {
    let mut durations = Durations::default();
    (0..count).for_each(|i| durations.record(Duration::from_micros(shortest + step * i)));
    durations
}

/// Adds to a report how its program ends.
pub fn ending(report: Report, ending: Ending) -> Report {
    Report { ending: Some(ending), ..report }
}
