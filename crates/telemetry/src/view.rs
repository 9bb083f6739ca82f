//! The Monitoring Hub's answers: JSON under `/api/v1/`, its stream, and `report.json`.
//!
//! | path | answer |
//! |---|---|
//! | `/api/v1/job` | [`Job`] |
//! | `/api/v1/workers` | [`Worker`]s, those with problems first |
//! | `/api/v1/workers/NAME` | [`WorkerDetail`] |
//! | `/api/v1/computations` | [`Computation`]s |
//! | `/api/v1/machines` | [`Machine`]s |
//! | `/api/v1/processes` | [`Process`]es |
//! | `/api/v1/events` | [`Event`]s |
//! | `/api/v1/history` | [`History`] |
//! | `/api/v1/stream` | a [`Live`] each second, as a server-sent event |
//! | `report.json` | [`Report`] |
//!
//! A field that is `None` is unknown, which is not zero: a program that does not report has no rate.

mod course;

use protocol::rejects::Reasons;
use protocol::results::Summary;
use serde::{Deserialize, Serialize};

use crate::job::Description;
use crate::report::ModelCounts;

pub use course::{Event, EventKind, History, Point};

/// The state of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// No rows have arrived.
    #[default]
    Waiting,
    /// Rows arrive, and results are written.
    Running,
    /// No results have been written for a while, although rows are in flight.
    Stalled,
    /// All rows have arrived; the last results are being written.
    Draining,
    /// All results are durable.
    Done,
    /// The job cannot be finished.
    Failed,
}

impl JobState {
    pub const ALL: [Self; 6] =
        [Self::Waiting, Self::Running, Self::Stalled, Self::Draining, Self::Done, Self::Failed];

    /// The state's name in all interfaces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Stalled => "stalled",
            Self::Draining => "draining",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// The state of a program according to its reports; the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// It reported that it cannot continue.
    Failed,
    /// It has not reported for ten seconds.
    Lost,
    /// It has not reported for three seconds, or has left its generation and will be restarted.
    Stale,
    /// It reports.
    Up,
    /// Its work is done.
    Finished,
}

/// The job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub state: JobState,
    /// `None` if the hub was started without one.
    #[serde(default)]
    pub description: Option<Description>,
    /// When the job began, in seconds since 1970, by the hub's clock.
    #[serde(default)]
    pub started_at: Option<f64>,
    /// From the job's beginning until now or its end.
    pub elapsed_seconds: f64,
    /// Workers that report.
    pub workers_up: u64,
    /// Workers of the cluster; 0 while unknown.
    pub workers_expected: u64,
    /// How often programs were restarted.
    pub restarts: u64,
    pub rows: Rows,
    /// Bytes of durable results.
    pub bytes: u64,
    /// Rows that arrive per second, averaged over several batches, or over the whole of a finished job.
    pub rate_in: Option<f64>,
    /// Rows that are written per second, likewise.
    pub rate_out: Option<f64>,
    /// The seconds over which rates are averaged.
    #[serde(default)]
    pub rate_seconds: f64,
    /// When the job will be done.
    pub estimate: Option<Estimate>,
    /// For a stalled job: the time since results were last written.
    #[serde(default)]
    pub stalled_seconds: Option<f64>,
    /// In the order of the dataflow.
    pub stages: Vec<Stage>,
    /// What limits the job's rate; of a finished job, what did.
    pub bottleneck: Option<Bottleneck>,
    /// Why the job has failed.
    pub failure: Option<String>,
    /// Why rows were rejected, by kind of reason, in the order of their first rows.
    pub reject_reasons: Reasons,
    /// The sum over all workers.
    #[serde(default, skip_serializing_if = "ModelCounts::is_empty")]
    pub model: ModelCounts,
    /// Of a finished job.
    pub summary: Option<Summary>,
}

/// Numbers of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Rows that have arrived.
    pub read: u64,
    /// Rows that have arrived and are not durable.
    pub in_flight: u64,
    /// Durable rows, rejects included.
    pub written: u64,
    /// Durable rejects.
    pub rejected: u64,
    /// Rows of the input, if known.
    pub total: Option<u64>,
    /// Rows of the input, estimated from the share of the input that has been read.
    pub total_about: Option<u64>,
}

/// When the job will be done, in seconds from now.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// At the best recent rate.
    pub low_seconds: f64,
    /// At the worst recent rate.
    pub high_seconds: f64,
}

/// The stages, in the order of the dataflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageName {
    /// The sender reads rows, and the source receives them.
    Source,
    /// The source cuts rows into batches, and issues them while the window has room.
    Batcher,
    /// The models of the workers classify batches.
    Classify,
    /// The receiver writes results in order, and makes them durable.
    Sink,
}

/// A stage of the dataflow. Shares are from 0 to 1: of the last seconds, or of the whole of a finished job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub name: StageName,
    /// The unit of its counts: `rows` or `batches`.
    pub unit: String,
    #[serde(rename = "in")]
    pub received: u64,
    #[serde(rename = "out")]
    pub sent: u64,
    pub in_flight: u64,
    /// The limit of `in_flight`, if any.
    pub limit: Option<u64>,
    /// Bytes in flight, if known.
    pub bytes: Option<u64>,
    /// The limit of `bytes`, if any.
    pub limit_bytes: Option<u64>,
    /// Share of the time spent at work.
    pub busy: Option<f64>,
    /// Share of the time without work.
    pub idle: Option<f64>,
    /// Share of the time spent waiting for the next stage.
    pub back_pressured: Option<f64>,
}

/// The stage that limits the job's rate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bottleneck {
    pub stage: StageName,
    /// The reason, for people.
    pub words: String,
    /// What would help, if known.
    #[serde(default)]
    pub advice: Option<String>,
}

/// A worker thread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its process's name, a dot, and its number there from 0: `worker1.3`.
    pub name: String,
    /// Its number among all workers, from 1.
    pub number: u32,
    pub process: String,
    pub machine: String,
    /// The state of its process.
    pub state: Liveness,
    /// Rows per second.
    pub rate: Option<f32>,
    /// Rows in each second of the last minute.
    pub rates: Vec<Option<u32>>,
    /// Classified batches, including those before restarts of its process.
    pub batches: u64,
    /// Rows in these batches.
    pub rows: u64,
    /// Rejects among these rows.
    pub rejects: u64,
    /// The model's mean time for a row.
    #[serde(default)]
    pub ms_per_row: Option<f64>,
    /// The model's median time for a batch.
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    /// Batches at this worker.
    pub in_flight: u64,
    /// Age of the oldest batch in flight.
    pub oldest_seconds: Option<f64>,
    /// Share of the time for which its model is at work.
    pub busy: Option<f64>,
    /// Cores used by its process, with all workers of that process.
    pub processors: Option<f64>,
    /// Memory of its process, with all workers of that process.
    pub resident_bytes: u64,
    /// How often its process was restarted.
    pub restarts: usize,
    pub last_seen_seconds: f64,
    /// Why it is a straggler, if it is.
    pub straggler: Option<String>,
    #[serde(default, skip_serializing_if = "ModelCounts::is_empty")]
    pub model: ModelCounts,
}

/// A worker, and the durations of its work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerDetail {
    pub worker: Worker,
    pub computations: Vec<Computation>,
}

/// The measured durations of one kind of work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Computation {
    pub name: String,
    /// What is measured, for people.
    pub what: String,
    /// The number of measurements.
    pub count: u64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
    pub histogram: Histogram,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Edges of the bins in milliseconds, ascending: one more than bins.
    pub edges_ms: Vec<f64>,
    /// The number of durations in each bin.
    pub counts: Vec<u64>,
    /// Whether the edges of each bin have the same ratio, instead of the same difference.
    pub logarithmic: bool,
}

/// A machine, according to the last report of any program there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub name: String,
    /// The job's programs on this machine.
    pub programs: Vec<String>,
    /// The state of the program that reported last.
    pub state: Liveness,
    pub cores: u32,
    /// How busy all cores together are, from 0 to 1.
    pub busy: Option<f32>,
    pub used_bytes: Option<u64>,
    pub total_bytes: u64,
    pub received_per_second: Option<f64>,
    pub sent_per_second: Option<f64>,
    pub last_seen_seconds: f64,
}

/// A program of the job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    pub name: String,
    pub machine: String,
    pub state: Liveness,
    /// The number of its workers; 0 unless it is a classifier.
    pub workers: u32,
    /// Cores used by the process and its descendants.
    pub processors: Option<f64>,
    /// Memory of the same processes.
    pub resident_bytes: u64,
    pub restarts: usize,
    pub last_seen_seconds: f64,
}

/// A worker in a few bytes: name, state, whether it is a straggler, and rows per second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell(pub String, pub Liveness, pub bool, pub Option<f32>);

/// What the page gets each second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Live {
    pub job: Job,
    /// All workers of a small job; the first ten, problems first, of a large one.
    pub workers: Vec<Worker>,
    /// All workers, in the order of their numbers.
    pub cells: Vec<Cell>,
    pub computations: Vec<Computation>,
    pub machines: Vec<Machine>,
    /// The last events, the newest last.
    pub events: Vec<Event>,
    /// The newest point of the history.
    pub point: Option<Point>,
}

/// Everything that the page shows; `report.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub job: Job,
    /// All workers, those with problems first.
    pub workers: Vec<Worker>,
    pub computations: Vec<Computation>,
    pub machines: Vec<Machine>,
    #[serde(default)]
    pub processes: Vec<Process>,
    /// The last events, the newest last.
    pub events: Vec<Event>,
    /// The history of the whole job.
    pub history: Vec<Point>,
}
