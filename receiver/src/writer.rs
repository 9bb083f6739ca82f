//! The writer's thread, which puts batches in order and writes them, and the syncer's thread, which makes them durable.
//!
//! The two work in parallel: while the syncer syncs one span of the results, the writer writes the next.
//! [`server`](crate::server) starts them.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use anyhow::ensure;
use protocol::rejects::Reasons;
use protocol::results::{Outcome, ResultBatch, Summary, Totals};

use crate::audit::Audit;
use crate::budget::Budget;
use crate::job::{End, Job, SyncWork};
use crate::peer::Peer;
use crate::reorder::{Held, ReorderBuffer, Sequencer};
use crate::spill::{Spill, SpillFile};
use crate::store::{Storage, Store, Syncer};

/// The most batches to receive before writing.
const MOST_AT_ONCE: usize = 256;
/// The least time from the start of one sync to the start of the next. Without a pause, syncs take 4 % of two cores from
/// Python models and make nothing faster: a usual window has room for far more than arrives in this time. (A window of ten
/// batches does not, and lets 2,000 batches a second through.)
const SYNC_PAUSE: Duration = Duration::from_millis(5);

/// Messages to the writer.
#[derive(Debug)]
pub enum Event {
    /// A batch of this generation.
    Batch(u64, ResultBatch),
    /// All batches are durable: the syncer asks for the digest of all results. The reply is an error if the job must fail.
    Digest(std::sync::mpsc::Sender<anyhow::Result<Digest>>),
}

/// The digest of all results.
#[derive(Debug)]
pub struct Digest {
    /// In hexadecimal.
    sha256: String,
    reject_reasons: Reasons,
    /// The names of the columns.
    columns: Vec<String>,
}

/// The most bytes of early batches in memory; further ones go to disk.
const MOST_HELD: usize = 64 << 20;
/// About how many bytes of batches to collect for one write. Bounds the bytes that are read back from disk at once.
const MOST_READY: usize = 16 << 20;

/// The writer's state.
pub struct Writer<S = Store, P = SpillFile> {
    storage: S,
    spill: P,
    sequencer: Sequencer,
    audit: Audit,
    /// The number of rejects whose reasons the job knows.
    told: u64,
}

/// Writes batches in order until all senders of events are gone, or writing fails.
pub fn write(mut writer: Writer, events: &Receiver<Event>, job: &Job, queue: &Budget) {
    while let Ok(first) = events.recv() {
        if let Err(error) = step(&mut writer, first, events, job, queue) {
            fail(job, &error);
            break;
        }
    }
    // Batches that still arrive are dropped, and need no budget.
    queue.close();
}

/// Handles up to [`MOST_AT_ONCE`] waiting events, and writes the batches that are next.
fn step(
    writer: &mut Writer,
    first: Event,
    events: &Receiver<Event>,
    job: &Job,
    queue: &Budget,
) -> anyhow::Result<()> {
    let mut taken = 0;
    let mut event = Some(first);
    let mut digests = Vec::new();
    let idle = loop {
        match event {
            Some(Event::Batch(generation, batch)) => {
                queue.release(batch.size());
                writer.recv(generation, batch, job, SystemTime::now())?;
            }
            Some(Event::Digest(reply)) => digests.push(reply),
            None => break true,
        }
        taken += 1;
        if taken == MOST_AT_ONCE {
            break false;
        }
        event = events.try_recv().ok();
    };
    writer.write(job, idle)?;
    for reply in digests {
        // Without a syncer, the job has ended.
        let _ = reply.send(writer.digest());
    }
    Ok(())
}

impl Writer {
    fn digest(&self) -> anyhow::Result<Digest> {
        self.audit.finish()?;
        Ok(Digest {
            sha256: self.storage.sha256(),
            reject_reasons: self.audit.reasons().clone(),
            columns: self.audit.schema().names().map(str::to_owned).collect(),
        })
    }
}

impl<S: Storage, P: Spill> Writer<S, P> {
    /// Continues where the storage ends.
    pub fn new(storage: S, spill: P, audit: Audit) -> Self {
        let position = storage.position();
        let sequencer = Sequencer::new(ReorderBuffer::new(position.next, position.next_row), MOST_HELD);
        Self { storage, spill, sequencer, audit, told: 0 }
    }

    /// Handles a batch of this generation.
    ///
    /// # Errors
    /// When its number is beyond the longest window, or the disk is full.
    pub fn recv<W: Peer>(
        &mut self,
        generation: u64,
        batch: ResultBatch,
        job: &Job<W>,
        now: SystemTime,
    ) -> anyhow::Result<()> {
        job.received(generation, batch.worker, now);
        self.sequencer.offer(generation, batch, &mut self.spill)
    }

    /// Writes the next batches that have arrived, and reports the position to the job; `idle` as in [`Job::written`].
    ///
    /// # Errors
    /// When the columns differ, too many rows are rejected, or the file system fails. Batches before the failure are written
    /// anyway.
    pub fn write<W: Peer>(&mut self, job: &Job<W>, idle: bool) -> anyhow::Result<()> {
        let written = self.write_ready();
        let position = self.storage.position();
        job.written(position, self.sequencer.held() as u64, idle);
        if self.told != position.rejects {
            self.told = position.rejects;
            job.rejected(self.audit.reasons());
        }
        written
    }

    pub fn storage(&self) -> &S {
        &self.storage
    }

    fn write_ready(&mut self) -> anyhow::Result<()> {
        loop {
            let (mut run, mut bytes, mut outcome) = (Vec::new(), 0, Ok(()));
            while bytes < MOST_READY
                && let Some(held) = self.sequencer.take()?
            {
                let batch = match held {
                    Held::InMemory(batch) => batch,
                    Held::Spilled(stub) => self.spill.take(stub)?,
                };
                match self.audit.admit(&batch) {
                    Ok(false) => {}
                    Ok(true) => self.storage.note_schema(self.audit.schema()),
                    Err(error) => {
                        outcome = Err(error);
                        break;
                    }
                }
                bytes += batch.size();
                outcome = self.audit.count_rejects(&batch);
                run.push(batch);
                if outcome.is_err() {
                    break;
                }
            }
            self.storage.append(&run)?;
            outcome?;
            if bytes < MOST_READY {
                return Ok(());
            }
        }
    }
}

/// Makes written batches durable until the job ends. Ends the job when all batches are durable.
pub fn sync(mut syncer: Syncer, digest: impl Fn() -> Option<anyhow::Result<Digest>>, job: &Job) {
    while let Some(work) = job.sync_work() {
        let start = Instant::now();
        let outcome = match work {
            SyncWork::Sync(position) => syncer.sync(&position, job.terms().as_ref()).map(|()| {
                job.synced(start.elapsed());
                job.durable(position);
                std::thread::sleep(SYNC_PAUSE.saturating_sub(start.elapsed()));
                None
            }),
            SyncWork::Finish(totals) => {
                return match finish(syncer, totals, &digest, job) {
                    Ok(summary) => job.end(End::Job(Outcome::Done(summary))),
                    Err(error) => fail(job, &error),
                };
            }
            SyncWork::Stop => Ok(Some(End::Stopped(syncer.durable().next_row))),
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(end)) => job.end(end),
            Err(error) => fail(job, &error),
        }
    }
}

/// Ends the job with an error. Those of the file system, such as a full disk, may not last.
fn fail(job: &Job, error: &anyhow::Error) {
    let is_of_files = error.chain().any(<dyn std::error::Error>::is::<std::io::Error>);
    job.fail(format!("{error:#}"), !is_of_files);
}

fn finish(
    syncer: Syncer,
    totals: Totals,
    digest: &impl Fn() -> Option<anyhow::Result<Digest>>,
    job: &Job,
) -> anyhow::Result<Summary> {
    let durable = syncer.durable();
    ensure!(
        durable.next == totals.batches && durable.next_row == totals.rows,
        "{} rows in {} batches were read, but {} rows in {} batches came out: rows were lost or made up",
        totals.rows,
        totals.batches,
        durable.next_row,
        durable.next
    );
    let digest = digest().ok_or_else(|| anyhow::anyhow!("the writer has stopped"))?;
    let Digest { sha256, reject_reasons, columns } = digest?;
    let (started, ended) = (job.started(), SystemTime::now());
    let time = |t| humantime::format_rfc3339_millis(t).to_string();
    let summary = Summary {
        rows: durable.next_row,
        rejects: durable.rejects,
        reject_reasons,
        columns,
        terms: job.terms(),
        batches: durable.next,
        bytes: durable.result_bytes,
        sha256,
        started: time(started),
        ended: time(ended),
        seconds: ended.duration_since(started).unwrap_or_default().as_secs_f64(),
    };
    job.finished(syncer.finish(&summary)?);
    Ok(summary)
}
