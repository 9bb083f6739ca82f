//! The values of a batch of rows, column by column.

use std::collections::HashMap;
use std::ops::Range;

use crate::ColumnType;
use crate::parse::{boolean, float64, int64, is_missing, nullable_int64, uint64};

/// Values of strings that repeat are sent once each, if a part of the table has at most this many different ones.
const MOST_ENTRIES: usize = 1000;
/// How a missing boolean is stored; the others are 0 and 1.
const MISSING: u8 = 2;
/// The alignment of each column, in bytes.
const ALIGNMENT: usize = 8;

/// Typed rows.
#[derive(Debug, Clone, Default)]
pub struct Table {
    types: Vec<ColumnType>,
    columns: Vec<Values>,
    rows: usize,
    /// A buffer for quoted values.
    quoted: Vec<u8>,
}

/// A column's values.
#[derive(Debug, Clone)]
enum Values {
    Signed(Vec<i64>),
    Unsigned(Vec<u64>),
    Decimal(Vec<f64>),
    Boolean(Vec<u8>),
    Text(Text),
}

/// Strings, one after the other.
#[derive(Debug, Clone, Default)]
struct Text {
    bytes: Vec<u8>,
    /// Where each one ends.
    ends: Vec<usize>,
    /// The rows of missing ones, ascending.
    missing: Vec<u32>,
}

/// Why a record does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// It has a NUL, which separates strings in the encoding, and at which pandas ends a value.
    Nul,
    /// A value is not of its column's type.
    Value {
        /// Counted from 0.
        column: usize,
        column_type: ColumnType,
        value: Vec<u8>,
    },
}

impl Table {
    /// A table without rows.
    pub fn new(types: Vec<ColumnType>) -> Self {
        let columns = types.iter().map(|column_type| Values::new(*column_type)).collect();
        Self { types, columns, rows: 0, quoted: Vec::new() }
    }

    pub fn types(&self) -> &[ColumnType] {
        &self.types
    }

    /// Removes all rows.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Appends a record that [`records::check_record`] admits.
    ///
    /// # Errors
    /// The record does not fit; then nothing is appended.
    pub fn push(&mut self, record: &[u8]) -> Result<(), Misfit> {
        if record.contains(&0) {
            return Err(Misfit::Nul);
        }
        let mut next = 0;
        let mut misfit = None;
        let (types, columns) = (&self.types, &mut self.columns);
        // Its values have been counted, so they can be read.
        let _ = records::for_each(record, &mut self.quoted, |value| {
            let column = next;
            next += 1;
            if misfit.is_some() || column >= types.len() {
                return;
            }
            let column_type = types[column];
            if !columns[column].push(column_type, value) {
                misfit = Some(Misfit::Value { column, column_type, value: value.to_vec() });
            }
        });
        match misfit {
            Some(misfit) => {
                self.truncate(self.rows);
                Err(misfit)
            }
            None => {
                self.rows += 1;
                Ok(())
            }
        }
    }

    fn truncate(&mut self, rows: usize) {
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
        self.rows = rows;
    }

    /// Appends these rows to `out`, column by column, each at a multiple of 8 bytes from the beginning of `out`. Numbers have
    /// 8 bytes and booleans one, in the order of this machine.
    ///
    /// Strings begin with three numbers of 8 bytes: how many different ones there are, or 0 if each row has its own; the
    /// bytes of all of them; and how many are missing. Then come the strings, with a NUL between two. Then come numbers of 4 bytes: for different strings, each row's string (a missing one has the number
    /// after the last), else the missing rows.
    pub fn encode(&self, rows: Range<usize>, out: &mut Vec<u8>) {
        for column in &self.columns {
            align(out);
            match column {
                Values::Signed(values) => {
                    extend(values[rows.clone()].iter().map(|value| value.to_ne_bytes()), out);
                }
                Values::Unsigned(values) => {
                    extend(values[rows.clone()].iter().map(|value| value.to_ne_bytes()), out);
                }
                Values::Decimal(values) => {
                    extend(values[rows.clone()].iter().map(|value| value.to_ne_bytes()), out);
                }
                Values::Boolean(values) => out.extend_from_slice(&values[rows.clone()]),
                Values::Text(text) => text.encode(rows.clone(), out),
            }
        }
        align(out);
    }
}

/// Appends the bytes of numbers.
fn extend<const N: usize>(numbers: impl Iterator<Item = [u8; N]>, out: &mut Vec<u8>) {
    numbers.for_each(|bytes| out.extend_from_slice(&bytes));
}

fn align(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
}

impl Values {
    fn new(column_type: ColumnType) -> Self {
        match column_type {
            ColumnType::Int64 => Self::Signed(Vec::new()),
            ColumnType::Uint64 => Self::Unsigned(Vec::new()),
            ColumnType::NullableInt64 | ColumnType::Float64 => Self::Decimal(Vec::new()),
            ColumnType::Bool | ColumnType::NullableBool => Self::Boolean(Vec::new()),
            ColumnType::String | ColumnType::Literal => Self::Text(Text::default()),
        }
    }

    /// Appends a value; returns whether it fits.
    fn push(&mut self, column_type: ColumnType, value: &[u8]) -> bool {
        fn append<T>(values: &mut Vec<T>, value: Option<T>) -> bool {
            let fits = value.is_some();
            values.extend(value);
            fits
        }
        match (self, column_type) {
            (Self::Signed(values), _) => append(values, int64(value)),
            (Self::Unsigned(values), _) => append(values, uint64(value)),
            (Self::Decimal(values), ColumnType::NullableInt64) => append(values, nullable_int64(value)),
            (Self::Decimal(values), _) => {
                let missing = || is_missing(value).then_some(f64::NAN);
                append(values, float64(value).or_else(missing))
            }
            (Self::Boolean(values), ColumnType::NullableBool) => {
                let missing = || is_missing(value).then_some(MISSING);
                append(values, boolean(value).map(u8::from).or_else(missing))
            }
            (Self::Boolean(values), _) => append(values, boolean(value).map(u8::from)),
            (Self::Text(text), _) => {
                text.push(value, column_type == ColumnType::String && is_missing(value));
                true
            }
        }
    }

    fn truncate(&mut self, rows: usize) {
        match self {
            Self::Signed(values) => values.truncate(rows),
            Self::Unsigned(values) => values.truncate(rows),
            Self::Decimal(values) => values.truncate(rows),
            Self::Boolean(values) => values.truncate(rows),
            Self::Text(text) => text.truncate(rows),
        }
    }
}

impl Text {
    fn push(&mut self, value: &[u8], is_missing: bool) {
        if is_missing {
            self.missing.push(self.ends.len() as u32);
        } else {
            self.bytes.extend_from_slice(value);
        }
        self.ends.push(self.bytes.len());
    }

    fn truncate(&mut self, rows: usize) {
        self.ends.truncate(rows);
        self.bytes.truncate(self.ends.last().copied().unwrap_or(0));
        self.missing.truncate(self.missing.partition_point(|row| (*row as usize) < rows));
    }

    fn value(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.bytes[start..self.ends[row]]
    }

    /// The missing rows among these.
    fn missing(&self, rows: &Range<usize>) -> &[u32] {
        let at = |row: usize| self.missing.partition_point(|missing| (*missing as usize) < row);
        &self.missing[at(rows.start)..at(rows.end)]
    }

    fn encode(&self, rows: Range<usize>, out: &mut Vec<u8>) {
        let missing = self.missing(&rows);
        let (entries, codes) = self.entries(&rows, missing).unwrap_or_default();
        let head = out.len();
        out.extend_from_slice(&[0; 24]);
        let start = out.len();
        let mut separator: &[u8] = b"";
        let mut write = |value: &[u8]| {
            out.extend_from_slice(separator);
            out.extend_from_slice(value);
            separator = b"\0";
        };
        if entries.is_empty() {
            rows.clone().for_each(|row| write(self.value(row)));
        } else {
            entries.iter().for_each(|entry| write(entry));
        }
        let length = out.len() - start;
        align(out);
        for (at, number) in [(head, entries.len()), (head + 8, length), (head + 16, missing.len())] {
            out[at..at + 8].copy_from_slice(&(number as u64).to_ne_bytes());
        }
        if entries.is_empty() {
            extend(missing.iter().map(|row| (row - rows.start as u32).to_ne_bytes()), out);
        } else {
            extend(codes.iter().map(|code| code.to_ne_bytes()), out);
        }
    }

    /// The different strings of these rows, and each row's; `None` if too many differ.
    fn entries(&self, rows: &Range<usize>, missing: &[u32]) -> Option<(Vec<&[u8]>, Vec<u32>)> {
        // Where most strings differ, sending each is cheaper.
        let most = MOST_ENTRIES.min(rows.len() / 2);
        let mut numbers = HashMap::new();
        let mut entries = Vec::new();
        let mut codes = Vec::with_capacity(rows.len());
        let mut missing = missing.iter().peekable();
        for row in rows.clone() {
            if missing.next_if(|missing| **missing as usize == row).is_some() {
                codes.push(u32::MAX);
                continue;
            }
            let value = self.value(row);
            let number = *numbers.entry(value).or_insert_with(|| {
                entries.push(value);
                entries.len() as u32 - 1
            });
            if entries.len() > most {
                return None;
            }
            codes.push(number);
        }
        // The number after the last stands for a missing one.
        codes.iter_mut().for_each(|code| *code = (*code).min(entries.len() as u32));
        Some((entries, codes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ColumnType::{Bool, Float64, Int64, Literal, NullableBool, NullableInt64, String, Uint64};

    fn table(types: &[ColumnType], records: &[&str]) -> Table {
        let mut table = Table::new(types.to_vec());
        records.iter().for_each(|record| table.push(record.as_bytes()).unwrap());
        table
    }

    fn encoded(table: &Table, rows: Range<usize>) -> Vec<u8> {
        let mut out = Vec::new();
        table.encode(rows, &mut out);
        assert!(out.len().is_multiple_of(ALIGNMENT));
        out
    }

    fn words<const N: usize>(words: [u64; N]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn numbers_and_booleans_have_their_bytes() {
        let types = [Int64, Uint64, NullableInt64, Float64, Bool, NullableBool];
        let table = table(&types, &["1,2,3,4.5,true,False", "-1,\"2\",NA,,FALSE,", "7,7,7,7,True,true"]);
        let nan = f64::NAN.to_bits();
        let columns = [
            words([-1i64 as u64, 7]),
            words([2, 7]),
            words([nan, 7f64.to_bits()]),
            words([nan, 7f64.to_bits()]),
            vec![0, 1, 0, 0, 0, 0, 0, 0],
            vec![2, 1, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(encoded(&table, 1..3), columns.concat());
    }

    #[test]
    fn strings_that_repeat_are_sent_once() {
        let table = table(&[String], &["b", "a", "", "\"a\"", "b", "b"]);
        // In the order in which they occur.
        let expected =
            [words([2, 3, 1]), b"a\0b\0\0\0\0\0".to_vec(), [0u32, 2, 0, 1].map(u32::to_ne_bytes).concat()];
        assert_eq!(encoded(&table, 1..5), expected.concat());
    }

    #[test]
    fn strings_that_differ_are_sent_in_their_order() {
        let table = table(&[String, Literal], &["x,x", "y,NA", "\"a,b\",\"c\"\"d\"", "null,"]);
        let first = [words([0, 6, 1]), b"y\0a,b\0\0\0".to_vec(), [2u32, 0].map(u32::to_ne_bytes).concat()];
        let second = [words([0, 7, 0]), b"NA\0c\"d\0\0".to_vec()];
        assert_eq!(encoded(&table, 1..4), [first.concat(), second.concat()].concat());
        assert_eq!(encoded(&table, 0..0), words([0; 6]));
    }

    #[test]
    fn a_record_with_a_misfit_leaves_no_trace() {
        let types = [String, Int64, Bool];
        let mut table = table(&types, &["a,1,true"]);
        let before = encoded(&table, 0..1);
        for (record, column, value) in
            [("b,x,true", 1, "x"), ("NA,,true", 1, ""), ("c,2,1", 2, "1"), ("c,2,\"ye\"\"s\"", 2, "ye\"s")]
        {
            let misfit = Misfit::Value { column, column_type: types[column], value: value.into() };
            assert_eq!(table.push(record.as_bytes()), Err(misfit));
            assert_eq!((table.rows, encoded(&table, 0..1)), (1, before.clone()));
        }
        assert_eq!(table.push(b"a\0,1,true"), Err(Misfit::Nul));
        table.clear();
        table.push(b"a,1,true").unwrap();
        assert_eq!(encoded(&table, 0..1), before);
    }
}
