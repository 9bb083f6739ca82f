//! What programs report to the hub. Times are in milliseconds of the program's own clock, unless a name says otherwise.

use protocol::Temporary;
use protocol::rejects::Reasons;
use protocol::results::Summary;
use serde::{Deserialize, Serialize};

use crate::durations::Durations;
use crate::usage::Usage;

/// The first frame of a connection to port 5001.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum HubOpening {
    /// A program that reports.
    Reporter(Origin),
}

/// What the hub answers to it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Welcome {}

/// Where reports come from.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Origin {
    /// What the job calls the program: `sender`, `initializer`, `worker1` …
    pub name: String,
    /// The machine's name.
    pub machine: String,
    /// A number for each life of the program; a later life has a greater one. Counts begin anew with it.
    pub incarnation: u64,
}

/// One report. It holds everything that was counted so far, so that a lost one does no harm.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Report {
    /// How long the program has been running.
    pub uptime_ms: u64,
    /// What it and its machine use.
    pub usage: Usage,
    /// What it counts.
    pub counts: Counts,
    /// In its last report: how it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
}

impl Report {
    /// Decodes a report. It is here because this crate is compiled with all optimizations, and the hub is not.
    ///
    /// # Errors
    /// Anything but a report.
    pub fn decode(payload: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(payload)
    }
}

/// How a program ends, as it says itself.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Its work is done.
    Finished,
    /// It leaves its generation, to be started again.
    Leaving(String),
    /// It cannot go on.
    Failed(String),
}

impl Ending {
    /// The end of a program for which this is the reason.
    pub fn of(error: &anyhow::Error) -> Self {
        let reason = format!("{error:#}");
        if error.is::<Temporary>() { Self::Leaving(reason) } else { Self::Failed(reason) }
    }
}

/// What a program counts.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Counts {
    /// A sender.
    Sender(SenderCounts),
    /// A classifier process.
    Classifier(ClassifierCounts),
    /// The receiver.
    Receiver(ReceiverCounts),
}

/// What a sender counts.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct SenderCounts {
    /// Rows that the source has been sent, counted from the input's first: what is sent again counts once.
    pub rows: u64,
    /// How many there are in all, where that is known.
    pub rows_total: Option<u64>,
    /// Bytes of the input before the next row that is read.
    pub bytes: u64,
    /// How many there are in all, where that is known.
    pub bytes_total: Option<u64>,
    /// All rows are sent.
    pub all_sent: bool,
    /// How long it has waited for the source to take rows.
    pub blocked_ms: u64,
}

/// What a classifier process counts.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct ClassifierCounts {
    /// Its workers, in their order.
    pub workers: Vec<WorkerCounts>,
    /// At the initializer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceCounts>,
}

/// What a worker counts: one thread, with a model of its own.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct WorkerCounts {
    /// Batches that came in, and those that are done. The difference is in flight.
    pub batches_in: u64,
    /// Batches that are classified.
    pub batches: u64,
    /// Rows in these.
    pub rows: u64,
    /// Of these, rejects.
    pub rejects: u64,
    /// How long its model has been at work.
    pub busy_ms: u64,
    /// How long the oldest unfinished batch has been here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<u64>,
    /// How long batches waited here for the model.
    pub queue: Durations,
    /// How long the model took for batches.
    pub classify: Durations,
    /// What has happened to the model.
    #[serde(default, skip_serializing_if = "ModelCounts::is_empty")]
    pub model: ModelCounts,
}

/// What has happened to a model, besides that it classified.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct ModelCounts {
    /// Times that it raised an exception, or gave something that is no result.
    pub exceptions: u64,
    /// Times that its process was killed, because it took too long or too much memory or was stopped.
    pub kills: u64,
    /// Times that its process ended by itself.
    pub crashes: u64,
    /// Times that rows were tried once more as they were.
    pub retries: u64,
    /// Times that a batch was divided to find the rows that cannot be classified.
    pub splits: u64,
    /// Lines that it printed.
    pub printed_lines: u64,
    /// Why it failed, was killed or ended last.
    pub last_failure: Option<String>,
    /// What it printed last.
    pub last_printed: Option<String>,
}

impl ModelCounts {
    /// Failure messages and printed lines have at most this many characters here; the log has the rest.
    const LONGEST_TEXT: usize = 240;

    /// Nothing has happened.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Sets why it failed last.
    pub fn failed(&mut self, why: &str) {
        self.last_failure = Some(shortened(why, Self::LONGEST_TEXT));
    }

    /// Counts a line that it printed.
    pub fn printed(&mut self, line: &str) {
        self.printed_lines += 1;
        self.last_printed = Some(shortened(line, Self::LONGEST_TEXT));
    }

    /// Adds what was counted elsewhere, or later.
    pub fn add(&mut self, other: &Self) {
        let Self { exceptions, kills, crashes, retries, splits, printed_lines, last_failure, last_printed } =
            other;
        self.exceptions += exceptions;
        self.kills += kills;
        self.crashes += crashes;
        self.retries += retries;
        self.splits += splits;
        self.printed_lines += printed_lines;
        for (last, newer) in [(&mut self.last_failure, last_failure), (&mut self.last_printed, last_printed)]
        {
            if newer.is_some() {
                last.clone_from(newer);
            }
        }
    }
}

fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What the source counts, with the batcher and the window.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct SourceCounts {
    /// Workers in the cluster.
    pub workers: u32,
    /// Rows that have come in, counted from the job's first.
    pub rows_in: u64,
    /// Batches that are issued, counted from the job's first.
    pub batches: u64,
    /// Of these, those that are durable.
    pub durable_batches: u64,
    /// Bytes of rows in batches that are issued and not durable.
    pub window_bytes: u64,
    /// The window's limits.
    pub limit_batches: u64,
    /// The window's limits.
    pub limit_bytes: u64,
    /// How long rows have waited for room in the window.
    pub full_ms: u64,
    /// All rows are in.
    pub ended: bool,
    /// How long batches took from being issued until the receiver had them.
    pub transit: Durations,
}

/// What the receiver counts.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct ReceiverCounts {
    /// Rows that are written, counted from the job's first, rejects included.
    pub rows_written: u64,
    /// Rows that are durable.
    pub rows: u64,
    /// Of these, rejects.
    pub rejects: u64,
    /// Batches that are durable.
    pub batches: u64,
    /// Bytes of results that are durable.
    pub bytes: u64,
    /// Bytes of results that wait for an earlier batch.
    pub held_bytes: u64,
    /// Why rows were rejected that are written, by kinds of reasons.
    #[serde(default)]
    pub reject_reasons: Reasons,
    /// How long it took to make results durable.
    pub sync: Durations,
    /// How the job ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<JobOutcome>,
}

/// How the job ended, as the receiver says.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum JobOutcome {
    /// All is durable.
    Done(Summary),
    /// It cannot be finished.
    Failed(String),
    /// A user has stopped it.
    Stopped,
}
