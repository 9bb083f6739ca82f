//! A batch on its way through a model.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use columns::{Misfit, Table};
use protocol::frame;
use protocol::results::ResultBatch;
use records::{check_record, write_value};

use crate::batch::Batch;
use crate::model::{Columns, Model, ModelError, NUL, Record, Request, Typed};
use crate::search::Search;

/// The longest results of a batch, in bytes; a row that would exceed it is rejected.
pub(super) const MOST_RESULTS: usize = frame::PEER_LIMIT / 2;
/// About how many bytes the reasons in a batch's rejects may take together; long reasons are cut.
const MOST_REASONS: usize = 16 << 20;

/// A batch with its rows checked, and what has become of them so far.
pub struct Work {
    batch: Batch,
    /// The rows that can be classified.
    good: Vec<Good>,
    /// Their values, if the columns have types.
    table: Table,
    pub(super) search: Search,
    pub(super) has_begun: bool,
    /// The try that is not handled yet.
    pub(super) attempt: Option<Attempt>,
    /// The rows of the latest try if it has failed.
    pub(super) failed: Option<Range<usize>>,
    pub(super) last_hang: String,
    results: Vec<u8>,
    /// Parts of the results that have different columns, each with its first row, counted in the batch.
    pub(super) parts: Vec<(u32, Columns)>,
    rejects: Vec<Reject>,
}

/// Rows that were given to the model.
pub(super) struct Attempt {
    /// Counted among the good ones.
    pub rows: Range<usize>,
    pub limit: Duration,
    pub began: Instant,
    /// What the model has answered, and how long it took.
    pub answer: Option<(Result<Vec<u8>, ModelError>, Duration)>,
}

/// A row that can be classified.
struct Good {
    /// Counted in the batch.
    row: u32,
    /// Where the record lies in the batch's frames.
    start: u32,
    length: u32,
    /// See [`Record`].
    plain: bool,
}

struct Reject {
    /// Counted in the batch.
    row: u32,
    reason: String,
    record: Bytes,
}

impl Work {
    /// Checks which rows can be classified. Reads their values into the table, which must be empty and have the batch's types.
    pub(super) fn new(batch: Batch, mut table: Table, limit: Duration) -> Self {
        // The source admits no malformed header. With 0 columns, every record would be rejected.
        let columns = records::count(&batch.header).unwrap_or(0);
        let mut good = Vec::with_capacity(batch.rows as usize);
        let mut rejects = Vec::new();
        for (row, sent) in (0..).zip(frame::rows(&batch.frames)) {
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
                Ok(shape) => good.push(Good {
                    row,
                    start: (record.as_ptr().addr() - batch.frames.as_ptr().addr()) as u32,
                    length: record.len() as u32,
                    plain: !shape.special,
                }),
                Err(reason) => rejects.push(Reject { row, reason, record: batch.frames.slice_ref(record) }),
            }
        }
        let search = Search::new(good.len(), limit);
        let (results, last_hang) = (Vec::new(), String::new());
        Self {
            batch,
            good,
            table,
            search,
            has_begun: false,
            attempt: None,
            failed: None,
            last_hang,
            results,
            parts: Vec::new(),
            rejects,
        }
    }

    /// Whether [`Classifier::begin`](super::Classifier::begin) was called.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    fn record(&self, good: &Good) -> &[u8] {
        &self.batch.frames[good.start as usize..][..good.length as usize]
    }

    /// Calls `with` with the request for these of the good rows.
    pub(super) fn request<T>(
        &self,
        rows: Range<usize>,
        limit: Duration,
        with: impl FnOnce(&Request<'_>) -> T,
    ) -> T {
        let good = &self.good[rows.clone()];
        let record = |good: &Good| Record { bytes: self.record(good), plain: good.plain };
        let records: Vec<_> = good.iter().map(record).collect();
        let number = |good: &Good| self.batch.first_row + u64::from(good.row);
        let numbers = good.first().map(number).zip(good.last().map(number));
        let typed = Typed { table: &self.table, rows };
        with(&Request { header: &self.batch.header, records: &records, typed, numbers, limit })
    }

    /// Appends the results in a model's answer for these of the good rows.
    ///
    /// # Errors
    /// The answer has no result for all of them. Then nothing is appended.
    pub(super) fn append(
        &mut self,
        model: &mut dyn Model,
        answer: Vec<u8>,
        rows: Range<usize>,
        limit: Duration,
    ) -> Result<(), ModelError> {
        let mut results = std::mem::take(&mut self.results);
        if results.capacity() == 0 {
            // A score and its comma take at most 24 bytes, and the line end one; minus the frame's length of four.
            results.reserve(self.batch.frames.len() + self.good.len() * 21);
        }
        let before = results.len();
        let first = self.good[rows.start].row;
        let columns = self.request(rows, limit, |request| model.append(answer, request, &mut results));
        let columns = columns.and_then(|columns| within_limit(&results).map(|()| columns));
        if columns.is_err() {
            results.truncate(before);
        }
        self.results = results;
        let columns = columns?;
        if self.parts.last().is_none_or(|(_, before)| *before != columns) {
            self.parts.push((first, columns));
        }
        Ok(())
    }

    /// Rejects these of the good rows.
    pub(super) fn reject(&mut self, rows: Range<usize>, reason: &str) {
        for good in &self.good[rows] {
            let record = self.batch.frames.slice_ref(self.record(good));
            self.rejects.push(Reject { row: good.row, reason: reason.to_owned(), record });
        }
    }

    /// The results, whose parts have this encoded schema, and the table.
    pub(super) fn into_results(mut self, schema: Vec<u8>) -> (ResultBatch<Vec<u8>>, Table) {
        self.rejects.sort_unstable_by_key(|reject| reject.row);
        let longest_reason = (MOST_REASONS / self.rejects.len().max(1)).clamp(64, 1024);
        let first_row = self.batch.first_row;
        let lines = self.rejects.iter().flat_map(|reject| reject.line(first_row, longest_reason));
        let results = ResultBatch {
            number: self.batch.number,
            first_row,
            rows: self.batch.rows,
            rejected: self.rejects.len() as u32,
            worker: self.batch.worker,
            schema,
            rejects: lines.collect(),
            results: self.results,
        };
        (results, self.table)
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

impl Reject {
    /// The reject's line in the file; the batch begins with the row `first_row`.
    fn line(&self, first_row: u64, longest_reason: usize) -> Vec<u8> {
        let mut line = format!("{},", first_row + u64::from(self.row)).into_bytes();
        let mut reason = &self.reason[..self.reason.floor_char_boundary(longest_reason)];
        let cut;
        if reason.len() < self.reason.len() {
            cut = format!("{reason} …");
            reason = &cut;
        }
        write_value(reason.as_bytes(), &mut line);
        line.push(b',');
        write_value(&self.record, &mut line);
        line.push(b'\n');
        line
    }
}
