//! Writes CSV records as a Parquet file.
//!
//! All columns are optional. A value without quotes that is empty is missing, in a column of any kind; `""` is the empty text.
//! Numbers and booleans are those that pandas would read, and its words for missing values are missing there. What is not UTF-8
//! becomes U+FFFD.
//!
//! The same records give the same bytes: a row group ends by its records alone, and threads only encode what it holds.
//!
//! Two columns of a name are not admitted by the programs that read such a file, so names are made unique as by pandas: `a`,
//! `a.1`, `a.2`.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::sync::Arc;

use ::parquet::basic::{Compression, LogicalType, Repetition, Type as Physical, ZstdLevel};
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::types::{ColumnPath, Type};
use anyhow::Context;
use protocol::conversion::Kind;

use self::buffer::Buffer;
use self::encode::Encoder;

mod buffer;
mod encode;

/// The most rows of a row group.
const GROUP_ROWS: usize = 250_000;
/// A row group also ends when its buffers have this many bytes. One is encoded while the next is
/// collected, so a writer's memory is a few times that.
const GROUP_BYTES: usize = 32 << 20;
/// Named in the footer. Without a version, so that the same records give the same bytes in all of them.
const CREATED_BY: &str = "provisioned-classifier";
/// As fast as possible: higher levels save a few percent of most columns.
const ZSTD_LEVEL: i32 = 1;

/// Why a record cannot be written. The writer is of no further use then.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A value is not of its column's kind. Written again from the first record with this column as [`Kind::Text`], it fits.
    #[error("column {}: {value:?} is not a value of its kind; write the column as text", .column + 1)]
    Misfit {
        /// Counted from 0.
        column: usize,
        value: String,
    },
    #[error("a record has {values} values, and there are {columns} columns; correct the input")]
    Count { values: usize, columns: usize },
    #[error("a record is malformed: {0}; correct the input")]
    Malformed(#[from] records::Malformed),
    /// Encoding or writing failed.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// Writes records as a Parquet file. The file is complete only after [`Writer::finish`].
pub struct Writer<W: Write + Send + 'static> {
    encoder: Encoder<W>,
    /// The row group that is being collected.
    columns: Vec<Buffer>,
    /// Buffers for the second group; the others are those of groups that have been written.
    others: Option<Vec<Buffer>>,
    rows: usize,
    /// Bytes in the buffers.
    bytes: usize,
    /// Holds a quoted value.
    quoted: Vec<u8>,
}

impl<W: Write + Send + 'static> Writer<W> {
    /// Writes the beginning of a file with columns of these names and kinds, in this order.
    ///
    /// # Errors
    /// Writing failed.
    pub fn new(out: W, columns: &[(String, Kind)]) -> anyhow::Result<Self> {
        let names = unique(columns.iter().map(|(name, _)| name.as_str()));
        let kinds = columns.iter().map(|(_, kind)| *kind);
        let fields = names.iter().zip(kinds.clone()).map(|(name, kind)| field(name, kind).map(Arc::new));
        let fields = fields.collect::<Result<_, _>>().context("describing the columns of a Parquet file")?;
        let schema = Type::group_type_builder("schema").with_fields(fields).build();
        let schema = schema.context("describing the columns of a Parquet file")?;
        let texts = names.iter().zip(kinds.clone()).filter(|(_, kind)| *kind == Kind::Text);
        let properties = properties(texts.map(|(name, _)| name.as_str()))?;
        let file = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties))
            .context("writing the beginning of a Parquet file")?;
        let (columns, others) = (kinds.clone().map(Buffer::new).collect(), kinds.map(Buffer::new).collect());
        Ok(Self {
            encoder: Encoder::start(file)?,
            columns,
            others: Some(others),
            rows: 0,
            bytes: 0,
            quoted: Vec::new(),
        })
    }

    /// Adds a record, without its line end. Encodes and writes a row group when enough rows are there.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn push(&mut self, record: &[u8]) -> Result<(), WriteError> {
        let Self { columns, bytes, quoted, .. } = self;
        let (mut column, mut result) = (0, Ok(()));
        let values = records::for_each_quoted(record, quoted, |value, is_quoted| {
            if let (Some(buffer), Ok(())) = (columns.get_mut(column), &result) {
                match buffer.push(value, is_quoted) {
                    Some(size) => *bytes += size,
                    None => {
                        let value = String::from_utf8_lossy(value).into_owned();
                        result = Err(WriteError::Misfit { column, value });
                    }
                }
            }
            column += 1;
        })?;
        if values != self.columns.len() {
            return Err(WriteError::Count { values, columns: self.columns.len() });
        }
        result?;
        self.rows += 1;
        if self.rows == GROUP_ROWS || self.bytes >= GROUP_BYTES {
            self.write_group()?;
        }
        Ok(())
    }

    /// Writes the last rows and the footer, and returns `out`.
    ///
    /// # Errors
    /// Encoding or writing failed.
    pub fn finish(mut self) -> anyhow::Result<W> {
        if self.rows > 0 {
            self.encoder.write(std::mem::take(&mut self.columns))?;
        }
        self.encoder.finish()?.into_inner().context("writing the footer of a Parquet file")
    }

    fn write_group(&mut self) -> anyhow::Result<()> {
        self.encoder.write(std::mem::take(&mut self.columns))?;
        self.columns = match self.others.take() {
            Some(others) => others,
            None => self.encoder.empty()?,
        };
        self.rows = 0;
        self.bytes = 0;
        Ok(())
    }
}

fn field(name: &str, kind: Kind) -> ::parquet::errors::Result<Type> {
    let (physical, logical) = match kind {
        Kind::Int64 => (Physical::INT64, None),
        Kind::Float64 => (Physical::DOUBLE, None),
        Kind::Bool => (Physical::BOOLEAN, None),
        Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
    };
    let builder = Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
    builder.with_logical_type(logical).build()
}

fn properties<'a>(texts: impl Iterator<Item = &'a str>) -> anyhow::Result<WriterProperties> {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).context("choosing the compression of a Parquet file")?;
    let properties = WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_dictionary_enabled(false);
    let properties = texts.fold(properties, |properties, name| {
        properties.set_column_dictionary_enabled(ColumnPath::new(vec![name.to_owned()]), true)
    });
    Ok(properties.build())
}

/// Makes names unique, as `pandas.read_csv` does.
fn unique<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    let mut taken: HashSet<String> = names.iter().cloned().collect();
    let mut counts: HashMap<String, usize> = HashMap::new();
    for name in &mut names {
        let mut count = counts.get(name).copied().unwrap_or(0);
        if count > 0 {
            let first = name.clone();
            while count > 0 {
                *name = format!("{first}.{count}");
                counts.insert(first.clone(), count + 1);
                count = if taken.contains(name) { count + 1 } else { counts.get(name).copied().unwrap_or(0) };
            }
            taken.insert(name.clone());
        }
        counts.insert(name.clone(), count + 1);
    }
    names
}

#[cfg(test)]
mod tests;
