//! The source: numbers batches, and issues them within the window.
//!
//! [`Issuer`] decides, and is pure; [`Source`] is the operator's work around it.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use protocol::results::{Acknowledgement, FromReceiver, Identity, Outcome, Summary, Totals, Welcome};

use crate::batch::{Batch, Batches};
use crate::deadline::Deadline;
use crate::ingest::{Incoming, Ingest};
use crate::metrics::Metrics;
use crate::receiver_client::Outgoing;
use crate::window::{Limits, Window};

/// How long a sender may take to hear that the job has failed before the process ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// Which job it is.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    /// Where the receiver says that it stands.
    pub welcome: Welcome,
    /// A hash of the settings that decide what results look like.
    pub settings: u64,
    /// How much may be under way.
    pub limits: Limits,
    /// Workers in the cluster.
    pub workers: usize,
}

/// Gives batches their numbers and workers, as the window allows. Time is told.
#[derive(Debug)]
pub struct Issuer {
    window: Window,
    next_row: u64,
    next_batch: u64,
    /// The first row that is not known to be durable, and how many rows the batches from it on have.
    durable_row: u64,
    issued: VecDeque<u32>,
}

impl Issuer {
    /// For this many workers, from where the receiver stands.
    pub fn new(limits: Limits, workers: usize, welcome: &Welcome) -> Self {
        Self {
            window: Window::new(limits, workers, welcome.next),
            next_row: welcome.next_row,
            next_batch: welcome.next,
            durable_row: welcome.next_row,
            issued: VecDeque::new(),
        }
    }

    /// The next batch, of these rows; `None` while the window has no room for it.
    pub fn issue(&mut self, header: &Bytes, frames: &Bytes, rows: u32, now: Duration) -> Option<Batch> {
        let (number, worker) = self.window.issue(frames.len(), now)?;
        let (first_row, worker) = (self.next_row, worker as u32);
        self.next_row += u64::from(rows);
        self.next_batch = number + 1;
        self.issued.push_back(rows);
        Some(Batch { number, first_row, rows, worker, header: header.clone(), frames: frames.clone() })
    }

    /// Takes in how far the receiver is; whether that is news. `took` is told how long batches were on their way there.
    pub fn acknowledge(
        &mut self,
        acknowledgement: &Acknowledgement,
        now: Duration,
        mut took: impl FnMut(Duration),
    ) -> bool {
        let before = self.window.acknowledged();
        self.window.acknowledge(acknowledgement.next);
        let durable = (self.window.acknowledged() - before) as usize;
        self.durable_row += self.issued.drain(..durable).map(u64::from).sum::<u64>();
        self.window.hold(acknowledgement.held);
        for (worker, count) in &acknowledgement.received {
            self.window.received(*worker as usize, *count, now, &mut took);
        }
        self.window.acknowledged() > before || !acknowledgement.received.is_empty()
    }

    /// Rows before this one are durable.
    pub fn durable_row(&self) -> u64 {
        self.durable_row
    }

    /// Batches before this one are durable.
    pub fn durable_batch(&self) -> u64 {
        self.window.acknowledged()
    }

    /// Bytes of rows that are issued and not durable.
    pub fn window_bytes(&self) -> usize {
        self.window.bytes()
    }

    /// What there is in all, if no more rows come.
    pub fn totals(&self) -> Totals {
        Totals { rows: self.next_row, batches: self.next_batch }
    }

    /// Nothing is issued that is not acknowledged.
    pub fn is_idle(&self) -> bool {
        self.window.is_empty()
    }
}

/// The state of the source.
pub struct Source {
    ingest: Ingest,
    issuer: Issuer,
    /// What the receiver says.
    heard: Receiver<FromReceiver>,
    /// To the receiver.
    receiver: Sender<Outgoing>,
    /// Watches over acknowledgements.
    deadline: Deadline,
    clock: Instant,
    /// A batch that the window has no room for.
    held: Option<Incoming>,
    /// Of the settings.
    settings: u64,
    identified: bool,
    ended: bool,
    /// Rows have waited for room in the window when this was counted last.
    was_full: bool,
    metrics: Metrics,
}

/// What a turn of the source brought.
pub enum Turn {
    /// Batches to send, perhaps none.
    Issued(Batches),
    /// All is durable, and the sender is being told.
    Done(Summary),
}

impl Source {
    /// A source, from where the job stands.
    pub fn new(
        ingest: Ingest,
        heard: Receiver<FromReceiver>,
        receiver: Sender<Outgoing>,
        deadline: Deadline,
        job: Job,
        metrics: Metrics,
    ) -> Self {
        let Job { welcome, settings, limits, workers } = job;
        metrics.source(|counts| {
            counts.workers = workers as u32;
            counts.limit_batches = limits.batches as u64;
            counts.limit_bytes = limits.bytes as u64;
        });
        Self {
            ingest,
            issuer: Issuer::new(limits, workers, &welcome),
            heard,
            receiver,
            deadline,
            clock: Instant::now(),
            held: None,
            settings,
            identified: false,
            ended: false,
            was_full: false,
            metrics,
        }
    }

    /// Takes in what the receiver says, then issues what the window has room for.
    pub fn turn(&mut self) -> Turn {
        let now = self.clock.elapsed();
        while let Ok(heard) = self.heard.try_recv() {
            match heard {
                FromReceiver::Acknowledgement(acknowledgement) => {
                    let is_news = self.issuer.acknowledge(&acknowledgement, now, |took| {
                        self.metrics.source(|counts| counts.transit.record(took));
                    });
                    self.ingest.durable(self.issuer.durable_row());
                    if is_news {
                        self.await_acknowledgement();
                    }
                }
                FromReceiver::Outcome(Outcome::Done(summary)) => {
                    self.deadline.rest();
                    self.count();
                    return Turn::Done(summary);
                }
                FromReceiver::Outcome(Outcome::Failed(reason)) => {
                    self.ingest.conclude(Err(reason.clone())).wait(FAREWELL);
                    crate::fail(format_args!("the receiver ended the job: {reason}"));
                }
            }
        }
        if let Some(reason) = self.ingest.take_failure() {
            // The receiver ends the job, and says so to all.
            self.send_to_receiver(Outgoing::Failure(reason));
        }
        let batches = self.issue(now);
        if !batches.0.is_empty() {
            self.await_acknowledgement();
        }
        self.count();
        Turn::Issued(batches)
    }

    fn count(&mut self) {
        let is_full = self.held.is_some();
        if is_full != self.was_full {
            self.was_full = is_full;
            self.metrics.full(is_full);
        }
        let held = match &self.held {
            Some(Incoming::Rows { rows, .. }) => u64::from(*rows),
            _ => 0,
        };
        let Totals { rows, batches } = self.issuer.totals();
        self.metrics.source(|counts| {
            counts.rows_in = rows + held;
            counts.batches = batches;
            counts.durable_batches = self.issuer.durable_batch();
            counts.window_bytes = self.issuer.window_bytes() as u64;
            counts.ended = self.ended;
        });
    }

    /// Tells the sender that all its rows are durable; says when it is told.
    pub fn conclude(&self, summary: &Summary) -> crate::ingest::Conclusion {
        self.ingest.conclude(Ok(summary.rows))
    }

    fn issue(&mut self, now: Duration) -> Batches {
        let mut batches = Vec::new();
        while let Some(incoming) = self.held.take().or_else(|| self.ingest.next()) {
            match incoming {
                Incoming::Rows { header, frames, rows } => {
                    if !self.identified {
                        self.identified = true;
                        let identity =
                            Identity { settings: self.settings, header: protocol::hash::short(&header) };
                        self.send_to_receiver(Outgoing::Identity(identity));
                    }
                    let Some(batch) = self.issuer.issue(&header, &frames, rows, now) else {
                        // Every acknowledgement activates the operator, so it comes back to this.
                        self.held = Some(Incoming::Rows { header, frames, rows });
                        break;
                    };
                    batches.push(batch);
                }
                Incoming::End => {
                    self.ended = true;
                    self.send_to_receiver(Outgoing::Totals(self.issuer.totals()));
                    self.await_acknowledgement();
                }
            }
        }
        Batches(batches)
    }

    fn send_to_receiver(&self, up: Outgoing) {
        if self.receiver.send(up).is_err() {
            crate::fail("the receiver's thread has ended");
        }
    }

    fn await_acknowledgement(&self) {
        if self.ended {
            self.deadline.wait_for(
                "waiting for the last batches to be classified, and for the receiver to finish the job",
            );
        } else if self.issuer.is_idle() {
            self.deadline.rest();
        } else {
            self.deadline.wait_for("waiting for batches to be classified, and acknowledged by the receiver");
        }
    }
}
