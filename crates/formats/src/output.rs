//! Results in another form than plain text. Equal results have equal bytes in each form.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, bail};
use protocol::conversion::{self, Columns, Piece};
use protocol::frame::DEFAULT_LIMIT;
use protocol::result_files::Form;
use records::Reader;

use crate::gzip::Gzip;
use crate::parquet::{WriteError, Writer};
use crate::upload::{Target, Uploader};

/// Fast, and smaller than gzip's usual level.
const ZSTD_LEVEL: i32 = 3;
/// The file is synced each time that it has grown by this many bytes, since the user waits for the last sync.
const SYNC_SPAN: u64 = 16 << 20;

/// More threads would take memory, and processors from the programs whose results are written.
const MOST_THREADS: usize = 8;

/// How writing has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Done,
    /// A value of this column is not of the column's kind.
    Misfit(u32),
}

/// Reads pieces of results, and writes them to a file, durably. If there is a `target`, also uploads the file.
///
/// # Errors
/// The file cannot be written or uploaded, or the pieces end before they say so.
pub fn write(
    form: Form,
    path: &Path,
    target: Option<Target>,
    mut pieces: impl io::Read,
) -> anyhow::Result<Written> {
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let uploader = target.map(|target| Uploader::start(path, target)).transpose()?;
    let out = Durable { file, length: 0, synced: 0, uploader };
    let writing = || format!("writing {}", path.display());
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let out = match form {
        Form::Gzip => {
            let mut gzip = Gzip::new(out, cores)?;
            pass_on(&mut pieces, &mut gzip).with_context(writing)?;
            gzip.finish().with_context(writing)?
        }
        Form::Zstd => {
            let mut zstd = zstd::Encoder::new(out, ZSTD_LEVEL).context("starting zstd")?;
            zstd.include_checksum(true).context("starting zstd")?;
            // One frame, since some readers stop after the first; its bytes do not depend on the number of threads.
            zstd.multithread(u32::try_from(cores).unwrap_or(1)).context("starting zstd")?;
            pass_on(&mut pieces, &mut zstd).with_context(writing)?;
            zstd.finish().with_context(writing)?
        }
        Form::Parquet => {
            let Piece::Columns(columns) = conversion::read(&mut pieces).context("reading the columns")?
            else {
                bail!("there are no columns");
            };
            let writer = Writer::new(out, &columns.columns).with_context(writing)?;
            match table(pieces, &columns, writer) {
                Err(WriteError::Misfit { column, .. }) => return Ok(Written::Misfit(column as u32)),
                written => written.with_context(writing)?,
            }
        }
    };
    out.file.sync_all().with_context(|| format!("syncing {}", path.display()))?;
    if let Some(uploader) = out.uploader {
        uploader.finish(out.length)?;
    }
    Ok(Written::Done)
}

/// Writes all bytes of the pieces.
fn pass_on(pieces: impl io::Read, out: &mut impl Write) -> io::Result<()> {
    io::copy(&mut Bytes::new(pieces), out).map(drop)
}

fn table<W: Write + Send + 'static>(
    pieces: impl io::Read,
    columns: &Columns,
    mut writer: Writer<W>,
) -> Result<W, WriteError> {
    // A result has the record, of at most this length, and new values.
    let mut reader = Reader::new(Bytes::new(pieces), 4 * DEFAULT_LIMIT);
    let reading =
        |error: io::Error| WriteError::Failed(anyhow::Error::new(error).context("reading the results"));
    if columns.has_header {
        reader.next_row().map_err(reading)?;
    }
    while let Some(row) = reader.next_row().map_err(reading)? {
        if let Some(flaw) = row.flaw {
            return Err(WriteError::Failed(flaw.into()));
        }
        writer.push(row.bytes)?;
    }
    Ok(writer.finish()?)
}

/// The bytes of pieces, up to the piece that says that they are complete.
struct Bytes<R> {
    pieces: R,
    piece: io::Cursor<Vec<u8>>,
    is_over: bool,
}

impl<R: io::Read> Bytes<R> {
    fn new(pieces: R) -> Self {
        Self { pieces, piece: io::Cursor::default(), is_over: false }
    }
}

impl<R: io::Read> io::Read for Bytes<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.piece.position() == self.piece.get_ref().len() as u64 && !self.is_over {
            match conversion::read(&mut self.pieces)? {
                Piece::Bytes { bytes, .. } => self.piece = io::Cursor::new(bytes),
                Piece::Done => self.is_over = true,
                _ => return Err(io::Error::other("these are no results")),
            }
        }
        self.piece.read(out)
    }
}

/// A file that is synced, and may be uploaded, while it grows.
struct Durable {
    file: File,
    length: u64,
    /// The length at the last sync.
    synced: u64,
    uploader: Option<Uploader>,
}

impl Write for Durable {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.length += written as u64;
        if self.length - self.synced >= SYNC_SPAN {
            self.file.sync_data()?;
            self.synced = self.length;
        }
        if let Some(uploader) = &self.uploader {
            uploader.reach(self.length).map_err(io::Error::other)?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
