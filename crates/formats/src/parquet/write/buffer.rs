//! The values of a column that wait to be encoded.

use ::parquet::column::writer::ColumnWriter;
use ::parquet::data_type::ByteArray;
use ::parquet::errors::{ParquetError, Result};
use bytes::Bytes;

use columns::parse;

use super::Kind;

/// Texts that are encoded at once.
const TEXTS: usize = 8192;
/// What a row adds to [`Buffer::push`]'s size apart from its text: a value or where it ends, and its level.
const ROW: usize = 8 + 2;

/// The values of a column that wait to be encoded.
pub(super) struct Buffer {
    values: Values,
    /// 1 for a value and 0 for a missing one.
    levels: Vec<i16>,
}

/// The values that are not missing.
enum Values {
    Int64(Vec<i64>),
    Float64(Vec<f64>),
    Bool(Vec<bool>),
    /// Texts, one after the other, and where each one ends.
    Text {
        bytes: Vec<u8>,
        ends: Vec<usize>,
    },
}

impl Buffer {
    pub(super) fn new(kind: Kind) -> Self {
        let values = match kind {
            Kind::Int64 => Values::Int64(Vec::new()),
            Kind::Float64 => Values::Float64(Vec::new()),
            Kind::Bool => Values::Bool(Vec::new()),
            Kind::Text => Values::Text { bytes: Vec::new(), ends: Vec::new() },
        };
        Self { values, levels: Vec::new() }
    }

    /// Adds a value, and returns by how many bytes the buffer grows; `None` if the value is not of the column's kind.
    pub(super) fn push(&mut self, value: &[u8], is_quoted: bool) -> Option<usize> {
        if value.is_empty() && !(is_quoted && matches!(self.values, Values::Text { .. })) {
            self.levels.push(0);
            return Some(ROW);
        }
        let fits = match &mut self.values {
            Values::Int64(values) => parse::int64(value).map(|number| values.push(number)),
            Values::Float64(values) => parse::float64(value).map(|number| values.push(number)),
            Values::Bool(values) => parse::boolean(value).map(|is_true| values.push(is_true)),
            Values::Text { bytes, ends } => {
                let before = bytes.len();
                match simdutf8::basic::from_utf8(value) {
                    Ok(text) => bytes.extend_from_slice(text.as_bytes()),
                    // The record of a reject.
                    Err(_) => bytes.extend_from_slice(String::from_utf8_lossy(value).as_bytes()),
                }
                ends.push(bytes.len());
                self.levels.push(1);
                return Some(ROW + bytes.len() - before);
            }
        };
        if fits.is_none() && !parse::is_missing(value) {
            return None;
        }
        self.levels.push(i16::from(fits.is_some()));
        Some(ROW)
    }

    /// Encodes the values, and removes them.
    ///
    /// # Errors
    /// Those of the encoder.
    pub(super) fn encode(&mut self, writer: &mut ColumnWriter<'_>) -> Result<()> {
        let levels = Some(&self.levels[..]);
        match (&mut self.values, writer) {
            (Values::Int64(values), ColumnWriter::Int64ColumnWriter(writer)) => {
                writer.write_batch(values, levels, None)?;
                values.clear();
            }
            (Values::Float64(values), ColumnWriter::DoubleColumnWriter(writer)) => {
                writer.write_batch(values, levels, None)?;
                values.clear();
            }
            (Values::Bool(values), ColumnWriter::BoolColumnWriter(writer)) => {
                writer.write_batch(values, levels, None)?;
                values.clear();
            }
            (Values::Text { bytes, ends }, ColumnWriter::ByteArrayColumnWriter(writer)) => {
                let mut begin = 0;
                let shared = Bytes::from(std::mem::take(bytes));
                let mut ends_left = &ends[..];
                let mut texts = Vec::with_capacity(TEXTS);
                for levels in self.levels.chunks(TEXTS) {
                    let present = levels.iter().filter(|&&level| level == 1).count();
                    let (these, others) = ends_left.split_at(present);
                    ends_left = others;
                    texts.clear();
                    texts.extend(these.iter().map(|&end| {
                        let text = shared.slice(begin..end);
                        begin = end;
                        ByteArray::from(text)
                    }));
                    writer.write_batch(&texts, Some(levels), None)?;
                }
                ends.clear();
                texts.clear();
                // Usually its memory, since the encoder keeps no text of it.
                *bytes = shared.into();
                bytes.clear();
            }
            _ => return Err(ParquetError::General("a column has another type than its buffer".to_owned())),
        }
        self.levels.clear();
        Ok(())
    }
}
