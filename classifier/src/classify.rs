//! Turns a batch of rows into a batch of results: checks which records can be classified, and handles a failing model. Pure
//! but for the model, whose calls it times.

use std::ops::Range;
use std::time::Instant;

use columns::{Misfit, Survey, Table};
use protocol::frame;
use protocol::results::ResultBatch;
use protocol::schema::encode_parts;
use records::{check_record, write_value};

use crate::batch::Batch;
use crate::measure::{self, Room};
use crate::metrics::ModelMetrics;
use crate::model::{Columns, Model, ModelError, NUL, Record, Request, Typed, Verdict};
use crate::search::{End, Next, Pace, Search};

/// The longest results of a batch, in bytes; a row that would exceed it is rejected.
const MOST_RESULTS: usize = frame::PEER_LIMIT / 2;
/// About how many bytes the reasons in a batch's rejects may take together; long reasons are cut.
const MOST_REASONS: usize = 16 << 20;

/// Classifies batches with one model.
pub struct Classifier {
    model: Box<dyn Model>,
    metrics: ModelMetrics,
    pace: Pace,
    /// The parts of the previous batch, and their encoded schema. The next batch usually has the same.
    schema: (Vec<(u32, Columns)>, Vec<u8>),
    /// The values of the batch, if its columns have types.
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

    /// See [`Model::is_quick`].
    pub fn is_quick(&self) -> bool {
        self.model.is_quick()
    }

    /// Classifies a batch. Each row ends up once, in the results or in the rejects.
    ///
    /// # Errors
    /// When the model cannot be started.
    pub fn classify(&mut self, batch: &Batch) -> Result<ResultBatch<Vec<u8>>, ModelError> {
        // The source admits no malformed header. With 0 columns, every record would be rejected.
        let columns = records::count(&batch.header).unwrap_or(0);
        let mut table = self.table(&batch.types);
        let mut good = Vec::with_capacity(batch.rows as usize);
        let mut rejects = Vec::new();
        for (row, sent) in (batch.first_row..).zip(frame::rows(&batch.frames)) {
            let (checked, record) = match sent {
                frame::Row::Whole(record) => {
                    let checked = check_record(record, columns).map_err(|e| e.to_string());
                    let fits =
                        checked.and_then(|shape| fit(&mut table, record, &batch.header).map(|()| shape));
                    (fits, record)
                }
                frame::Row::Flawed { reason, beginning } => (Err(reason.to_owned()), beginning),
            };
            match checked {
                Ok(shape) => good.push((row, Record { bytes: record, plain: !shape.special })),
                Err(reason) => rejects.push(Reject { row, reason, record }),
            }
        }
        // A score and its comma take at most 24 bytes, and the line end one; minus the frame's length of four.
        let results = Vec::with_capacity(batch.frames.len() + good.len() * 21);
        let mut output = Output { results, rejects, parts: Vec::new() };
        let searched = self.search(&batch.header, &good, &table, &mut output);
        self.table = table;
        searched?;
        let Output { results, mut rejects, parts } = output;
        let parts = parts.into_iter().map(|(row, columns)| ((row - batch.first_row) as u32, columns));
        let schema = self.schema(parts.collect());
        rejects.sort_unstable_by_key(|reject| reject.row);
        let longest_reason = (MOST_REASONS / rejects.len().max(1)).clamp(64, 1024);
        Ok(ResultBatch {
            number: batch.number,
            first_row: batch.first_row,
            rows: batch.rows,
            rejected: rejects.len() as u32,
            worker: batch.worker,
            schema,
            results,
            rejects: rejects.iter().flat_map(|reject| reject.line(longest_reason)).collect(),
        })
    }

    /// An empty table for columns of these types, given as letters.
    fn table(&mut self, types: &[u8]) -> Table {
        let mut table = std::mem::take(&mut self.table);
        // The source sends no other letters.
        let types = columns::of_letters(types).unwrap_or_default();
        if table.types() != types {
            return Table::new(types);
        }
        table.clear();
        table
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

    /// Classifies records, in the parts that a [`Search`] returns. Records that fail alone are rejected with the model's
    /// reason.
    fn search<'a>(
        &mut self,
        header: &[u8],
        records: &[(u64, Record<'a>)],
        table: &Table,
        output: &mut Output<'a>,
    ) -> Result<(), ModelError> {
        let plain: Vec<_> = records.iter().map(|(_, record)| *record).collect();
        let mut search = Search::new(records.len(), self.model.timeout());
        let mut last_hang = String::new();
        let mut failed = None;
        while let Some(next) = search.next(self.pace) {
            let (rows, limit) = match next {
                Next::Try(rows, limit) => (rows, limit),
                Next::GiveUp(rows) => {
                    let reason = format!(
                        "other rows of its batch took too long, and it was not tried alone: {last_hang}"
                    );
                    output.reject(&records[rows], &reason);
                    continue;
                }
            };
            self.count_try(failed.take(), &rows);
            self.model.prepare()?;
            let numbers = (records[rows.start].0, records[rows.end - 1].0);
            let typed = Typed { table, rows: rows.clone() };
            let request =
                Request { header, records: &plain[rows.clone()], typed, numbers: Some(numbers), limit };
            let began = Instant::now();
            let outcome = output.classify(&mut *self.model, &request, numbers.0);
            let end = match &outcome {
                Ok(()) => End::Done,
                Err(error) => match error.verdict {
                    Verdict::NotTried => return outcome,
                    Verdict::Retry => End::Failed { permanent: false },
                    Verdict::Permanent => End::Failed { permanent: true },
                    Verdict::Hung => {
                        last_hang.clone_from(&error.message);
                        End::Hung
                    }
                },
            };
            let must_reject = search.end(end, began.elapsed(), &mut self.pace);
            if let Err(error) = outcome {
                failed = Some(rows.clone());
                if must_reject {
                    output.reject(&records[rows], &error.message);
                }
            }
        }
        Ok(())
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

/// Appends a record to the table, if its columns have types.
///
/// # Errors
/// A value does not fit its column.
fn fit(table: &mut Table, record: &[u8], header: &[u8]) -> Result<(), String> {
    if table.types().is_empty() {
        return Ok(());
    }
    table.push(record).map_err(|misfit| match misfit {
        Misfit::Nul => NUL.to_owned(),
        Misfit::Value { column, column_type, value } => {
            let names = records::split(header).unwrap_or_default();
            let name = names.get(column).map(|name| String::from_utf8_lossy(name)).unwrap_or_default();
            let value = String::from_utf8_lossy(&value);
            format!("the value {value:?} of the column {name} is not of its type, {column_type}")
        }
    })
}

/// The results and rejects of a batch so far.
struct Output<'a> {
    results: Vec<u8>,
    rejects: Vec<Reject<'a>>,
    /// Parts of the results that have different columns, each with its first row.
    parts: Vec<(u64, Columns)>,
}

impl<'a> Output<'a> {
    /// Appends the results of all records of a request, or of none.
    fn classify(
        &mut self,
        model: &mut dyn Model,
        request: &Request<'_>,
        first_row: u64,
    ) -> Result<(), ModelError> {
        let start = self.results.len();
        let outcome = model.classify(request, &mut self.results);
        match outcome.and_then(|columns| within_limit(&self.results).map(|()| columns)) {
            Ok(columns) => {
                if self.parts.last().is_none_or(|(_, before)| *before != columns) {
                    self.parts.push((first_row, columns));
                }
                Ok(())
            }
            Err(error) => {
                self.results.truncate(start);
                Err(error)
            }
        }
    }

    fn reject(&mut self, records: &[(u64, Record<'a>)], reason: &str) {
        self.rejects.extend(records.iter().map(|record| Reject::new(record, reason.to_owned())));
    }
}

/// Checks that the results of a batch so far are not too long.
fn within_limit(results: &[u8]) -> Result<(), ModelError> {
    if results.len() <= MOST_RESULTS {
        return Ok(());
    }
    Err(ModelError::permanent(format!(
        "with this row, the results of its batch are longer than {MOST_RESULTS} bytes; a smaller --chunk-size may leave \
         room for it"
    )))
}

struct Reject<'a> {
    row: u64,
    reason: String,
    record: &'a [u8],
}

impl<'a> Reject<'a> {
    fn new((row, record): &(u64, Record<'a>), reason: String) -> Self {
        Self { row: *row, reason, record: record.bytes }
    }

    /// The reject's line in the file.
    fn line(&self, longest_reason: usize) -> Vec<u8> {
        let mut line = format!("{},", self.row).into_bytes();
        let mut reason = &self.reason[..self.reason.floor_char_boundary(longest_reason)];
        let cut;
        if reason.len() < self.reason.len() {
            cut = format!("{reason} …");
            reason = &cut;
        }
        write_value(reason.as_bytes(), &mut line);
        line.push(b',');
        write_value(self.record, &mut line);
        line.push(b'\n');
        line
    }
}

#[cfg(test)]
mod tests;
