//! The thread that puts batches in order and writes them, and the one that makes them durable.
//!
//! They work side by side: while one span of the results is being synced, the next is being written.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use anyhow::ensure;
use wire::results::{Outcome, ResultBatch, Summary, Totals};

use crate::budget::Budget;
use crate::job::{End, Job, SyncWork};
use crate::order::{Line, Order};
use crate::store::{Store, Syncer};

/// How many batches are taken in before some are written.
const MOST_AT_ONCE: usize = 256;
/// From the beginning of one sync to that of the next. One after the other, they would take 4 % of two cores from Python boxes,
/// and bring nothing: a window of usual length has room for much more than comes in this time. (One of ten batches has not, and
/// lets 2,000 batches a second through.)
const SYNC_PAUSE: Duration = Duration::from_millis(5);

/// For the writer.
#[derive(Debug)]
pub enum Event {
    /// A batch of this generation.
    Batch(u64, ResultBatch),
    /// All batches are written: the syncer asks for the results' SHA-256.
    Digest(std::sync::mpsc::Sender<String>),
}

/// Writes batches in order until all senders of events are gone or the job ends.
pub fn write(mut store: Store, events: &Receiver<Event>, job: &Job, queue: &Budget) {
    let position = store.position();
    let mut line = Line::new(Order::new(position.next, position.next_row));
    while let Ok(first) = events.recv() {
        if let Err(error) = step(&mut store, &mut line, first, events, job, queue) {
            job.end(End::Job(Outcome::Failed(format!("{error:#}"))));
            break;
        }
    }
    // What still comes is dropped, and must not wait for room.
    queue.close();
}

/// Takes in what is here, up to a limit, and writes what is in line.
fn step(
    store: &mut Store,
    line: &mut Line,
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
                job.received(generation, batch.worker);
                queue.give_back(batch.size());
                line.offer(generation, batch)?;
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
    let mut run = Vec::new();
    while let Some(batch) = line.take()? {
        run.push(batch);
    }
    store.append(&run)?;
    job.written(store.position(), line.held() as u64, idle);
    for reply in digests {
        // The syncer waits for it; if it does not, the job has ended.
        let _ = reply.send(store.sha256());
    }
    Ok(())
}

/// Makes durable what is written, until the job ends; ends it when all is there.
pub fn sync(mut syncer: Syncer, digest: impl Fn() -> Option<String>, job: &Job) {
    while let Some(work) = job.sync_work() {
        let start = Instant::now();
        let outcome = match work {
            SyncWork::Sync(position) => syncer.sync(&position).map(|()| {
                job.synced(start.elapsed());
                job.durable(position);
                std::thread::sleep(SYNC_PAUSE.saturating_sub(start.elapsed()));
                None
            }),
            SyncWork::Finish(totals) => {
                let end = finish(syncer, totals, &digest, job)
                    .map_or_else(|error| Outcome::Failed(format!("{error:#}")), Outcome::Done);
                return job.end(End::Job(end));
            }
            SyncWork::Stop => Ok(Some(End::Stopped(syncer.durable().next_row))),
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(end)) => job.end(end),
            Err(error) => job.end(End::Job(Outcome::Failed(format!("{error:#}")))),
        }
    }
}

fn finish(
    syncer: Syncer,
    totals: Totals,
    digest: &impl Fn() -> Option<String>,
    job: &Job,
) -> anyhow::Result<Summary> {
    let durable = syncer.durable();
    ensure!(
        durable.next == totals.batches && durable.next_row == totals.rows,
        "{} rows in {} batches were read, and {} rows in {} batches came out: rows were lost or made up",
        totals.rows,
        totals.batches,
        durable.next_row,
        durable.next
    );
    let sha256 = digest().ok_or_else(|| anyhow::anyhow!("the writer has stopped"))?;
    let (started, ended) = (job.started(), SystemTime::now());
    let time = |t| humantime::format_rfc3339_millis(t).to_string();
    let summary = Summary {
        rows: durable.next_row,
        rejects: durable.rejects,
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
