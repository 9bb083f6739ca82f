//! Runs a worker's model. A slow model gets its own thread: on the timely worker's thread it would block the other operators,
//! above all the source.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use protocol::results::ResultBatch;
use timely::scheduling::{Activator, SyncActivator};

use crate::batch::Batch;
use crate::classify::{Classifier, Work};
use crate::metrics::WorkerMetrics;
use crate::model::Place;

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
        if classifier.place() == Place::Worker {
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
                // When the worker has ended, the process is ending.
                work_through(classifier, &work, &counted, |results| {
                    done.send(results).is_ok() && wake.activate().is_ok()
                });
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
                    let results = classifier.classify(batch).unwrap_or_else(|e| crate::leave_generation(e));
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

/// Classifies batches until there are no more, or `done` returns `false`. If the model cannot be started, leaves the
/// generation: a restarted process may succeed.
fn work_through(
    mut classifier: Classifier,
    batches: &Receiver<Batch>,
    metrics: &WorkerMetrics,
    mut done: impl FnMut(ResultBatch<Vec<u8>>) -> bool,
) {
    let is_ahead = classifier.place() == Place::Process;
    let begin = |classifier: &mut Classifier, work: &mut Work| {
        metrics.lock().begin(Instant::now());
        classifier.begin(work).unwrap_or_else(|error| crate::leave_generation(error));
    };
    // A batch that is ready.
    let mut ahead: Option<Work> = None;
    loop {
        let mut work = match ahead.take() {
            Some(work) => work,
            None => match batches.recv() {
                Ok(batch) => classifier.check(batch),
                Err(_) => return,
            },
        };
        if !work.has_begun() {
            begin(&mut classifier, &mut work);
        }
        if is_ahead && let Ok(batch) = batches.try_recv() {
            ahead = Some(classifier.check(batch));
        }
        if classifier.wait(&mut work)
            && let Some(next) = &mut ahead
        {
            begin(&mut classifier, next);
        }
        let results = classifier.finish(work, ahead.as_mut());
        let results = results.unwrap_or_else(|error| crate::leave_generation(error));
        metrics.lock().done(&results, Instant::now());
        if !done(results) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use proptest::prelude::*;
    use protocol::frame;

    use super::*;
    use crate::model::{Columns, Model, ModelError, Request, Verdict};

    /// The first bytes of the batches that were sent, answered and appended.
    type Steps = Arc<Mutex<Vec<(char, u8)>>>;

    /// A model in another process, as far as its caller can tell. It fails for records that say so, at the step that they name.
    struct Distant {
        place: Place,
        steps: Steps,
        /// The request that it has.
        sent: Option<Vec<Vec<u8>>>,
    }

    impl Distant {
        fn step(&self, step: char, records: &[Vec<u8>]) -> Result<(), ModelError> {
            self.steps.lock().push((step, records[0][0]));
            let failing = records.iter().find(|record| record[1] == step as u8);
            failing.map_or(Ok(()), |record| {
                let verdict = match record[2] {
                    b'h' => Verdict::Hung,
                    b'p' => Verdict::Permanent,
                    _ => Verdict::Retry,
                };
                Err(ModelError { message: format!("{step} failed"), verdict })
            })
        }
    }

    impl Model for Distant {
        fn send(&mut self, request: &Request<'_>) -> Result<(), ModelError> {
            assert_eq!(self.sent, None, "the model has one request at a time");
            let records: Vec<_> = request.records.iter().map(|record| record.bytes.to_vec()).collect();
            self.step('s', &records)?;
            self.sent = Some(records);
            Ok(())
        }

        fn recv(&mut self) -> Result<Vec<u8>, ModelError> {
            let records = self.sent.take().expect("the model has a request");
            self.step('r', &records)?;
            Ok(records.join(&b'\n'))
        }

        fn append(
            &mut self,
            answer: Vec<u8>,
            request: &Request<'_>,
            results: &mut Vec<u8>,
        ) -> Result<Columns, ModelError> {
            let records: Vec<_> = request.records.iter().map(|record| record.bytes.to_vec()).collect();
            assert_eq!(answer, records.join(&b'\n'), "the answer is for another request");
            results.extend_from_slice(&answer);
            self.step('a', &records)?;
            results.push(b'\n');
            Ok(Columns::default())
        }

        fn timeout(&self) -> Duration {
            Duration::from_secs(60)
        }

        fn place(&self) -> Place {
            self.place
        }
    }

    fn run(batches: &[Vec<String>], place: Place, steps: &Steps) -> Vec<ResultBatch<Vec<u8>>> {
        let model = Distant { place, steps: Arc::clone(steps), sent: None };
        let (sender, receiver) = channel();
        for (number, rows) in (0..).zip(batches) {
            let mut frames = Vec::new();
            rows.iter().for_each(|row| frame::push(&mut frames, row.as_bytes()));
            let batch = Batch {
                number,
                rows: rows.len() as u32,
                header: "A".into(),
                frames: frames.into(),
                ..Batch::default()
            };
            sender.send(batch).unwrap();
        }
        drop(sender);
        let mut all = Vec::new();
        let metrics = WorkerMetrics::default();
        work_through(Classifier::new(Box::new(model)), &receiver, &metrics, |results| {
            all.push(results);
            true
        });
        all
    }

    proptest! {
        #[test]
        fn a_model_that_is_given_batches_ahead_returns_the_same_in_the_same_order(
            batches in prop::collection::vec(prop::collection::vec("[a-z]([.sra][hpr]|[.][.])", 0..6), 0..8),
        ) {
            let one_by_one = run(&batches, Place::Thread, &Steps::default());
            prop_assert_eq!(run(&batches, Place::Process, &Steps::default()), one_by_one);
        }
    }

    #[test]
    fn the_next_batch_is_sent_before_the_results_of_the_last_are_appended() {
        let batch = |rows: &[&str]| rows.iter().map(|&row| row.to_owned()).collect();
        let steps = Steps::default();
        run(&[batch(&["a.."]), batch(&["b.."]), batch(&["c.."])], Place::Process, &steps);
        let steps: Vec<_> =
            steps.lock().iter().map(|&(step, row)| format!("{step}{}", row as char)).collect();
        assert_eq!(steps, ["sa", "ra", "sb", "aa", "rb", "sc", "ab", "rc", "ac"]);
    }
}
