//! Inputs that the program `formats` turns into CSVs, as a child of this one.

use std::ffi::OsStr;
use std::io::{self, BufReader, Cursor, ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail, ensure};
use columns::ColumnType;
use parking_lot::Mutex;
use process::lifeline::{LIFELINE, QUIET};
use protocol::conversion::{self, Piece, Source};

use super::Consumed;

/// How many bytes are passed to the child at once.
const BLOCK: usize = 256 << 10;

/// A CSV that a child writes.
pub(super) struct Converted {
    child: Child,
    /// The other end of the child's standard input, with which the child ends; `None` once a thread has it.
    stdin: Option<ChildStdin>,
    pieces: BufReader<ChildStdout>,
    block: Cursor<Vec<u8>>,
    consumed: Consumed,
    is_over: bool,
    /// Why the child did not get the rest of its input.
    failed: Arc<Mutex<Option<io::Error>>>,
}

/// A table as a CSV.
pub(super) struct Table {
    pub(super) rows: Converted,
    /// The declared types of its columns.
    pub(super) types: Vec<ColumnType>,
    /// If it is at an address.
    pub(super) source: Option<Source>,
}

impl Converted {
    /// Decodes a text: decompresses it, or turns it into UTF-8.
    ///
    /// # Errors
    /// The child cannot be started.
    pub(super) fn text(
        formats: &Path,
        encoding: Option<&str>,
        mut input: Box<dyn Read + Send>,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(formats);
        command.arg("decode").args(encoding.iter().flat_map(|name| ["--encoding", name]));
        // Its standard input is the text, and ends with this process.
        command.env_remove(LIFELINE);
        let mut converted = Self::start(command)?;
        let mut stdin = converted.stdin.take().context("the child has no standard input")?;
        let failed = Arc::clone(&converted.failed);
        let pass_on = move || {
            let mut block = vec![0; BLOCK];
            loop {
                let read = match input.read(&mut block) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => {
                        *failed.lock() = Some(error);
                        return;
                    }
                    Ok(read) => read,
                };
                // Without the child, its output has ended, too.
                if read == 0 || stdin.write_all(&block[..read]).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("decode".into()).spawn(pass_on).context("starting a thread")?;
        Ok(converted)
    }

    /// Reads a file with a table, which may be at an address. Also returns the declared types of its columns.
    ///
    /// # Errors
    /// The child cannot be started, or cannot read the file.
    pub(super) fn table(formats: &Path, path: &Path, signed: Option<&Path>) -> anyhow::Result<Table> {
        let mut rows = Self::start(reading("table", formats, path, signed))?;
        let (mut source, mut piece) = (None, rows.next_piece()?);
        if let Piece::Source(found) = piece {
            source = Some(found);
            piece = rows.next_piece()?;
        }
        let Piece::Table(conversion::Table { types }) = piece else {
            bail!("{} did not describe the table", formats.display());
        };
        Ok(Table { rows, types, source })
    }

    /// Reads a file at an address. Also returns what is known of it.
    ///
    /// # Errors
    /// The child cannot be started, or the server does not send the file.
    pub(super) fn fetched(
        formats: &Path,
        address: &Path,
        signed: Option<&Path>,
    ) -> anyhow::Result<(Self, Source)> {
        let mut bytes = Self::start(reading("fetch", formats, address, signed))?;
        match bytes.next_piece()? {
            Piece::Source(source) => Ok((bytes, source)),
            _ => Err(anyhow!("{} did not describe the file", formats.display())),
        }
    }

    fn start(mut command: Command) -> anyhow::Result<Self> {
        let program = Path::new(command.get_program()).to_owned();
        ensure!(program.exists(), "the program {} is not there; start the job again", program.display());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let stdout = child.stdout.take().context("the child has no standard output")?;
        Ok(Self {
            stdin: child.stdin.take(),
            child,
            pieces: BufReader::with_capacity(BLOCK, stdout),
            block: Cursor::default(),
            consumed: Consumed::default(),
            is_over: false,
            failed: Arc::default(),
        })
    }

    /// How much of the input the child has read.
    pub(super) fn consumed(&self) -> Consumed {
        self.consumed.clone()
    }

    fn next_piece(&mut self) -> io::Result<Piece> {
        let piece = conversion::read(&mut self.pieces);
        // What the child says of a cut input is only a consequence.
        if !matches!(piece, Ok(Piece::Bytes { .. } | Piece::Table(_) | Piece::Source(_)))
            && let Some(error) = self.failed.lock().take()
        {
            return Err(error);
        }
        match piece {
            Ok(Piece::Failed(reason)) => Err(io::Error::other(reason)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                // It has closed its output, and so has ended or will not say more.
                let _ = self.child.kill();
                let status = self.child.wait()?;
                Err(io::Error::other(format!("the program that reads its format has ended ({status})")))
            }
            piece => piece,
        }
    }
}

/// A child that reads a file or an address; for objects of S3, with these signed requests.
fn reading(how: &str, formats: &Path, path: &Path, signed: Option<&Path>) -> Command {
    let mut command = Command::new(formats);
    command.arg(how).env(LIFELINE, QUIET);
    command.args(signed.iter().flat_map(|signed| [OsStr::new("--signed"), signed.as_os_str()]));
    command.arg("--").arg(path);
    command
}

impl Read for Converted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.block.position() == self.block.get_ref().len() as u64 && !self.is_over {
            match self.next_piece()? {
                Piece::Bytes { consumed, bytes } => {
                    self.consumed.set(consumed);
                    self.block = Cursor::new(bytes);
                }
                Piece::Done => self.is_over = true,
                _ => {
                    return Err(io::Error::other("the program that reads its format has lost its place"));
                }
            }
        }
        self.block.read(out)
    }
}

impl Drop for Converted {
    fn drop(&mut self) {
        // It may have ended, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
