//! Inputs: fake rows, CSVs, and what can be read as a CSV.

mod compressed;
mod converted;
mod csv;
mod fake;
mod files;
mod reading;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use columns::Survey;
use protocol::frame;

pub use csv::{Csv, Options};
pub use fake::{Fake, write_csv};
pub use files::Files;
pub use reading::Reading;

/// The approximate size of one write, in bytes of frames: the size at which loopback TCP is fastest.
pub const WRITE_SIZE: usize = 128 << 10;

/// The first rows of a stream decide the types of its columns.
const SURVEYED_ROWS: u64 = 1000;
/// They are those that arrive within this time, if that are fewer.
const SURVEY_TIME: Duration = Duration::from_secs(10);

/// The size of an input, and how much of it has been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// The number of all rows, if known.
    pub rows_total: Option<u64>,
    /// Bytes read so far, of a compressed input compressed ones; 0 for fake rows.
    pub bytes: u64,
    /// The number of all bytes, if known.
    pub bytes_total: Option<u64>,
}

/// How much of an input has been read, if it is no plain text.
#[derive(Debug, Clone, Default)]
struct Consumed(Arc<AtomicU64>);

impl Consumed {
    /// In bytes.
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Checks that an input's files have not changed; its errors name the file.
pub type Watch = Box<dyn Fn() -> anyhow::Result<()> + Send>;

/// Returns rows in order, and can seek where the input allows it.
pub trait Input {
    fn header(&self) -> &[u8];

    /// Makes `row`, counted from 0, the next row.
    ///
    /// # Errors
    /// When the input cannot go back that far, or has fewer rows.
    fn seek(&mut self, row: u64) -> anyhow::Result<()>;

    /// Appends the next rows to `out` as frames, about [`WRITE_SIZE`] bytes at most. Appends nothing at the end of the input.
    ///
    /// # Errors
    /// When the input cannot be read.
    fn fill(&mut self, out: &mut Vec<u8>) -> anyhow::Result<()>;

    /// The number of the next row; at the end of the input, the number of all rows.
    fn position(&self) -> u64;

    fn extent(&self) -> Extent;

    /// Identifies the input's files; `None` if there are none.
    fn identity(&self) -> Option<String> {
        None
    }

    /// Detects changes of the input's files; `None` if there are none.
    fn watch(&self) -> Option<Watch> {
        None
    }

    /// Checks that the input has not changed.
    ///
    /// # Errors
    /// When it has; says what has changed.
    fn check(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Rows before this one will not be requested again.
    fn forget(&mut self, _before: u64) {}

    /// The types of the columns, and some of the rows: the first [`SURVEYED_ROWS`], unless all rows can be read twice. Call this
    /// before any row is read.
    ///
    /// # Errors
    /// When the input cannot be read.
    fn survey(&mut self) -> anyhow::Result<Survey> {
        let (mut first, began) = (Vec::new(), Instant::now());
        while self.position() < SURVEYED_ROWS && (first.is_empty() || began.elapsed() < SURVEY_TIME) {
            let mut out = Vec::new();
            self.fill(&mut out)?;
            if out.is_empty() {
                break;
            }
            first.extend(out);
        }
        self.seek(0)?;
        let records = frame::rows(&first).take(SURVEYED_ROWS as usize).filter_map(|row| match row {
            frame::Row::Whole(record) => Some(record),
            frame::Row::Flawed { .. } => None,
        });
        let records: Vec<_> = records.collect();
        let width = records::count(self.header()).unwrap_or(0);
        Ok(Survey { rows: self.extent().rows_total, ..Survey::of_first(&records, width) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn rows(input: &mut dyn Input) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let mut out = Vec::new();
            input.fill(&mut out).unwrap();
            if out.is_empty() {
                return all;
            }
            all.extend(frame::payloads(&out).map(<[u8]>::to_vec));
        }
    }

    #[test]
    fn fake_rows_are_the_same_from_any_start() {
        let all = rows(&mut Fake::new(3, 3000));
        let mut later = Fake::new(3, 3000);
        later.seek(1234).unwrap();
        assert_eq!(rows(&mut later), all[1234..]);
        assert!(later.seek(3001).is_err());
    }
}
