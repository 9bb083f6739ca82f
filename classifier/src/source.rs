//! The source: numbers batches, and issues them within the window.
//!
//! [`Issuer`] decides, and is pure; [`Source`] connects it to the port and to the receiver.

pub mod issuer;

use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use protocol::results::{FromReceiver, Outcome, Summary, Totals, Welcome};

use crate::batch::Batches;
use crate::deadline::Deadline;
use crate::ingest::Ingest;
use crate::metrics::Metrics;
use crate::receiver_client::Outgoing;
use crate::window::Limits;
pub use issuer::Issuer;

/// How long to wait until the sender has received the outcome of a failed job.
const OUTCOME_TIME: Duration = Duration::from_secs(1);

/// The source's view of the job.
#[derive(Debug, Clone)]
pub struct Job {
    /// The job's progress, as the receiver reported it.
    pub welcome: Welcome,
    /// The hash of the settings that determine the results.
    pub settings: u64,
    /// The window's limits.
    pub limits: Limits,
    /// Workers in the cluster.
    pub workers: usize,
}

/// The state of the source.
pub struct Source {
    ingest: Ingest,
    issuer: Issuer,
    /// From the receiver.
    messages: Receiver<FromReceiver>,
    /// To the receiver.
    receiver: Sender<Outgoing>,
    /// For acknowledgements.
    deadline: Deadline,
    clock: Instant,
    /// Whether rows waited for room in the window at the last turn.
    was_full: bool,
    metrics: Metrics,
}

/// The outcome of a turn of the source.
pub enum Turn {
    /// Batches to send; may be empty.
    Issued(Batches),
    /// All results are durable.
    Done(Summary),
}

impl Source {
    /// Starts at the receiver's position.
    pub fn new(
        ingest: Ingest,
        messages: Receiver<FromReceiver>,
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
            issuer: Issuer::new(limits, workers, &welcome, settings),
            messages,
            receiver,
            deadline,
            clock: Instant::now(),
            was_full: false,
            metrics,
        }
    }

    /// Handles the receiver's messages, then issues batches while the window has room.
    pub fn turn(&mut self) -> Turn {
        let now = self.clock.elapsed();
        while let Ok(message) = self.messages.try_recv() {
            match message {
                FromReceiver::Acknowledgement(acknowledgement) => {
                    let is_news = self.issuer.acknowledge(&acknowledgement, now, |took| {
                        self.metrics.source(|counts| counts.transit.record(took));
                    });
                    self.ingest.durable(self.issuer.durable_row());
                    if is_news {
                        self.await_acknowledgement();
                    }
                }
                FromReceiver::Noted => self.issuer.noted(),
                FromReceiver::Outcome(Outcome::Done(summary)) => {
                    self.deadline.clear();
                    self.count();
                    return Turn::Done(summary);
                }
                FromReceiver::Outcome(Outcome::Failed(reason)) => {
                    self.ingest.conclude(Err(reason.clone())).wait(OUTCOME_TIME);
                    crate::fail(format_args!("the receiver ended the job: {reason}"));
                }
            }
        }
        if let Some(reason) = self.ingest.take_failure() {
            // The receiver then ends the job with this reason.
            self.send_to_receiver(Outgoing::Failure(reason));
        }
        let issued = self.issuer.issue(|| self.ingest.next(), now);
        if !issued.batches.is_empty() || !issued.messages.is_empty() {
            self.await_acknowledgement();
        }
        issued.messages.into_iter().for_each(|message| self.send_to_receiver(message));
        self.count();
        Turn::Issued(Batches(issued.batches))
    }

    fn count(&mut self) {
        let held = self.issuer.held_rows();
        let is_full = held > 0;
        if is_full != self.was_full {
            self.was_full = is_full;
            self.metrics.full(is_full);
        }
        let Totals { rows, batches } = self.issuer.totals();
        self.metrics.source(|counts| {
            counts.rows_in = rows + held;
            counts.batches = batches;
            counts.durable_batches = self.issuer.durable_batch();
            counts.window_bytes = self.issuer.window_bytes() as u64;
            counts.ended = self.issuer.has_ended();
        });
    }

    /// Starts to send the outcome of a finished job to the sender.
    pub fn conclude(&self, summary: &Summary) -> crate::ingest::Conclusion {
        self.ingest.conclude(Ok(summary.rows))
    }

    fn send_to_receiver(&self, message: Outgoing) {
        if self.receiver.send(message).is_err() {
            crate::fail("the thread that writes to the receiver has ended");
        }
    }

    fn await_acknowledgement(&self) {
        match self.issuer.waits_for() {
            Some(what) => self.deadline.wait_for(what),
            None => self.deadline.clear(),
        }
    }
}
