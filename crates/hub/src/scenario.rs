//! A job as its programs would report it, to test and measure by: at any second, what each has counted.

use std::sync::LazyLock;
use std::time::Duration;

use protocol::results::Summary;
use telemetry::durations::Durations;
use telemetry::report::{
    ClassifierCounts, Counts, Ending, JobOutcome, Origin, ReceiverCounts, Report, SenderCounts, SourceCounts,
    WorkerCounts,
};
use telemetry::usage::Usage;

use crate::tracker::Tracker;

/// Rows that each worker classifies in a second, in batches of a hundred.
pub const ROWS_PER_SECOND: u64 = 1000;

/// A job on machines of seven workers, one process each, the first of which is the initializer.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// How many machines.
    pub machines: u64,
    /// How many seconds it takes.
    pub seconds: u64,
}

impl Scenario {
    /// On each machine.
    pub const WORKERS: u64 = 7;

    /// How many rows it has.
    pub fn rows(&self) -> u64 {
        self.machines * Self::WORKERS * ROWS_PER_SECOND * self.seconds
    }

    /// The names of its programs.
    pub fn names(&self) -> Vec<String> {
        let workers = (1..self.machines).map(|i| format!("worker{i}"));
        ["sender", "receiver", "initializer"].map(str::to_owned).into_iter().chain(workers).collect()
    }

    /// Who reports.
    pub fn origin(name: &str, incarnation: u64) -> Origin {
        Origin { name: name.to_owned(), machine: format!("host-of-{name}"), incarnation }
    }

    /// What a program reports after so many seconds, if it began `began` seconds after the job.
    pub fn report(&self, name: &str, second: u64, began: u64) -> Report {
        let second = second.min(self.seconds);
        let done = self.rows() * second / self.seconds;
        let is_over = second == self.seconds;
        let counts = match name {
            "sender" => Counts::Sender(SenderCounts {
                rows: done,
                rows_total: Some(self.rows()),
                all_sent: is_over,
                blocked_ms: 900 * second,
                ..SenderCounts::default()
            }),
            "receiver" => Counts::Receiver(ReceiverCounts {
                rows_written: done,
                rows: done,
                batches: done / 100,
                bytes: 50 * done,
                outcome: is_over.then(|| JobOutcome::Done(self.summary())),
                ..ReceiverCounts::default()
            }),
            _ => Counts::Classifier(ClassifierCounts {
                workers: (0..Self::WORKERS).map(|_| Self::worker(second - began)).collect(),
                source: (name == "initializer").then(|| SourceCounts {
                    workers: (self.machines * Self::WORKERS) as u32,
                    rows_in: done,
                    batches: done / 100,
                    durable_batches: done / 100,
                    limit_batches: 16_384,
                    limit_bytes: 64 << 20,
                    ended: is_over,
                    ..SourceCounts::default()
                }),
            }),
        };
        Report {
            uptime_ms: 1000 * (second - began),
            usage: Usage { cores: 8, resident_bytes: 30 << 20, ..Usage::default() },
            counts,
            ending: None,
        }
    }

    fn worker(seconds: u64) -> WorkerCounts {
        let batches = seconds * ROWS_PER_SECOND / 100;
        let mut counts = WorkerCounts {
            batches_in: batches + 2,
            batches,
            rows: 100 * batches,
            busy_ms: 950 * seconds,
            oldest_ms: Some(12),
            ..WorkerCounts::default()
        };
        // As many different durations as there may be in a long job.
        static MANY: LazyLock<[Durations; 2]> = LazyLock::new(|| Scenario::durations(500));
        [counts.classify, counts.queue] = if batches < 500 { Self::durations(batches) } else { MANY.clone() };
        counts
    }

    fn durations(batches: u64) -> [Durations; 2] {
        let mut durations: [Durations; 2] = Default::default();
        for i in 0..batches {
            durations[0].record(Duration::from_micros(20_000 + 37 * i));
            durations[1].record(Duration::from_micros(300 + 11 * i));
        }
        durations
    }

    fn summary(&self) -> Summary {
        Summary {
            rows: self.rows(),
            batches: self.rows() / 100,
            bytes: 50 * self.rows(),
            sha256: "0".repeat(64),
            seconds: self.seconds as f64,
            ..Summary::default()
        }
    }

    /// All programs report, and the second is over.
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

/// A report that says how its program ends.
pub fn ending(report: Report, ending: Ending) -> Report {
    Report { ending: Some(ending), ..report }
}
