//! What the Monitoring Hub shows: the answers under `/api/v1/`, its stream, and `report.json`.
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

/// How a job is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// No rows have come in.
    #[default]
    Waiting,
    /// Rows come in, and results go out.
    Running,
    /// Nothing has been written for a while, although there is something to write.
    Stalled,
    /// All rows are in; the last results go out.
    Draining,
    /// All results are durable.
    Done,
    /// The job cannot be finished.
    Failed,
}

impl JobState {
    /// All states.
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

    /// Nothing more will happen.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// How a program is doing, as far as its reports tell; the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// It has said that it cannot go on.
    Failed,
    /// It has not reported for ten seconds.
    Lost,
    /// It has not reported for three seconds, or it has left and is about to be started again.
    Stale,
    /// It reports.
    Up,
    /// It has ended well.
    Finished,
}

/// The job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub state: JobState,
    /// What the job is, if the hub was told.
    #[serde(default)]
    pub description: Option<Description>,
    /// When the job began, in seconds since 1970 by the hub's clock.
    #[serde(default)]
    pub started_at: Option<f64>,
    /// Time since it began, up to its end.
    pub elapsed_seconds: f64,
    /// Workers that report.
    pub workers_up: u64,
    /// Workers that there should be; 0 while that is not known.
    pub workers_expected: u64,
    /// How often programs were started again.
    pub restarts: u64,
    pub rows: Rows,
    /// Bytes of durable results.
    pub bytes: u64,
    /// Rows that come in a second, averaged over several batches; of a finished job, over all of it.
    pub rate_in: Option<f64>,
    /// Rows that are written a second, likewise.
    pub rate_out: Option<f64>,
    /// Over how many seconds rates are averaged: several batches.
    #[serde(default)]
    pub rate_seconds: f64,
    /// When it will be done.
    pub estimate: Option<Estimate>,
    /// For how long nothing has been written, of a stalled job.
    #[serde(default)]
    pub stalled_seconds: Option<f64>,
    /// The stages of the dataflow, in its order.
    pub stages: Vec<Stage>,
    /// What holds the job back, or did.
    pub bottleneck: Option<Bottleneck>,
    /// Why it has failed.
    pub failure: Option<String>,
    /// Why rows were rejected, by kinds of reasons, in the order in which they came first.
    pub reject_reasons: Reasons,
    /// What has happened to the model, in all workers together.
    #[serde(default, skip_serializing_if = "ModelCounts::is_empty")]
    pub model: ModelCounts,
    /// The result of a finished job.
    pub summary: Option<Summary>,
}

/// How many rows there are, and where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Rows that have come in.
    pub read: u64,
    /// Rows that have come in and are not durable.
    pub in_flight: u64,
    /// Rows that are durable, rejects included.
    pub written: u64,
    /// Of these, rejects.
    pub rejected: u64,
    /// All rows of the input, where that is known.
    pub total: Option<u64>,
    /// The same, estimated from how much of the input has been read.
    pub total_about: Option<u64>,
}

/// When the job will be done, in seconds from now.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// If it goes on at its best recent rate.
    pub low_seconds: f64,
    /// If it goes on at its worst recent rate.
    pub high_seconds: f64,
}

/// The stages of the dataflow, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageName {
    /// The sender reads rows, and the source takes them.
    Source,
    /// The source cuts rows into batches, and issues them as far as the window has room.
    Batcher,
    /// Workers have the model classify batches.
    Classify,
    /// The receiver writes results in order, and makes them durable.
    Sink,
}

/// A stage of the dataflow. Shares are from 0 to 1: of the last seconds, or of the whole job when that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub name: StageName,
    /// What is counted: `rows` or `batches`.
    pub unit: String,
    /// How many have come in.
    #[serde(rename = "in")]
    pub received: u64,
    /// How many have gone out.
    #[serde(rename = "out")]
    pub sent: u64,
    pub in_flight: u64,
    /// How many may be in flight, where there is a limit.
    pub limit: Option<u64>,
    /// Bytes of what is in flight, where that is known.
    pub bytes: Option<u64>,
    /// How many these may be, where there is a limit.
    pub limit_bytes: Option<u64>,
    /// Share of the time at work.
    pub busy: Option<f64>,
    /// Share of the time without anything to do.
    pub idle: Option<f64>,
    /// Share of the time spent waiting for the next stage.
    pub back_pressured: Option<f64>,
}

/// The stage that holds the job back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bottleneck {
    pub stage: StageName,
    /// What is wrong, in words.
    pub words: String,
    /// What would help, if that can be said.
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
    /// How its process is doing.
    pub state: Liveness,
    /// Rows a second.
    pub rate: Option<f32>,
    /// Rows a second in each second of the last minute.
    pub rates: Vec<Option<u32>>,
    /// Batches that it has classified, in all lives of its process.
    pub batches: u64,
    /// Rows in these.
    pub rows: u64,
    /// Of these, rejects.
    pub rejects: u64,
    /// How long the model takes for a row, on average.
    #[serde(default)]
    pub ms_per_row: Option<f64>,
    /// How long the model takes for a batch, at the median.
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    /// Batches that are with it.
    pub in_flight: u64,
    /// How long the oldest of them has been there.
    pub oldest_seconds: Option<f64>,
    /// Share of the time in which its model is at work.
    pub busy: Option<f64>,
    /// Cores that its process uses, with all workers of that process.
    pub processors: Option<f64>,
    /// Memory of its process, with all workers of that process.
    pub resident_bytes: u64,
    /// How often its process was started again.
    pub restarts: usize,
    pub last_seen_seconds: f64,
    /// Why it holds the others back, if it does.
    pub straggler: Option<String>,
    /// What has happened to its model.
    #[serde(default, skip_serializing_if = "ModelCounts::is_empty")]
    pub model: ModelCounts,
}

/// A worker, and how long its work takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerDetail {
    pub worker: Worker,
    pub computations: Vec<Computation>,
}

/// How long something takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Computation {
    pub name: String,
    /// What is measured, in words.
    pub what: String,
    /// How often it was measured.
    pub count: u64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
    pub histogram: Histogram,
}

/// How often something took how long.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Edges of the bins, in milliseconds, rising: one more than there are bins.
    pub edges_ms: Vec<f64>,
    /// How many fell into each bin.
    pub counts: Vec<u64>,
    /// Bins have the same ratio of their edges rather than the same width.
    pub logarithmic: bool,
}

/// A machine, as the last report of any program there tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub name: String,
    /// The job's programs that run there.
    pub programs: Vec<String>,
    /// How the program is doing that reported last.
    pub state: Liveness,
    pub cores: u32,
    /// How busy these are, from 0 to 1.
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
    /// Its workers, if it is a classifier.
    pub workers: u32,
    /// Cores that it and what it has started use.
    pub processors: Option<f64>,
    /// Memory of the same.
    pub resident_bytes: u64,
    pub restarts: usize,
    pub last_seen_seconds: f64,
}

/// A worker in a few bytes: name, state, whether it is a straggler, and rows a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell(pub String, pub Liveness, pub bool, pub Option<f32>);

/// What the page needs each second.
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
    /// Where the job is.
    pub point: Option<Point>,
}

/// All that there is to show; `report.json`.
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
    /// The whole job's course.
    pub history: Vec<Point>,
}
