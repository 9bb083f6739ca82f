//! Serves plain framed clients, as the `data_receiver` of 2018 did: appends each payload to the output with a line end, in
//! order of arrival.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use protocol::frame::FrameReader;

/// The approximate size of one write in bytes.
const WRITE_SIZE: usize = 64 << 10;

/// The output for plain payloads.
pub struct Output {
    name: String,
    writer: Mutex<Box<dyn Write + Send>>,
}

impl Output {
    /// Appends to the file at `path`; without a path, writes to standard output.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let (name, writer): (_, Box<dyn Write + Send>) = match path {
            Some(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                (
                    path.display().to_string(),
                    Box::new(file.with_context(|| format!("writing {}", path.display()))?),
                )
            }
            None => ("standard output".into(), Box::new(std::io::stdout())),
        };
        Ok(Self { name, writer: Mutex::new(writer) })
    }

    /// Appends the payloads of a connection until it ends.
    ///
    /// # Errors
    /// When the connection breaks, or the output cannot be written. Earlier payloads are written.
    pub fn append_all(&self, first: Bytes, reader: &mut FrameReader<TcpStream>) -> anyhow::Result<()> {
        let mut payload = Some(first);
        let mut lines = Vec::new();
        while let Some(mut line) = payload {
            // Locked until the payload is written, so that `settle` waits for it.
            let mut writer = self.writer();
            let broken = loop {
                lines.extend_from_slice(&line);
                lines.push(b'\n');
                if lines.len() >= WRITE_SIZE || !reader.has_frame() {
                    break None;
                }
                match reader.next_frame() {
                    Ok(Some(next)) => line = next,
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            let written = writer.write_all(&lines).and_then(|()| writer.flush());
            written.with_context(|| format!("writing {}", self.name))?;
            lines.clear();
            drop(writer);
            if let Some(error) = broken {
                return Err(error.into());
            }
            payload = reader.next_frame()?;
        }
        Ok(())
    }

    /// Waits until all received payloads are written, or `limit` is over, since standard output may be a pipe without a
    /// reader.
    pub fn settle(&self, limit: Duration) {
        drop(self.writer.try_lock_for(limit));
    }

    fn writer(&self) -> MutexGuard<'_, Box<dyn Write + Send>> {
        self.writer.lock()
    }
}
