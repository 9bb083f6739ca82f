//! Turns a batch of rows into a batch of results: checks which records can be classified, and handles a failing model. Pure
//! but for the model, whose calls it times.
//!
//! [`Classifier::classify`] does all of it. While a model works in another process, its caller prepares the next batch:
//!
//! 1. [`Classifier::begin`] gives the rows of a batch to the model, and returns.
//! 2. [`Classifier::check`] prepares the next batch.
//! 3. [`Classifier::wait`] awaits the model, which can begin the next batch then.
//! 4. [`Classifier::finish`] returns the results.

mod work;

use std::ops::Range;
use std::time::Instant;

use columns::{Survey, Table};
use protocol::results::ResultBatch;
use protocol::schema::encode_parts;

use crate::batch::Batch;
use crate::measure::{self, Room};
use crate::metrics::ModelMetrics;
use crate::model::{Columns, Model, ModelError, Place, Verdict};
use crate::search::{End, Next, Pace};
use work::Attempt;
pub use work::Work;

/// Classifies batches with one model.
pub struct Classifier {
    model: Box<dyn Model>,
    metrics: ModelMetrics,
    pace: Pace,
    /// The parts of the previous batch, and their encoded schema. The next batch usually has the same.
    schema: (Vec<(u32, Columns)>, Vec<u8>),
    /// A table that no batch uses.
    table: Table,
}

impl Classifier {
    pub fn new(model: Box<dyn Model>) -> Self {
        let metrics = model.metrics();
        Self { model, metrics, pace: Pace::default(), schema: Default::default(), table: Table::default() }
    }

    pub fn model_metrics(&self) -> ModelMetrics {
        self.metrics.clone()
    }

    /// Measures which number of rows in a batch is good for the model.
    pub fn measure(&mut self, header: &[u8], survey: &Survey) -> u32 {
        measure::chunk_size(&mut *self.model, header, survey, Room { workers: 1, bytes: usize::MAX })
    }

    /// See [`Model::place`].
    pub fn place(&self) -> Place {
        self.model.place()
    }

    /// Classifies a batch. Each row ends up once, in the results or in the rejects.
    ///
    /// # Errors
    /// When the model cannot be started.
    pub fn classify(&mut self, batch: Batch) -> Result<ResultBatch<Vec<u8>>, ModelError> {
        let work = self.check(batch);
        self.finish(work, None)
    }

    /// Checks which rows of a batch can be classified.
    pub fn check(&mut self, batch: Batch) -> Work {
        let mut table = std::mem::take(&mut self.table);
        // The source sends no other letters.
        let types = columns::of_letters(&batch.types).unwrap_or_default();
        if table.types() == types {
            table.clear();
        } else {
            table = Table::new(types);
        }
        Work::new(batch, table, self.model.timeout())
    }

    /// Gives rows of a batch to the model, unless it has some of them, or all rows are done.
    ///
    /// # Errors
    /// When the model cannot be started.
    pub fn begin(&mut self, work: &mut Work) -> Result<(), ModelError> {
        work.has_begun = true;
        while work.attempt.is_none()
            && let Some(next) = work.search.next(self.pace)
        {
            match next {
                Next::Try(rows, limit) => {
                    self.count_try(work.failed.take(), &rows);
                    self.model.prepare()?;
                    let began = Instant::now();
                    let sent = work.request(rows.clone(), limit, |request| self.model.send(request));
                    let answer = sent.err().map(|error| (Err(error), began.elapsed()));
                    work.attempt = Some(Attempt { rows, limit, began, answer });
                }
                Next::GiveUp(rows) => {
                    let hang = &work.last_hang;
                    let reason =
                        format!("other rows of its batch took too long, and it was not tried alone: {hang}");
                    work.reject(rows, &reason);
                }
            }
        }
        Ok(())
    }

    /// Waits until the model has answered for the rows that it has. Returns whether these were the last of the batch, so that
    /// the model can begin the next one.
    pub fn wait(&mut self, work: &mut Work) -> bool {
        let Some(attempt) = &mut work.attempt else { return false };
        let (answer, _) = attempt.answer.get_or_insert_with(|| (self.model.recv(), attempt.began.elapsed()));
        answer.is_ok() && work.search.is_last()
    }

    /// Has all rows of a batch classified, in the parts that its search returns. Rows that fail alone are rejected with the
    /// model's reason. The model may have begun the batch `next`.
    ///
    /// # Errors
    /// When the model cannot be started.
    pub fn finish(
        &mut self,
        mut work: Work,
        mut next: Option<&mut Work>,
    ) -> Result<ResultBatch<Vec<u8>>, ModelError> {
        loop {
            self.begin(&mut work)?;
            self.wait(&mut work);
            let Some(Attempt { rows, limit, answer: Some((answer, took)), .. }) = work.attempt.take() else {
                break;
            };
            let outcome =
                answer.and_then(|answer| work.append(&mut *self.model, answer, rows.clone(), limit));
            let end = match &outcome {
                Ok(()) => End::Done,
                Err(error) => match error.verdict {
                    Verdict::NotTried => return Err(error.clone()),
                    Verdict::Retry => End::Failed { permanent: false },
                    Verdict::Permanent => End::Failed { permanent: true },
                    Verdict::Hung => {
                        work.last_hang.clone_from(&error.message);
                        End::Hung
                    }
                },
            };
            let must_reject = work.search.end(end, took, &mut self.pace);
            if let Err(error) = outcome {
                work.failed = Some(rows.clone());
                if must_reject {
                    work.reject(rows, &error.message);
                }
                // The model has one request at a time.
                if let Some(next) = next.take() {
                    self.wait(next);
                }
            }
        }
        let schema = self.schema(std::mem::take(&mut work.parts));
        let (results, table) = work.into_results(schema);
        self.table = table;
        Ok(results)
    }

    /// Encodes the schema of a batch's parts, each with its first row.
    fn schema(&mut self, parts: Vec<(u32, Columns)>) -> Vec<u8> {
        if parts.is_empty() {
            return Vec::new();
        }
        if parts != self.schema.0 {
            let encoded = encode_parts(parts.iter().map(|(row, columns)| (*row, &**columns)));
            self.schema = (parts, encoded);
        }
        self.schema.1.clone()
    }

    /// Counts a try that follows a failed one: as a retry if it has the same rows, as a split if it has the first of them.
    fn count_try(&self, failed: Option<Range<usize>>, rows: &Range<usize>) {
        let Some(failed) = failed else { return };
        if failed == *rows {
            self.metrics.count(|counts| counts.retries += 1);
        } else if failed.start == rows.start {
            self.metrics.count(|counts| counts.splits += 1);
        }
    }
}

#[cfg(test)]
mod tests;
