//! Fake rows as an input.

use std::io::Write;

use anyhow::{bail, ensure};
use protocol::frame;

use super::{Extent, Input, WRITE_SIZE};
use crate::HEADER;
use crate::fake_rows::FakeRows;

pub struct Fake {
    rows: FakeRows,
    next: u64,
    lines: u64,
}

impl Fake {
    /// The first `lines` rows of this seed.
    pub fn new(seed: u64, lines: u64) -> Self {
        Self { rows: FakeRows::new(seed), next: 0, lines }
    }

    /// Appends the next rows to `out` as CSV lines, about [`WRITE_SIZE`] bytes. Appends nothing after the last row.
    pub fn fill_lines(&mut self, out: &mut Vec<u8>) {
        while self.next < self.lines && out.len() < WRITE_SIZE {
            self.rows.write(self.next, out);
            out.push(b'\n');
            self.next += 1;
        }
    }
}

/// Writes fake rows as a CSV with its header.
///
/// # Errors
/// When the output cannot be written. A closed pipe is not an error.
pub fn write_csv(mut fake: Fake, mut output: impl Write) -> anyhow::Result<()> {
    let mut out = [HEADER, b"\n"].concat();
    loop {
        fake.fill_lines(&mut out);
        if out.is_empty() {
            return Ok(());
        }
        match output.write_all(&out) {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(e) => bail!("writing rows to standard output: {e}"),
            Ok(()) => out.clear(),
        }
    }
}

impl Input for Fake {
    fn header(&self) -> &[u8] {
        HEADER
    }

    fn position(&self) -> u64 {
        self.next
    }

    fn extent(&self) -> Extent {
        Extent { rows_total: Some(self.lines), ..Extent::default() }
    }

    fn seek(&mut self, row: u64) -> anyhow::Result<()> {
        ensure!(row <= self.lines, "the source asks for row {row}, but there are only {}", self.lines);
        self.next = row;
        Ok(())
    }

    fn fill(&mut self, out: &mut Vec<u8>) -> anyhow::Result<()> {
        while self.next < self.lines && out.len() < WRITE_SIZE {
            // The length is filled in after the row.
            let start = out.len();
            out.extend_from_slice(&[0; frame::PREFIX]);
            self.rows.write(self.next, out);
            let length = (out.len() - start - frame::PREFIX) as u32;
            out[start..start + frame::PREFIX].copy_from_slice(&length.to_be_bytes());
            self.next += 1;
        }
        Ok(())
    }
}
