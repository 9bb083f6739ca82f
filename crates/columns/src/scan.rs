//! The types of a whole input's columns.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use parking_lot::Mutex;
use records::{Dialect, Reader};

use crate::sample::Sampler;
use crate::{ColumnType, Inference, Survey};

/// About how many bytes of rows a thread examines at a time.
const BLOCK: usize = 1 << 20;

/// Rows that follow each other.
#[derive(Default)]
struct Block {
    /// Its position among the blocks, from 0.
    number: u64,
    records: Vec<u8>,
    /// Where each record ends.
    ends: Vec<usize>,
}

/// What is known of the columns after the blocks so far.
#[derive(Default)]
struct Columns {
    columns: Vec<Inference>,
    next: u64,
    /// Blocks that were examined before an earlier one.
    waiting: BTreeMap<u64, Vec<Inference>>,
}

/// Surveys CSVs of one dialect with the same header to their end, on all cores; finds nothing without a header. `limit` is the
/// most bytes of a row.
///
/// Rows that a job would reject do not count: bad rows and those that [`records::check_record`] refuses.
///
/// # Errors
/// Those of the input.
pub fn survey<R: Read>(
    inputs: impl IntoIterator<Item = io::Result<R>>,
    limit: usize,
    dialect: Dialect,
) -> io::Result<Survey> {
    scan(inputs, limit, dialect, std::thread::available_parallelism().map_or(1, usize::from))
}

/// The same. Splits the input into rows on this thread, and examines them on `threads` others.
fn scan<R: Read>(
    inputs: impl IntoIterator<Item = io::Result<R>>,
    limit: usize,
    dialect: Dialect,
    threads: usize,
) -> io::Result<Survey> {
    let mut inputs = inputs.into_iter();
    let Some(first) = inputs.next() else { return Ok(Survey::default()) };
    let mut reader = Reader::with_dialect(first?, limit, dialect);
    let header = match reader.next_row()? {
        Some(row) if row.flaw.is_none() => row.bytes,
        _ => return Ok(Survey::default()),
    };
    let Ok(width) = records::count(header) else { return Ok(Survey::default()) };
    let known = Mutex::new(Columns { columns: vec![Inference::default(); width], ..Columns::default() });
    // One waiting block for each thread keeps the threads busy, and takes little memory.
    let (sender, blocks) = sync_channel(threads);
    let blocks = Arc::new(Mutex::new(blocks));
    let (mut rows, mut sampler) = (0, Sampler::default());
    std::thread::scope(|scope| {
        // The threads own the receiver, so that sending fails when they have panicked.
        for blocks in std::iter::repeat_n(blocks, threads.max(1)) {
            let known = &known;
            scope.spawn(move || examine(&blocks, width, known));
        }
        let mut block = Block::default();
        loop {
            let Some(row) = reader.next_row()? else {
                let Some(next) = inputs.next() else { break };
                reader = Reader::with_dialect(next?, limit, dialect);
                // Its header.
                reader.next_row()?;
                continue;
            };
            rows += 1;
            // Empty rows are no records either.
            if row.flaw.is_some() || row.bytes.is_empty() {
                continue;
            }
            sampler.see(row.bytes);
            block.records.extend_from_slice(row.bytes);
            block.ends.push(block.records.len());
            if block.records.len() >= BLOCK {
                let next = Block { number: block.number + 1, ..Block::default() };
                if sender.send(std::mem::replace(&mut block, next)).is_err() {
                    break;
                }
            }
        }
        // An error here is a thread's panic, which the scope passes on. The threads end when there is no more to receive.
        let _ = sender.send(block);
        drop(sender);
        io::Result::Ok(())
    })?;
    let known = known.into_inner();
    let types = known.columns.iter().map(Inference::column_type).collect();
    Ok(Survey { types, rows: Some(rows), sample: sampler.into_records() })
}

/// Examines blocks until there are no more.
fn examine(blocks: &Mutex<Receiver<Block>>, width: usize, known: &Mutex<Columns>) {
    loop {
        let block = blocks.lock().recv();
        let Ok(block) = block else { return };
        let columns = block.columns(width);
        known.lock().add(block.number, columns);
    }
}

impl Block {
    fn columns(&self, width: usize) -> Vec<Inference> {
        let mut begin = 0;
        let records = self.ends.iter().map(|&end| &self.records[std::mem::replace(&mut begin, end)..end]);
        examine_all(records, width)
    }
}

/// The type of each of `width` columns of these records, as of a whole input. Records that a job would reject do not count.
pub fn of_records<'a>(records: impl Iterator<Item = &'a [u8]>, width: usize) -> Vec<ColumnType> {
    examine_all(records, width).iter().map(Inference::column_type).collect()
}

fn examine_all<'a>(records: impl Iterator<Item = &'a [u8]>, width: usize) -> Vec<Inference> {
    let mut columns = vec![Inference::default(); width];
    let mut buffer = Vec::new();
    for record in records {
        if memchr::memchr(0, record).is_some() {
            continue;
        }
        let Ok(shape) = records::check_record(record, width) else { continue };
        let mut column = columns.iter_mut();
        if !shape.special {
            column.zip(record.split(|&byte| byte == b',')).for_each(|(column, value)| column.add(value));
            continue;
        }
        // Its values have been counted, so they can be read.
        let _ = records::for_each(record, &mut buffer, |value| {
            if let Some(column) = column.next() {
                column.add(value);
            }
        });
    }
    columns
}

impl Columns {
    /// Adds what is known of a block. The order of blocks matters.
    fn add(&mut self, number: u64, block: Vec<Inference>) {
        self.waiting.insert(number, block);
        while let Some(block) = self.waiting.remove(&self.next) {
            for (column, next) in self.columns.iter_mut().zip(&block) {
                column.append(next);
            }
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDARD: Dialect = Dialect { delimiter: b',', quote: Some(b'"'), comment: None };

    fn types(csv: &str) -> Vec<ColumnType> {
        scan([Ok(csv.as_bytes())], 1000, STANDARD, 2).unwrap().types
    }

    #[test]
    fn rows_of_another_dialect_have_the_same_types() {
        use ColumnType::{Float64, Int64, String};
        let dialect = Dialect { delimiter: b';', comment: Some(b'#'), ..STANDARD };
        let csv = "# a,b\nA;B;C\n1;2.5;1,5\n# x;y;z\n\"2\";3;\"a;b\"\n\"4;x;y\n";
        let survey = scan([Ok(csv.as_bytes()), Ok(b"A;B;C\n5;6;7")], 1000, dialect, 2).unwrap();
        assert_eq!((survey.types, survey.rows), (vec![Int64, Float64, String], Some(4)));
        assert_eq!(survey.sample, [&b"1,2.5,\"1,5\""[..], b"2,3,a;b", b"5,6,7"]);
    }

    #[test]
    fn rows_that_a_job_rejects_do_not_count() {
        use ColumnType::{Float64, Int64, NullableBool, String};
        assert_eq!(types("A,B\n1,2\n7\0,3\n"), [Int64, Int64]);
        assert_eq!(types(""), []);
        assert_eq!(types("A,B\n"), [String, String]);
        assert_eq!(types("A,B,C\n1,\"2.5\",TRUE\n2,x\n3,4,\n\n\"5,y,z\n"), [Int64, Float64, NullableBool]);
        let survey = scan([Ok(&b"A\n1\n\xff\n\n2\n"[..])], 1000, STANDARD, 1).unwrap();
        assert_eq!((survey.types, survey.rows), (vec![Int64], Some(4)));
        assert_eq!(survey.sample, [&b"1"[..], b"\xff", b"2"]);
    }

    #[test]
    fn blocks_count_in_their_order() {
        // Pandas finds strings if the integer beyond 64 bits comes before the decimal number, else decimals.
        let block = |value: &str| {
            let block = Block { number: 0, records: value.into(), ends: vec![value.len()] };
            block.columns(1)
        };
        let (huge, decimal) = ("18446744073709551616", "0.5");
        for (first, second, expected) in
            [(huge, decimal, ColumnType::String), (decimal, huge, ColumnType::Float64)]
        {
            let mut columns = Columns { columns: vec![Inference::default()], ..Columns::default() };
            columns.add(1, block(second));
            columns.add(0, block(first));
            assert_eq!(columns.columns[0].column_type(), expected);
        }
    }

    #[test]
    fn the_number_of_threads_does_not_matter() {
        let rows = "1\n".repeat(BLOCK);
        let csv = ["A\n", &rows, "0.5\n", &rows, "x\n"].concat();
        for threads in [0, 1, 2, 7] {
            let survey = scan([Ok(csv.as_bytes())], 1000, STANDARD, threads).unwrap();
            assert_eq!(survey.types, [ColumnType::String]);
        }
    }
}
