//! Encodes row groups on threads of their own, two columns at a time, while the next one is collected.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use ::parquet::column::writer::{ColumnCloseResult, get_column_writer};
use ::parquet::errors::Result;
use ::parquet::file::properties::WriterPropertiesPtr;
use ::parquet::file::writer::{SerializedFileWriter, SerializedPageWriter, TrackedWrite};
use ::parquet::schema::types::ColumnDescPtr;
use anyhow::{Context, anyhow};
use bytes::Bytes;

use super::buffer::Buffer;

/// Threads that encode a row group: more would take processors from the programs whose results are written.
const THREADS: usize = 2;

/// A column chunk, as it is in the file but for its place.
struct Chunk {
    bytes: Bytes,
    close: ColumnCloseResult,
}

/// Writes row groups to a file, in the order in which they come.
pub(super) struct Encoder<W: Write + Send + 'static> {
    /// Row groups to encode: one waits while another is encoded.
    groups: Option<SyncSender<Vec<Buffer>>>,
    /// Their buffers, when they are empty again.
    empty: Receiver<Vec<Buffer>>,
    thread: Option<JoinHandle<anyhow::Result<SerializedFileWriter<W>>>>,
}

impl<W: Write + Send + 'static> Encoder<W> {
    /// Starts the thread.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(mut file: SerializedFileWriter<W>) -> anyhow::Result<Self> {
        let (groups, to_encode) = sync_channel::<Vec<Buffer>>(0);
        let (give_back, empty) = channel();
        let encode = move || {
            while let Ok(mut columns) = to_encode.recv() {
                write_group(&mut file, &mut columns)?;
                // After the last group, nothing waits for it.
                let _ = give_back.send(columns);
            }
            Ok(file)
        };
        let thread = std::thread::Builder::new().name("encode".into()).spawn(encode);
        let thread = Some(thread.context("starting a thread")?);
        Ok(Self { groups: Some(groups), empty, thread })
    }

    /// Has the buffered rows written as a row group.
    ///
    /// # Errors
    /// Encoding or writing this group, or one before it, failed.
    pub(super) fn write(&mut self, columns: Vec<Buffer>) -> anyhow::Result<()> {
        let sent = self.groups.as_ref().is_some_and(|groups| groups.send(columns).is_ok());
        if sent { Ok(()) } else { Err(self.error()) }
    }

    /// Buffers of a group that has been written; waits for one.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(super) fn empty(&mut self) -> anyhow::Result<Vec<Buffer>> {
        self.empty.recv().map_err(|_| self.error())
    }

    /// Waits for the last group, and returns the file.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(super) fn finish(mut self) -> anyhow::Result<SerializedFileWriter<W>> {
        self.groups = None;
        self.join()
    }

    fn join(&mut self) -> anyhow::Result<SerializedFileWriter<W>> {
        let thread = self.thread.take().context("the thread that encodes has failed before")?;
        thread.join().map_err(|_| anyhow!("the thread that encodes has panicked"))?
    }

    /// Why the thread has ended.
    fn error(&mut self) -> anyhow::Error {
        match self.join() {
            Ok(_) => anyhow!("the thread that encodes has ended"),
            Err(error) => error,
        }
    }
}

/// Encodes the buffered rows as a row group and writes them. The buffers are empty then.
///
/// # Errors
/// Encoding or writing failed.
fn write_group<W: Write + Send>(
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
