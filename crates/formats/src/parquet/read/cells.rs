//! The cells of a column in a row group: decoded in blocks, printed one by one.

use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::DataType;
use ::parquet::errors::{ParquetError, Result};
use columns::print as print_number;

use super::form::Form;
use super::print;

/// The cells of one column.
pub(super) trait Cells {
    /// Decodes this many rows in place of those before, and returns how many values are missing.
    ///
    /// # Errors
    /// The column is damaged, or has fewer rows.
    fn decode(&mut self, rows: usize) -> Result<usize>;

    /// Prints the next of the decoded cells. Returns `false` if its value has no text.
    fn print_next(&mut self, out: &mut Vec<u8>) -> bool;
}

/// Cells of a physical type, and how to print them.
struct Block<T: DataType, P> {
    reader: ColumnReaderImpl<T>,
    print: P,
    /// The values that are not missing.
    values: Vec<T::T>,
    /// 1 for a value and 0 for a missing one. Empty in a column in which none can be missing.
    levels: Vec<i16>,
    next_value: usize,
    next_level: usize,
}

impl<T: DataType, P: FnMut(&T::T, &mut Vec<u8>) -> bool> Cells for Block<T, P> {
    fn decode(&mut self, rows: usize) -> Result<usize> {
        self.values.clear();
        self.levels.clear();
        (self.next_value, self.next_level) = (0, 0);
        let read = self.reader.read_records(rows, Some(&mut self.levels), None, &mut self.values);
        let (read, values, _) = read?;
        if read < rows {
            return Err(ParquetError::General(format!("the column ends {} rows too early", rows - read)));
        }
        Ok(rows - values)
    }

    fn print_next(&mut self, out: &mut Vec<u8>) -> bool {
        let level = self.levels.get(self.next_level);
        self.next_level += 1;
        if level == Some(&0) {
            return true;
        }
        let Some(value) = self.values.get(self.next_value) else { return false };
        self.next_value += 1;
        (self.print)(value, out)
    }
}

/// Cells that this reader decodes and `print` prints; it returns `false` for a value that has no text.
fn block<T: DataType>(
    reader: ColumnReaderImpl<T>,
    print: impl FnMut(&T::T, &mut Vec<u8>) -> bool + 'static,
) -> Box<dyn Cells> {
    Box::new(Block { reader, print, values: Vec::new(), levels: Vec::new(), next_value: 0, next_level: 0 })
}

/// As [`block`], for values that always have a text.
fn sure<T: DataType>(
    reader: ColumnReaderImpl<T>,
    print: impl Fn(&T::T, &mut Vec<u8>) + 'static,
) -> Box<dyn Cells> {
    block(reader, move |value, out| {
        print(value, out);
        true
    })
}

/// The cells that a reader decodes, of values of this form.
pub(super) fn new(reader: ColumnReader, form: Form) -> Box<dyn Cells> {
    match reader {
        ColumnReader::BoolColumnReader(reader) => match form {
            Form::Null => sure(reader, |_, _| {}),
            _ => sure(reader, |value, out| print_number::boolean(*value, out)),
        },
        ColumnReader::Int32ColumnReader(reader) => match form {
            Form::Null => sure(reader, |_, _| {}),
            Form::Unsigned => sure(reader, |value, out| print_number::integer(value.cast_unsigned(), out)),
            Form::Date => sure(reader, |value, out| print::date(i64::from(*value), out)),
            Form::Time(unit) => sure(reader, move |value, out| print::time(i64::from(*value), unit, out)),
            Form::Decimal { scale } => {
                sure(reader, move |value, out| print::decimal(i128::from(*value), scale, out))
            }
            _ => sure(reader, |value, out| print_number::integer(*value, out)),
        },
        ColumnReader::Int64ColumnReader(reader) => match form {
            Form::Null => sure(reader, |_, _| {}),
            Form::Unsigned64 => sure(reader, |value, out| print_number::integer(value.cast_unsigned(), out)),
            Form::Time(unit) => sure(reader, move |value, out| print::time(*value, unit, out)),
            Form::Timestamp { unit, utc } => {
                sure(reader, move |value, out| print::timestamp(*value, unit, utc, out))
            }
            Form::Decimal { scale } => {
                sure(reader, move |value, out| print::decimal(i128::from(*value), scale, out))
            }
            _ => sure(reader, |value, out| print_number::integer(*value, out)),
        },
        ColumnReader::Int96ColumnReader(reader) => sure(reader, print::int96),
        ColumnReader::FloatColumnReader(reader) => {
            sure(reader, |value, out| print_number::float32(*value, out))
        }
        ColumnReader::DoubleColumnReader(reader) => {
            sure(reader, |value, out| print_number::float64(*value, out))
        }
        ColumnReader::ByteArrayColumnReader(reader) => match form {
            Form::Null => sure(reader, |_, _| {}),
            Form::Decimal { scale } => {
                block(reader, move |value, out| print::decimal_bytes(value.data(), scale, out))
            }
            _ => block(reader, |value, out| print::text(value.data(), out)),
        },
        ColumnReader::FixedLenByteArrayColumnReader(reader) => match form {
            Form::Null => sure(reader, |_, _| {}),
            Form::Decimal { scale } => {
                block(reader, move |value, out| print::decimal_bytes(value.data(), scale, out))
            }
            Form::Uuid => block(reader, |value, out| print::uuid(value.data(), out)),
            Form::Float16 => block(reader, |value, out| print::float16(value.data(), out)),
            _ => block(reader, |value, out| print::text(value.data(), out)),
        },
    }
}
