//! Runs a worker's model. A slow model gets its own thread: on the timely worker's thread it would block the other operators,
//! above all the source.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use protocol::results::ResultBatch;
use timely::scheduling::{Activator, SyncActivator};

use crate::batch::Batch;
use crate::classify::Classifier;
use crate::metrics::WorkerMetrics;

/// How long a model may take to end.
const END_TIME: Duration = Duration::from_secs(5);
/// A quick model yields to the other operators after this long.
const TURN: Duration = Duration::from_millis(2);

/// Classifies a worker's batches.
pub enum ModelExecutor {
    /// On the timely worker's thread.
    Inline {
        classifier: Box<Classifier>,
        /// Batches to classify.
        waiting: VecDeque<Batch>,
        /// Schedules the operator again when batches are left after its turn.
        again: Activator,
        metrics: WorkerMetrics,
    },
    /// On the model's own thread.
    Threaded {
        /// To the thread, until this is dropped.
        batches: Option<Sender<Batch>>,
        /// From the thread.
        results: Receiver<ResultBatch<Vec<u8>>>,
        /// How many batches the thread has.
        in_flight: usize,
        metrics: WorkerMetrics,
        /// Closes when the model has ended.
        end: Receiver<()>,
    },
}

impl Drop for ModelExecutor {
    /// Waits for the end of an idle model.
    fn drop(&mut self) {
        if let Self::Threaded { batches, end, .. } = self {
            drop(batches.take());
            let _ = end.recv_timeout(END_TIME);
        }
    }
}

impl ModelExecutor {
    /// For a slow model, starts a thread, which activates the operator through `wake` when a batch is done.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(
        classifier: Classifier,
        metrics: WorkerMetrics,
        again: Activator,
        wake: SyncActivator,
    ) -> anyhow::Result<Self> {
        metrics.lock().add_model(classifier.model_metrics());
        if classifier.is_quick() {
            return Ok(Self::Inline {
                classifier: Box::new(classifier),
                waiting: VecDeque::new(),
                again,
                metrics,
            });
        }
        let (batches, work) = channel::<Batch>();
        let (done, results) = channel();
        let (ending, end) = channel::<()>();
        let counted = metrics.clone();
        std::thread::Builder::new()
            .name("model".into())
            .spawn(move || {
                let _ending = ending;
                let mut classifier = classifier;
                while let Ok(batch) = work.recv() {
                    counted.lock().begin(Instant::now());
                    let results = classify(&mut classifier, &batch);
                    counted.lock().done(&results, Instant::now());
                    // When the worker has ended, the process is ending.
                    if done.send(results).is_err() || wake.activate().is_err() {
                        return;
                    }
                }
            })
            .context("starting a model's thread")?;
        Ok(Self::Threaded { batches: Some(batches), results, in_flight: 0, metrics, end })
    }

    pub fn push(&mut self, batch: Batch) {
        match self {
            Self::Inline { waiting, metrics, .. } => {
                metrics.lock().arrive(Instant::now());
                waiting.push_back(batch);
            }
            Self::Threaded { batches, in_flight, metrics, .. } => {
                *in_flight += 1;
                metrics.lock().arrive(Instant::now());
                if batches.as_ref().is_none_or(|batches| batches.send(batch).is_err()) {
                    crate::fail("the model's thread has ended");
                }
            }
        }
    }

    /// Returns results in the order of their batches. Inline, this classifies for one turn; threaded, it returns finished
    /// results.
    pub fn work(&mut self) -> Vec<ResultBatch<Vec<u8>>> {
        match self {
            Self::Inline { classifier, waiting, again, metrics } => {
                let start = Instant::now();
                let (mut now, mut done) = (start, Vec::new());
                let mut metrics = metrics.lock();
                while let Some(batch) = waiting.pop_front() {
                    metrics.begin(now);
                    let results = classify(classifier, &batch);
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
            Self::Threaded { results, in_flight, .. } => {
                let done: Vec<_> = results.try_iter().collect();
                *in_flight -= done.len();
                done
            }
        }
    }

    /// Whether the results of all batches have been returned.
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Inline { waiting, .. } => waiting.is_empty(),
            Self::Threaded { in_flight, .. } => *in_flight == 0,
        }
    }
}

/// Classifies a batch. If the model cannot be started, leaves the generation: a restarted process may succeed.
fn classify(classifier: &mut Classifier, batch: &Batch) -> ResultBatch<Vec<u8>> {
    classifier.classify(batch).unwrap_or_else(|error| crate::leave_generation(error))
}
