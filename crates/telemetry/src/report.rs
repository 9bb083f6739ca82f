//! The reports of programs to the hub. Times are in milliseconds by the program's own clock, unless a name says otherwise.

use protocol::Temporary;
use protocol::rejects::{self, Reasons};
use protocol::results::Summary;
use serde::{Deserialize, Serialize};

use crate::durations::Durations;
use crate::usage::Usage;

/// The fields of a handshake at port 5001, by role.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum HubHello {
    /// A program that reports.
    Reporter(Origin),
}

/// The hub's answer to a handshake.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Welcome {}

/// The program that reports.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Origin {
    /// The program's name in the job: `sender`, `initializer`, `worker1` …
    pub name: String,
    pub machine: String,
    /// Tells the program's restarts apart: a restarted program has a greater number. Its counts begin at zero.
    pub incarnation: u64,
}

/// One report. It has all counts so far, so a lost report does no harm.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Report {
    /// Time since the program started.
    pub uptime_ms: u64,
    pub usage: Usage,
    pub counts: Counts,
    /// How the program ends; only in its last report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
}

impl Report {
    /// Decodes a report. This is not in the hub, since this crate is compiled with all optimizations, and the hub is not.
    ///
    /// # Errors
    /// The payload is not a report.
    pub fn decode(payload: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(payload)
    }
}

/// How a program ends, in its own words.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Its work is done.
    Finished,
    /// It leaves its generation for this reason, and will be restarted.
    Leaving(String),
    /// It cannot continue, for this reason.
    Failed(String),
}

impl Ending {
    /// The end of a program because of this error.
    pub fn of(error: &anyhow::Error) -> Self {
        let reason = format!("{error:#}");
        if error.is::<Temporary>() { Self::Leaving(reason) } else { Self::Failed(reason) }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Counts {
    Sender(SenderCounts),
    Classifier(ClassifierCounts),
    Receiver(ReceiverCounts),
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct SenderCounts {
    /// Rows sent to the source, counted from the input's first row. Rows that are sent again count once.
    pub rows: u64,
    /// Rows in the input, if known.
    pub rows_total: Option<u64>,
    /// Bytes of the input before the next row to read.
    pub bytes: u64,
    /// Bytes of the input, if known.
    pub bytes_total: Option<u64>,
    pub all_sent: bool,
    /// Time spent waiting for the source to accept rows.
    pub blocked_ms: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct ClassifierCounts {
    /// In the order of their numbers.
    pub workers: Vec<WorkerCounts>,
    /// Only of the initializer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceCounts>,
}

/// The counts of a worker: one thread with its own model.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct WorkerCounts {
    /// Batches that arrived. Those that are not classified yet are in flight.
    pub batches_in: u64,
    /// Classified batches.
    pub batches: u64,
    /// Rows in classified batches.
    pub rows: u64,
    /// Rejects among these rows.
    pub rejects: u64,
    /// Time for which its model has been at work.
    pub busy_ms: u64,
    /// Age of the oldest batch in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<u64>,
    /// How long batches waited for the model.
    pub queue: Durations,
    /// How long the model took for each batch.
    pub classify: Durations,
    #[serde(default, skip_serializing_if = "ModelCounts::is_empty")]
    pub model: ModelCounts,
}

/// Lines that a model has printed, and that are alike.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Alike {
    /// The lines, with `…` in place of numbers and quoted text.
    pub kind: String,
    pub lines: u64,
    /// The first of them.
    pub first: String,
}

/// Failures and printed lines of a model.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct ModelCounts {
    /// Times that it raised an exception or returned something that is not a result.
    pub exceptions: u64,
    /// Times that its process was killed, because it took too long, used too much memory or was stopped.
    pub kills: u64,
    /// Times that its process ended by itself.
    pub crashes: u64,
    /// Times that rows were retried without being split.
    pub retries: u64,
    /// Times that a batch was split to find the rows that cannot be classified.
    pub splits: u64,
    pub printed_lines: u64,
    /// Why it last failed, was killed or ended.
    pub last_failure: Option<String>,
    /// The last line that it printed.
    pub last_printed: Option<String>,
    /// The lines that it printed first, and how many others are like them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub printed: Vec<Alike>,
}

impl ModelCounts {
    /// The most characters of failure messages and printed lines here; the log has all of them.
    const LONGEST_TEXT: usize = 240;
    /// How many kinds of printed lines are counted separately.
    const MOST_KINDS: usize = 10;

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Sets the last failure.
    pub fn failed(&mut self, why: &str) {
        self.last_failure = Some(shortened(why, Self::LONGEST_TEXT));
    }

    /// Counts a printed line. Returns whether it is the first of its kind.
    pub fn printed(&mut self, line: &str) -> bool {
        self.printed_lines += 1;
        let line = shortened(line, Self::LONGEST_TEXT);
        let is_first = !line.is_empty()
            && self.add_alike(&Alike { kind: rejects::kind_of(&line), lines: 1, first: line.clone() });
        self.last_printed = Some(line);
        is_first
    }

    /// Returns whether there were none like them.
    fn add_alike(&mut self, alike: &Alike) -> bool {
        if let Some(known) = self.printed.iter_mut().find(|known| known.kind == alike.kind) {
            known.lines += alike.lines;
            return false;
        }
        let has_room = self.printed.len() < Self::MOST_KINDS;
        if has_room {
            self.printed.push(alike.clone());
        }
        has_room
    }

    /// Adds the counts of another model, or later ones of the same.
    pub fn add(&mut self, other: &Self) {
        let Self {
            exceptions,
            kills,
            crashes,
            retries,
            splits,
            printed_lines,
            last_failure,
            last_printed,
            printed,
        } = other;
        self.exceptions += exceptions;
        self.kills += kills;
        self.crashes += crashes;
        self.retries += retries;
        self.splits += splits;
        self.printed_lines += printed_lines;
        for alike in printed {
            self.add_alike(alike);
        }
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

/// The counts of the source, the batcher and the window.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct SourceCounts {
    /// Workers in the cluster.
    pub workers: u32,
    /// Rows that have arrived, counted from the job's first.
    pub rows_in: u64,
    /// Issued batches, counted from the job's first.
    pub batches: u64,
    /// Durable batches.
    pub durable_batches: u64,
    /// Bytes of rows in batches that are issued and not durable.
    pub window_bytes: u64,
    /// The window's limit of batches.
    pub limit_batches: u64,
    /// The window's limit of bytes.
    pub limit_bytes: u64,
    /// Time for which rows have waited for room in the window.
    pub full_ms: u64,
    /// All rows have arrived.
    pub ended: bool,
    /// Time from the issue of a batch until its results arrived at the receiver.
    pub transit: Durations,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct ReceiverCounts {
    /// Written rows, counted from the job's first, rejects included.
    pub rows_written: u64,
    /// Durable rows, rejects included.
    pub rows: u64,
    /// Durable rejects.
    pub rejects: u64,
    /// Durable batches.
    pub batches: u64,
    /// Bytes of durable results.
    pub bytes: u64,
    /// Bytes of results that wait for an earlier batch.
    pub held_bytes: u64,
    /// Why written rows were rejected, by kind of reason.
    #[serde(default)]
    pub reject_reasons: Reasons,
    /// How long each sync took.
    pub sync: Durations,
    /// How the job ended; `None` until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<JobOutcome>,
}

/// How the job ended, as decided by the receiver.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum JobOutcome {
    /// All results are durable.
    Done(Summary),
    /// The job cannot be finished, for this reason.
    Failed(String),
    /// A user stopped the job.
    Stopped,
}
