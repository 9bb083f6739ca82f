//! What a job went through: its events, and how far it was at a moment.

use serde::{Deserialize, Serialize};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Events are numbered from 1.
    pub number: u64,
    /// Seconds since the job began.
    pub seconds: f64,
    pub kind: EventKind,
    /// The program that it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    pub text: String,
}

/// What kind of event it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A program reports for the first time.
    Joined,
    /// A program was started again.
    Restarted,
    /// A program does not report any more.
    Lost,
    /// A lost program reports again.
    Back,
    /// A program has ended.
    Ended,
    /// The job is in another state.
    Job,
    /// The model failed, was killed, or printed something.
    Model,
}

/// How far the job was at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Seconds since the job began.
    pub seconds: f64,
    /// Rows that had come in.
    pub rows_in: u64,
    /// Rows that were durable.
    pub rows_out: u64,
}

/// The job's course.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The last five minutes, a point a second.
    pub recent: Vec<Point>,
    /// The whole job, in at most about a thousand points.
    pub whole: Vec<Point>,
}
