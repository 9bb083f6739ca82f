//! The source operator's work: numbers batches, and issues them within the window.

use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use wire::results::{FromReceiver, Identity, Outcome, Summary, Totals, Welcome};

use crate::batch::{Batch, Batches};
use crate::ingest::{Incoming, Ingest};
use crate::uplink::Up;
use crate::watch::Watch;
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
}

/// The state of the source.
pub struct Source {
    ingest: Ingest,
    window: Window,
    /// What the receiver says.
    heard: Receiver<FromReceiver>,
    /// To the receiver.
    uplink: Sender<Up>,
    /// Watches over acknowledgements.
    watch: Watch,
    clock: Instant,
    next_row: u64,
    next_batch: u64,
    /// A batch that the window has no room for.
    held: Option<Incoming>,
    /// Of the settings.
    settings: u64,
    identified: bool,
    ended: bool,
}

/// What a turn of the source brought.
pub enum Turn {
    /// Batches to send, perhaps none.
    Issued(Batches),
    /// All is durable, and the sender is being told.
    Done(Summary),
}

impl Source {
    /// A source over this many workers, from where the job stands.
    pub fn new(
        ingest: Ingest,
        heard: Receiver<FromReceiver>,
        uplink: Sender<Up>,
        watch: Watch,
        limits: Limits,
        workers: usize,
        job: Job,
    ) -> Self {
        let Job { welcome, settings } = job;
        Self {
            ingest,
            window: Window::new(limits, workers, welcome.next),
            heard,
            uplink,
            watch,
            clock: Instant::now(),
            next_row: welcome.next_row,
            next_batch: welcome.next,
            held: None,
            settings,
            identified: false,
            ended: false,
        }
    }

    /// Takes in what the receiver says, then issues what the window has room for.
    pub fn turn(&mut self) -> Turn {
        let now = self.clock.elapsed();
        while let Ok(heard) = self.heard.try_recv() {
            match heard {
                FromReceiver::Acknowledgement(acknowledgement) => {
                    let before = self.window.acknowledged();
                    self.window.acknowledge(acknowledgement.next);
                    self.window.hold(acknowledgement.held);
                    for (worker, count) in &acknowledgement.received {
                        self.window.received(*worker as usize, *count, now);
                    }
                    if self.window.acknowledged() > before || !acknowledgement.received.is_empty() {
                        self.await_acknowledgement();
                    }
                }
                FromReceiver::Outcome(Outcome::Done(summary)) => {
                    self.watch.rest();
                    return Turn::Done(summary);
                }
                FromReceiver::Outcome(Outcome::Failed(reason)) => {
                    self.ingest.conclude(Err(reason.clone())).wait(FAREWELL);
                    crate::fail(format_args!("the receiver ended the job: {reason}"));
                }
            }
        }
        let batches = self.issue(now);
        if !batches.0.is_empty() {
            self.await_acknowledgement();
        }
        Turn::Issued(batches)
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
                            Identity { settings: self.settings, header: wire::hash::short(&header) };
                        if self.uplink.send(Up::Identity(identity)).is_err() {
                            crate::fail("the uplink's thread has ended");
                        }
                    }
                    let Some((number, worker)) = self.window.issue(frames.len(), now) else {
                        // Every acknowledgement activates the operator, so it comes back to this.
                        self.held = Some(Incoming::Rows { header, frames, rows });
                        break;
                    };
                    let (first_row, worker) = (self.next_row, worker as u32);
                    batches.push(Batch { number, first_row, rows, worker, header, frames });
                    self.next_row += u64::from(rows);
                    self.next_batch = number + 1;
                }
                Incoming::End => {
                    self.ended = true;
                    let totals = Totals { rows: self.next_row, batches: self.next_batch };
                    if self.uplink.send(Up::Totals(totals)).is_err() {
                        crate::fail("the uplink's thread has ended");
                    }
                    self.await_acknowledgement();
                }
            }
        }
        Batches(batches)
    }

    fn await_acknowledgement(&self) {
        if self.ended {
            self.watch.wait_for(
                "waiting for the last batches to be classified, and for the receiver to finish the job",
            );
        } else if self.window.is_empty() {
            self.watch.rest();
        } else {
            self.watch.wait_for("waiting for batches to be classified, and acknowledged by the receiver");
        }
    }
}
