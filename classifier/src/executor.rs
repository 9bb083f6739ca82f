//! Slow models run beside the timely worker, never on it: a worker that sleeps for a batch's time would starve
//! whatever else its thread serves, the source above all.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use protocol::results::ResultBatch;
use timely::scheduling::{Activator, SyncActivator};

use crate::batch::Batch;
use crate::classify::Classifier;
use crate::metrics::WorkerMetrics;

/// A quick model gives the thread back after this long, so that other operators come to work.
const TURN: Duration = Duration::from_millis(2);

/// Where a worker's batches are classified.
pub enum ModelExecutor {
    /// On the worker's own thread.
    Here {
        /// The model.
        classifier: Box<Classifier>,
        /// What waits.
        waiting: VecDeque<Batch>,
        /// Brings the operator back when its turn is over and something still waits.
        again: Activator,
        /// Counts.
        metrics: WorkerMetrics,
    },
    /// On a thread of its own.
    Beside {
        /// To the thread.
        batches: Sender<Batch>,
        /// From it.
        results: Receiver<ResultBatch<Vec<u8>>>,
        /// Batches that have not come back.
        away: usize,
        /// Counts.
        metrics: WorkerMetrics,
    },
}

impl ModelExecutor {
    /// A quick model stays here, a slow one gets a thread, which activates the operator when a batch is done.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(
        mut classifier: Classifier,
        metrics: WorkerMetrics,
        again: Activator,
        wake: SyncActivator,
    ) -> anyhow::Result<Self> {
        if classifier.is_quick() {
            return Ok(Self::Here {
                classifier: Box::new(classifier),
                waiting: VecDeque::new(),
                again,
                metrics,
            });
        }
        let (batches, work) = channel::<Batch>();
        let (done, results) = channel();
        let counted = metrics.clone();
        std::thread::Builder::new()
            .name("model".into())
            .spawn(move || {
                while let Ok(batch) = work.recv() {
                    counted.lock().begin(Instant::now());
                    let results = classified(&mut classifier, &batch);
                    counted.lock().done(&results, Instant::now());
                    // The worker is gone when nobody hears; then the process is ending.
                    if done.send(results).is_err() || wake.activate().is_err() {
                        return;
                    }
                }
            })
            .context("starting a model's thread")?;
        Ok(Self::Beside { batches, results, away: 0, metrics })
    }

    /// Takes a batch in.
    pub fn push(&mut self, batch: Batch) {
        match self {
            Self::Here { waiting, metrics, .. } => {
                metrics.lock().arrive(Instant::now());
                waiting.push_back(batch);
            }
            Self::Beside { batches, away, metrics, .. } => {
                *away += 1;
                metrics.lock().arrive(Instant::now());
                if batches.send(batch).is_err() {
                    crate::fail("the model's thread has ended");
                }
            }
        }
    }

    /// Gives out what is done by now, or can be done in this turn, in the order it came.
    pub fn work(&mut self) -> Vec<ResultBatch<Vec<u8>>> {
        match self {
            Self::Here { classifier, waiting, again, metrics } => {
                let start = Instant::now();
                let (mut now, mut done) = (start, Vec::new());
                let mut metrics = metrics.lock();
                while let Some(batch) = waiting.pop_front() {
                    metrics.begin(now);
                    let results = classified(classifier, &batch);
                    now = Instant::now();
                    metrics.done(&results, now);
                    done.push(results);
                    if now - start >= TURN {
                        break;
                    }
                }
                if !waiting.is_empty() {
                    again.activate();
                }
                done
            }
            Self::Beside { results, away, .. } => {
                let done: Vec<_> = results.try_iter().collect();
                *away -= done.len();
                done
            }
        }
    }

    /// Nothing is waiting or away.
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Here { waiting, .. } => waiting.is_empty(),
            Self::Beside { away, .. } => *away == 0,
        }
    }
}

/// Without a model, this process is of no use to the cluster; started again, it may have one.
fn classified(classifier: &mut Classifier, batch: &Batch) -> ResultBatch<Vec<u8>> {
    classifier.classify(batch).unwrap_or_else(|error| crate::leave_generation(error))
}
