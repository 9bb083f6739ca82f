//! Where rows come from.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use records::Reader;
use wire::frame::{self, DEFAULT_LIMIT, EOT};

use crate::HEADER;
use crate::fake_rows::FakeRows;

/// Frames that are written in one go, in bytes, about: the size at which loopback TCP is quickest.
pub const WRITE_SIZE: usize = 128 << 10;

/// How much of an input there is, and how much of it is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// How many rows there are in all, where that is known.
    pub rows_total: Option<u64>,
    /// How many bytes are read, where bytes are; each line end counts as one.
    pub bytes: u64,
    /// How many bytes there are in all, where that is known.
    pub bytes_total: Option<u64>,
}

/// Rows in order, from any row on that the input can still give.
pub trait Input {
    /// The CSV header.
    fn header(&self) -> &[u8];

    /// Goes to row `row`, counted from 0, so that it is the next.
    ///
    /// # Errors
    /// An input that cannot go back that far, or has fewer rows.
    fn seek(&mut self, row: u64) -> anyhow::Result<()>;

    /// Appends the next rows as frames to `out`, at most about [`WRITE_SIZE`] bytes; nothing at the end.
    ///
    /// # Errors
    /// An input that cannot be read.
    fn fill(&mut self, out: &mut Vec<u8>) -> anyhow::Result<()>;

    /// The number of the next row; at the end, how many rows there are.
    fn position(&self) -> u64;

    /// How much there is.
    fn extent(&self) -> Extent;

    /// Rows before this one will not be asked for again.
    fn forget(&mut self, _before: u64) {}
}

/// Fake rows.
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

    /// Appends the next rows as CSV lines to `out`, about [`WRITE_SIZE`] bytes; nothing at the end.
    pub fn fill_lines(&mut self, out: &mut Vec<u8>) {
        while self.next < self.lines && out.len() < WRITE_SIZE {
            self.rows.write(self.next, out);
            out.push(b'\n');
            self.next += 1;
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
        ensure!(row <= self.lines, "the source asks for row {row}, and there are only {}", self.lines);
        self.next = row;
        Ok(())
    }

    fn fill(&mut self, out: &mut Vec<u8>) -> anyhow::Result<()> {
        while self.next < self.lines && out.len() < WRITE_SIZE {
            // The length is known behind the row, so its place is kept.
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

/// A CSV, from a file or from standard input.
pub struct Csv {
    /// The file, which can be opened again; none for standard input.
    path: Option<PathBuf>,
    name: String,
    reader: Reader<Box<dyn Read>>,
    header: Vec<u8>,
    next: u64,
    bytes: u64,
    bytes_total: Option<u64>,
}

impl Csv {
    /// Whether it can go back.
    pub fn can_go_back(&self) -> bool {
        self.path.is_some()
    }

    /// A file.
    ///
    /// # Errors
    /// A file that cannot be read, or has no header.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("opening the input {name}"))?;
        let found = file.metadata().with_context(|| format!("opening the input {name}"))?;
        ensure!(!found.is_dir(), "the input {name} is a folder; give a CSV file");
        // A pipe cannot be opened again to go back, and has no length.
        let csv = Self::new(Box::new(file), name, found.is_file().then(|| path.to_owned()))?;
        Ok(Self { bytes_total: found.is_file().then_some(found.len()), ..csv })
    }

    /// Standard input, which cannot go back.
    ///
    /// # Errors
    /// An input that cannot be read, or has no header.
    pub fn stdin() -> anyhow::Result<Self> {
        Self::new(Box::new(std::io::stdin()), "standard input".into(), None)
    }

    fn new(inner: Box<dyn Read>, name: String, path: Option<PathBuf>) -> anyhow::Result<Self> {
        let mut reader = Reader::new(inner, DEFAULT_LIMIT);
        let header = match reader.next_record().with_context(|| format!("in {name}"))? {
            None => {
                bail!("{name} is empty; the first line must be a CSV header such as {}", header_example())
            }
            Some([]) => {
                bail!(
                    "{name} has no header: its first line is empty, and must be one such as {}",
                    header_example()
                )
            }
            Some(header) => header.to_vec(),
        };
        records::check_header(&header).map_err(|error| anyhow!("the header of {name} {error}"))?;
        let bytes = header.len() as u64 + 1;
        Ok(Self { path, name, reader, header, next: 0, bytes, bytes_total: None })
    }
}

fn header_example() -> std::borrow::Cow<'static, str> {
    String::from_utf8_lossy(HEADER)
}

impl Input for Csv {
    fn header(&self) -> &[u8] {
        &self.header
    }

    fn position(&self) -> u64 {
        self.next
    }

    fn extent(&self) -> Extent {
        Extent { rows_total: None, bytes: self.bytes, bytes_total: self.bytes_total }
    }

    fn seek(&mut self, row: u64) -> anyhow::Result<()> {
        if row < self.next {
            let Some(path) = &self.path else {
                bail!(
                    "the source asks for row {row} again, and {}, now at row {}, cannot go back; start the job again, or \
                     give a file",
                    self.name,
                    self.next
                );
            };
            *self = Self::open(path)?;
        }
        while self.next < row {
            let record = self.reader.next_record().with_context(|| format!("in {}", self.name))?;
            let Some(record) = record else {
                bail!("the source asks for row {row}, and {} has {}", self.name, self.next);
            };
            self.next += 1;
            self.bytes += record.len() as u64 + 1;
        }
        Ok(())
    }

    fn fill(&mut self, out: &mut Vec<u8>) -> anyhow::Result<()> {
        while out.len() < WRITE_SIZE {
            // Standard input may be a source that is still at work: what is here is sent before more is waited for.
            if self.path.is_none() && !out.is_empty() && !self.reader.has_record() {
                break;
            }
            let Some(record) = self.reader.next_record().with_context(|| format!("in {}", self.name))? else {
                break;
            };
            ensure!(
                record != [EOT],
                "row {} of {} is the single byte 0x04, which means the end of the rows; quote it",
                self.next,
                self.name
            );
            frame::push(out, record);
            self.next += 1;
            self.bytes += record.len() as u64 + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(input: &mut dyn Input) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let mut out = Vec::new();
            input.fill(&mut out).unwrap();
            if out.is_empty() {
                return all;
            }
            all.extend(frame::payloads(&out).map(<[u8]>::to_vec));
        }
    }

    fn csv(text: &'static str) -> anyhow::Result<Csv> {
        Csv::new(Box::new(text.as_bytes()), "the test".into(), None)
    }

    #[test]
    fn fake_rows_are_the_same_from_any_start() {
        let all = rows(&mut Fake::new(3, 3000));
        let mut later = Fake::new(3, 3000);
        later.seek(1234).unwrap();
        assert_eq!(rows(&mut later), all[1234..]);
        assert!(later.seek(3001).is_err());
    }

    #[test]
    fn a_csv_needs_a_header() {
        assert!(csv("").err().unwrap().to_string().starts_with("the test is empty"));
        assert!(csv("\n1,2\n").err().unwrap().to_string().starts_with("the test has no header"));
        let mut only_header = csv("a,b\n").unwrap();
        assert_eq!(only_header.header(), b"a,b");
        assert!(rows(&mut only_header).is_empty());
    }

    #[test]
    fn a_csv_skips_forward_and_standard_input_cannot_go_back() {
        let mut input = csv("h\n0\n1\n2\n").unwrap();
        input.seek(1).unwrap();
        assert_eq!(rows(&mut input), [b"1", b"2"]);
        assert!(input.seek(1).unwrap_err().to_string().contains("cannot go back"));
        assert!(csv("h\n0\n").unwrap().seek(2).unwrap_err().to_string().contains("has 1"));
    }

    #[test]
    fn a_row_that_looks_like_the_end_is_refused() {
        let error = csv("h\n\u{4}\n").unwrap().fill(&mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("row 0 of the test is the single byte 0x04"), "{error}");
    }
}
