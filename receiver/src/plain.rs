//! What plain framed clients send (2018's `data_receiver`): each payload is appended to the output with a
//! line end, in order of arrival.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use wire::frame::FrameReader;

/// Where plain payloads go.
pub struct Output {
    name: String,
    writer: Mutex<BufWriter<Box<dyn Write + Send>>>,
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
        Ok(Self { name, writer: Mutex::new(BufWriter::with_capacity(64 << 10, writer)) })
    }

    /// Appends the payloads of a connection, until it ends.
    ///
    /// # Errors
    /// A broken connection, or an output that cannot be written.
    pub fn append_all(&self, first: Bytes, reader: &mut FrameReader<TcpStream>) -> anyhow::Result<()> {
        let mut payload = Some(first);
        while let Some(line) = payload {
            let mut writer =
                self.writer.lock().map_err(|_| anyhow!("another connection failed while writing"))?;
            writer
                .write_all(&line)
                .and_then(|()| writer.write_all(b"\n"))
                // When nothing more is here, whoever reads the output should see all of it.
                .and_then(|()| if reader.has_buffered() { Ok(()) } else { writer.flush() })
                .with_context(|| format!("writing {}", self.name))?;
            drop(writer);
            payload = reader.next_frame()?;
        }
        Ok(())
    }
}
