//! What plain framed clients send (2018's `data_receiver`): each payload is appended to the output with a
//! line end, in order of arrival.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use protocol::frame::FrameReader;

/// Lines that are written in one go, in bytes, about.
const WRITE_SIZE: usize = 64 << 10;

/// Where plain payloads go.
pub struct Output {
    name: String,
    writer: Mutex<Box<dyn Write + Send>>,
}

impl Output {
    /// A file, appended to; without a path, standard output.
    ///
    /// # Errors
    /// A file that cannot be written.
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

    /// Appends the payloads of a connection, until it ends.
    ///
    /// # Errors
    /// A broken connection, or an output that cannot be written. What was taken before is written.
    pub fn append_all(&self, first: Bytes, reader: &mut FrameReader<TcpStream>) -> anyhow::Result<()> {
        let mut payload = Some(first);
        let mut lines = Vec::new();
        while let Some(mut line) = payload {
            // Locked from taking a payload to its being written, so that nothing is taken and not written.
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

    /// Waits until all payloads that were taken are written, or `limit` is over: whoever should read them may not.
    pub fn settle(&self, limit: Duration) {
        drop(self.writer.try_lock_for(limit));
    }

    fn writer(&self) -> MutexGuard<'_, Box<dyn Write + Send>> {
        self.writer.lock()
    }
}
