//! This process's counts for the Monitoring Hub: its workers' and, at the initializer, the source's.
//!
//! An operator holds a lock during its turn; the reporting thread takes it for a moment once a second.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use protocol::results::ResultBatch;
use telemetry::report::{ClassifierCounts, Counts, ModelCounts, SourceCounts, WorkerCounts};
use telemetry::stopwatch::Stopwatch;

/// The counts of a process. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    workers: Vec<WorkerMetrics>,
    source: Mutex<Option<SourceState>>,
}

impl Metrics {
    pub fn new(workers: usize) -> Self {
        let workers = (0..workers).map(|_| WorkerMetrics::default()).collect();
        Self(Arc::new(Shared { workers, source: Mutex::default() }))
    }

    /// The counts of the worker with this index in the process.
    pub fn worker(&self, index: usize) -> WorkerMetrics {
        self.0.workers[index].clone()
    }

    /// Updates the source's counts; the first call creates them.
    pub fn source(&self, count: impl FnOnce(&mut SourceCounts)) {
        count(&mut self.lock_source().get_or_insert_default().counts);
    }

    /// Records whether rows wait for room in the window.
    pub fn full(&self, is_full: bool) {
        self.lock_source().get_or_insert_default().full.set(is_full, Instant::now());
    }

    fn lock_source(&self) -> MutexGuard<'_, Option<SourceState>> {
        self.0.source.lock()
    }

    pub fn counts(&self) -> Counts {
        let now = Instant::now();
        let source = self.lock_source().as_ref().map(|source| {
            let full_ms = source.full.total_ms(now);
            SourceCounts { full_ms, ..source.counts.clone() }
        });
        Counts::Classifier(ClassifierCounts {
            workers: self.0.workers.iter().map(|worker| worker.lock().counts(now)).collect(),
            source,
        })
    }
}

#[derive(Debug, Default)]
struct SourceState {
    counts: SourceCounts,
    full: Stopwatch,
}

/// The counts of a model. Clones share them, so that the hub sees changes while a batch is still being tried.
#[derive(Debug, Clone, Default)]
pub struct ModelMetrics(Arc<Mutex<ModelCounts>>);

impl ModelMetrics {
    /// Updates the counts.
    pub fn count(&self, count: impl FnOnce(&mut ModelCounts)) {
        count(&mut self.0.lock());
    }

    pub fn counts(&self) -> ModelCounts {
        self.0.lock().clone()
    }
}

/// The counts of a worker. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct WorkerMetrics(Arc<Mutex<WorkerState>>);

impl WorkerMetrics {
    /// Locks the counts for a turn of the worker.
    pub fn lock(&self) -> MutexGuard<'_, WorkerState> {
        self.0.lock()
    }
}

#[derive(Debug, Default)]
pub struct WorkerState {
    counts: WorkerCounts,
    busy: Stopwatch,
    /// When each unfinished batch arrived, the oldest first.
    arrived: VecDeque<Instant>,
    /// When the model began the first of them.
    begun: VecDeque<Instant>,
    model: ModelMetrics,
}

impl WorkerState {
    /// Includes the counts of the worker's model.
    pub fn add_model(&mut self, model: ModelMetrics) {
        self.model = model;
    }

    /// Records that a batch has arrived.
    pub fn arrive(&mut self, now: Instant) {
        self.counts.batches_in += 1;
        self.arrived.push_back(now);
    }

    /// Records that the model begins the oldest batch that it has not begun.
    pub fn begin(&mut self, now: Instant) {
        if let Some(arrived) = self.arrived.get(self.begun.len()) {
            self.counts.queue.record(now.saturating_duration_since(*arrived));
        }
        self.begun.push_back(now);
        self.busy.set(true, now);
    }

    /// Records that the oldest batch is finished.
    pub fn done(&mut self, results: &ResultBatch<Vec<u8>>, now: Instant) {
        if let Some(began) = self.begun.pop_front() {
            self.counts.classify.record(now.saturating_duration_since(began));
        }
        self.busy.set(!self.begun.is_empty(), now);
        self.arrived.pop_front();
        self.counts.batches += 1;
        self.counts.rows += u64::from(results.rows);
        self.counts.rejects += u64::from(results.rejected);
    }

    fn counts(&self, now: Instant) -> WorkerCounts {
        let since = |arrived: &Instant| now.saturating_duration_since(*arrived).as_millis() as u64;
        WorkerCounts {
            busy_ms: self.busy.total_ms(now),
            oldest_ms: self.arrived.front().map(since),
            model: self.model.counts(),
            ..self.counts.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_batch_is_counted_as_it_arrives_begins_and_ends() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut worker = WorkerState::default();
        worker.arrive(at(0));
        worker.arrive(at(0));
        worker.begin(at(10));
        let counts = worker.counts(at(30));
        assert_eq!(
            (counts.batches_in, counts.batches, counts.busy_ms, counts.oldest_ms),
            (2, 0, 20, Some(30))
        );
        worker.done(&ResultBatch { rows: 100, rejected: 3, ..ResultBatch::default() }, at(40));
        let counts = worker.counts(at(50));
        assert_eq!((counts.batches, counts.rows, counts.rejects, counts.busy_ms), (1, 100, 3, 30));
        assert_eq!(counts.oldest_ms, Some(50));
        assert_eq!((counts.queue.count(), counts.queue.sum()), (1, Duration::from_millis(10)));
        assert_eq!((counts.classify.count(), counts.classify.sum()), (1, Duration::from_millis(30)));
    }
}
