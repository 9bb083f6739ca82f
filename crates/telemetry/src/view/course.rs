//! A job's events and history.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Events are numbered from 1.
    pub number: u64,
    /// Seconds since the job began.
    pub seconds: f64,
    pub kind: EventKind,
    /// The program that the event is about, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A program reports for the first time.
    Joined,
    /// A program was restarted.
    Restarted,
    /// A program stopped reporting.
    Lost,
    /// A lost program reports again.
    Back,
    /// A program has ended.
    Ended,
    /// The job's state changed.
    Job,
    /// The model failed, was killed, or printed something.
    Model,
}

/// The job's progress at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Seconds since the job began.
    pub seconds: f64,
    /// Rows that had arrived.
    pub rows_in: u64,
    /// Durable rows.
    pub rows_out: u64,
}

/// The job's progress over time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The last five minutes, with one point per second.
    pub recent: Vec<Point>,
    /// The whole job, in at most about a thousand points.
    pub whole: Vec<Point>,
}
