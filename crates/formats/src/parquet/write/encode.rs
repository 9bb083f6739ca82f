//! Encodes a row group, two columns at a time.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use ::parquet::column::writer::{ColumnCloseResult, get_column_writer};
use ::parquet::errors::Result;
use ::parquet::file::properties::WriterPropertiesPtr;
use ::parquet::file::writer::{SerializedFileWriter, SerializedPageWriter, TrackedWrite};
use ::parquet::schema::types::ColumnDescPtr;
use anyhow::Context;
use bytes::Bytes;

use super::buffer::Buffer;

/// Threads that encode a row group: more would take processors from the programs whose results are written.
const THREADS: usize = 2;

/// A column chunk, as it is in the file but for its place.
struct Chunk {
    bytes: Bytes,
    close: ColumnCloseResult,
}

/// Encodes the buffered rows as a row group and writes them. The buffers are empty then.
///
/// # Errors
/// Encoding or writing failed.
pub(super) fn write_group<W: Write + Send>(
    file: &mut SerializedFileWriter<W>,
    columns: &mut [Buffer],
) -> anyhow::Result<()> {
    let schema = file.schema_descr().columns().to_vec();
    let properties = file.properties().clone();
    let count = columns.len();
    let mut chunks: Vec<_> = columns.iter().map(|_| None).collect();
    // Columns are taken one by one, since some take much longer than others.
    let work = Mutex::new(columns.iter_mut().zip(schema).zip(&mut chunks));
    let encode_all = || loop {
        let next = work.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(((buffer, descriptor), chunk)) = next else { return };
        *chunk = Some(encode(buffer, descriptor, &properties));
    };
    std::thread::scope(|scope| {
        for _ in 1..THREADS.min(count) {
            scope.spawn(encode_all);
        }
        encode_all();
    });
    let mut group = file.next_row_group().context("writing a row group of a Parquet file")?;
    for chunk in chunks.into_iter().flatten() {
        let Chunk { bytes, close } = chunk.context("encoding a column of a Parquet file")?;
        group.append_column(&bytes, close).context("writing a row group of a Parquet file")?;
    }
    group.close().context("writing a row group of a Parquet file")?;
    Ok(())
}

/// Encodes one column.
fn encode(buffer: &mut Buffer, descriptor: ColumnDescPtr, properties: &WriterPropertiesPtr) -> Result<Chunk> {
    let mut sink = TrackedWrite::new(Vec::new());
    let pages = Box::new(SerializedPageWriter::new(&mut sink));
    let mut writer = get_column_writer(descriptor, properties.clone(), pages);
    buffer.encode(&mut writer)?;
    let close = writer.close()?;
    let bytes = sink.into_inner()?.into();
    Ok(Chunk { bytes, close })
}
