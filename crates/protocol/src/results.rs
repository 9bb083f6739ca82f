//! Port 9999 after the handshake: numbered result batches one way, acknowledgements the other.
//!
//! The first byte of a payload is its kind. Batches and acknowledgements are binary, big-endian, since they are many; the rest is
//! JSON.

use std::io::{IoSlice, Write};

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes};
use columns::ColumnType;
use serde::{Deserialize, Serialize};

use crate::frame;
use crate::rejects::Reasons;

const BATCH: u8 = 1;
const TOTALS: u8 = 2;
const ACKNOWLEDGEMENT: u8 = 3;
const OUTCOME: u8 = 4;
const IDENTITY: u8 = 5;
const FAILURE: u8 = 6;
const NOTED: u8 = 7;

/// Bytes before the schema in a batch's payload.
const BATCH_HEAD: usize = 1 + 8 + 8 + 4 + 4 + 4 + 4 + 4;

/// The most batches that a window can have. A batch further ahead of the next one is invalid.
pub const LONGEST_WINDOW: u32 = 1 << 24;

/// The results of one batch of rows. It says which rows it is for, so the receiver can order batches however they arrive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResultBatch<B = Bytes> {
    /// The batch's number, counted from 0.
    pub number: u64,
    /// Its first row, counted from 0.
    pub first_row: u64,
    /// The number of its rows, rejects included.
    pub rows: u32,
    /// How many of these were rejected.
    pub rejected: u32,
    /// The worker that classified it, numbered across the cluster.
    pub worker: u32,
    /// The columns of the results, encoded by [`encode_parts`](crate::schema::encode_parts); empty if there are no results.
    pub schema: B,
    /// The results in row order, each with its line end: the exact bytes to append to the results file.
    pub results: B,
    /// The rejects in row order as CSV lines `row,reason,record`: the exact bytes to append to the rejects file.
    pub rejects: B,
}

impl<B: AsRef<[u8]>> ResultBatch<B> {
    /// Bytes of its schema, results and rejects.
    pub fn size(&self) -> usize {
        self.schema.as_ref().len() + self.results.as_ref().len() + self.rejects.as_ref().len()
    }

    /// The beginning of its frame, before the schema, the results and the rejects.
    ///
    /// # Errors
    /// The batch is longer than [`frame::PEER_LIMIT`], which the receiver would refuse.
    pub fn head(&self) -> anyhow::Result<[u8; frame::PREFIX + BATCH_HEAD]> {
        let (schema, results) = (self.schema.as_ref().len(), self.results.as_ref().len());
        let length = BATCH_HEAD + schema + results + self.rejects.as_ref().len();
        ensure!(
            length <= frame::PEER_LIMIT,
            "the results of batch {} are {length} bytes long; the limit is {}",
            self.number,
            frame::PEER_LIMIT
        );
        let mut head = [0; frame::PREFIX + BATCH_HEAD];
        let mut out = &mut head[..];
        out.put_u32(length as u32);
        out.put_u8(BATCH);
        out.put_u64(self.number);
        out.put_u64(self.first_row);
        out.put_u32(self.rows);
        out.put_u32(self.rejected);
        out.put_u32(self.worker);
        out.put_u32(schema as u32);
        out.put_u32(results as u32);
        Ok(head)
    }
}

/// Writes batches with as few system calls as the stream allows.
///
/// # Errors
/// Those of the stream and of [`ResultBatch::head`].
pub fn write_batches<B: AsRef<[u8]>>(stream: impl Write, batches: &[ResultBatch<B>]) -> anyhow::Result<()> {
    let heads = batches.iter().map(ResultBatch::head).collect::<Result<Vec<_>, _>>()?;
    let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(4 * batches.len());
    for (head, batch) in heads.iter().zip(batches) {
        slices.push(IoSlice::new(head));
        slices.push(IoSlice::new(batch.schema.as_ref()));
        slices.push(IoSlice::new(batch.results.as_ref()));
        slices.push(IoSlice::new(batch.rejects.as_ref()));
    }
    Ok(frame::write_all_vectored(stream, &mut slices)?)
}

/// The size of the whole job, as counted by the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Rows read.
    pub rows: u64,
    /// Batches cut from them.
    pub batches: u64,
}

/// Two hashes that tell jobs apart once their first rows are known. Results of different jobs must not be in one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Of the settings that affect results.
    pub settings: u64,
    /// Of the CSV's header.
    pub header: u64,
}

/// What a job with typed columns decides with its first rows, and keeps whatever restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Of the input's columns.
    pub types: Vec<ColumnType>,
    /// The number of rows in a batch.
    pub chunk_size: u32,
}

#[derive(Serialize, Deserialize)]
struct Introduction {
    #[serde(flatten)]
    identity: Identity,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    terms: Option<Terms>,
}

/// A message from a classifier process to the receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToReceiver {
    Batch(ResultBatch),
    /// Identifies the job. From the initializer, when it has seen the first row; until then nothing becomes durable.
    Identity(Identity, Option<Terms>),
    /// From the initializer: the number of rows and batches at the end of the rows.
    Totals(Totals),
    /// From the initializer: why the job cannot be finished, as reported by its sender.
    Failure(String),
}

impl ToReceiver {
    /// # Errors
    /// The payload is not a message to the receiver.
    pub fn decode(mut payload: Bytes) -> anyhow::Result<Self> {
        match payload.first() {
            Some(&BATCH) => {
                ensure!(payload.len() >= BATCH_HEAD, "a batch of only {} bytes", payload.len());
                payload.advance(1);
                let mut batch = ResultBatch {
                    number: payload.get_u64(),
                    first_row: payload.get_u64(),
                    rows: payload.get_u32(),
                    rejected: payload.get_u32(),
                    worker: payload.get_u32(),
                    ..ResultBatch::default()
                };
                let (schema, results) = (payload.get_u32() as usize, payload.get_u32() as usize);
                ensure!(schema + results <= payload.len(), "batch {} is shorter than it says", batch.number);
                ensure!(batch.rejected <= batch.rows, "batch {} has more rejects than rows", batch.number);
                batch.schema = payload.split_to(schema);
                batch.results = payload.split_to(results);
                batch.rejects = payload;
                Ok(Self::Batch(batch))
            }
            Some(&TOTALS) => Ok(Self::Totals(json(&payload)?)),
            Some(&IDENTITY) => {
                let Introduction { identity, terms } = json(&payload)?;
                Ok(Self::Identity(identity, terms))
            }
            Some(&FAILURE) => Ok(Self::Failure(json(&payload)?)),
            _ => bail!("a payload of an unknown kind"),
        }
    }
}

/// # Errors
/// Those of the stream.
pub fn write_totals(stream: impl Write, totals: &Totals) -> anyhow::Result<()> {
    write_json(stream, TOTALS, totals)
}

/// # Errors
/// Those of the stream.
pub fn write_identity(stream: impl Write, identity: &Identity, terms: Option<&Terms>) -> anyhow::Result<()> {
    write_json(stream, IDENTITY, &Introduction { identity: *identity, terms: terms.cloned() })
}

/// # Errors
/// Those of the stream.
pub fn write_failure(stream: impl Write, reason: &str) -> anyhow::Result<()> {
    write_json(stream, FAILURE, &reason)
}

/// A message from the receiver to the initializer.
#[derive(Debug, Clone, PartialEq)]
pub enum FromReceiver {
    Acknowledgement(Acknowledgement),
    /// The receiver knows the job's terms, and tells them to any later initializer.
    Noted,
    Outcome(Outcome),
}

/// The receiver's progress.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acknowledgement {
    /// All batches below this number are durable.
    pub next: u64,
    /// Workers, and how many batches of each arrived in this generation, durable or not; only numbers that changed. They show
    /// the source which workers are quick.
    pub received: Vec<(u32, u64)>,
    /// Bytes of results that wait for an earlier batch; results can be much longer than their rows.
    pub held: u64,
}

/// How the job ended, as decided by the receiver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All results are durable.
    Done(Summary),
    /// The job cannot be finished.
    Failed(String),
}

/// The contents of `results.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Rows read; results plus rejects.
    pub rows: u64,
    /// Rows in the rejects.
    pub rejects: u64,
    /// By kind of reason.
    #[serde(default)]
    pub reject_reasons: Reasons,
    /// The column names of the results, in order; empty if there are no results.
    #[serde(default)]
    pub columns: Vec<String>,
    /// For a model with typed columns: the types of the input's columns, and the size of batches.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
    pub batches: u64,
    /// Length of the results in bytes.
    pub bytes: u64,
    /// SHA-256 of the results, in hexadecimal.
    pub sha256: String,
    /// When the first batch arrived, in UTC as RFC 3339, even if processes died since. For a job without rows, when its totals
    /// arrived.
    pub started: String,
    /// When all results were durable, in UTC as RFC 3339.
    pub ended: String,
    /// From `started` to `ended`.
    pub seconds: f64,
}

/// The message to observers, sent several times a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Progress {
    /// Rows whose batches are durable, rejects included.
    pub rows: u64,
    /// Rejects among these rows.
    pub rejects: u64,
    /// Bytes of durable results.
    pub bytes: u64,
    /// The job has succeeded or failed; no more messages follow.
    #[serde(default)]
    pub ended: bool,
}

impl FromReceiver {
    /// # Errors
    /// The payload is not a message of the receiver.
    pub fn decode(mut payload: Bytes) -> anyhow::Result<Self> {
        match payload.first() {
            Some(&ACKNOWLEDGEMENT) => {
                payload.advance(1);
                ensure!(
                    payload.len() >= 16 && (payload.len() - 16).is_multiple_of(12),
                    "an incomplete acknowledgement"
                );
                let (next, held) = (payload.get_u64(), payload.get_u64());
                let mut received = Vec::with_capacity(payload.len() / 12);
                while payload.has_remaining() {
                    received.push((payload.get_u32(), payload.get_u64()));
                }
                Ok(Self::Acknowledgement(Acknowledgement { next, received, held }))
            }
            Some(&OUTCOME) => Ok(Self::Outcome(json(&payload)?)),
            Some(&NOTED) if payload.len() == 1 => Ok(Self::Noted),
            _ => bail!("a payload of an unknown kind"),
        }
    }

    /// Writes the message as a frame.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn write(&self, stream: impl Write) -> anyhow::Result<()> {
        match self {
            Self::Acknowledgement(ack) => {
                let mut payload = Vec::with_capacity(17 + 12 * ack.received.len());
                payload.put_u8(ACKNOWLEDGEMENT);
                payload.put_u64(ack.next);
                payload.put_u64(ack.held);
                for &(worker, received) in &ack.received {
                    payload.put_u32(worker);
                    payload.put_u64(received);
                }
                Ok(frame::write(stream, &payload)?)
            }
            Self::Noted => Ok(frame::write(stream, &[NOTED])?),
            Self::Outcome(outcome) => write_json(stream, OUTCOME, outcome),
        }
    }
}

/// The receiver's answer to a classifier's handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The first batch that is not durable yet.
    pub next: u64,
    /// The first row of that batch.
    pub next_row: u64,
    /// The cluster's generation. An initializer gets a new one, higher than all before.
    pub generation: u64,
    /// Identifies the job in the receiver's files, if rows of it are durable.
    pub identity: Option<Identity>,
    /// What the job has decided, if it has typed columns and its initializer has told the receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
}

fn write_json<T: Serialize>(stream: impl Write, kind: u8, message: &T) -> anyhow::Result<()> {
    let mut payload = vec![kind];
    serde_json::to_writer(&mut payload, message).context("encoding a message")?;
    Ok(frame::write(stream, &payload)?)
}

fn json<T: serde::de::DeserializeOwned>(payload: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(&payload[1..]).context("parsing a message")
}

#[cfg(test)]
mod tests;
