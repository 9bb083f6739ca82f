//! Inputs: fake rows and CSVs, plain or compressed.

mod compressed;
mod fake;
mod files;

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use columns::Survey;
use protocol::frame::{self, DEFAULT_LIMIT};
use records::identity::{Guard, Guarded, Identity};
use records::sniff::Name;
use records::{Declared, Flaw, Reader};

use compressed::Consumed;
pub use fake::{Fake, write_csv};
pub use files::Files;

/// The approximate size of one write, in bytes of frames: the size at which loopback TCP is fastest.
pub const WRITE_SIZE: usize = 128 << 10;

/// The first rows of a stream decide the types of its columns.
const SURVEYED_ROWS: u64 = 1000;
/// They are those that arrive within this time, if that are fewer.
const SURVEY_TIME: Duration = Duration::from_secs(10);

/// The size of an input, and how much of it has been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// The number of all rows, if known.
    pub rows_total: Option<u64>,
    /// Bytes read so far, of a compressed input compressed ones; 0 for fake rows.
    pub bytes: u64,
    /// The number of all bytes, if known.
    pub bytes_total: Option<u64>,
}

/// Checks that an input's files have not changed; its errors name the file.
pub type Watch = Box<dyn Fn() -> anyhow::Result<()> + Send>;

/// Returns rows in order, and can seek where the input allows it.
pub trait Input {
    fn header(&self) -> &[u8];

    /// Makes `row`, counted from 0, the next row.
    ///
    /// # Errors
    /// When the input cannot go back that far, or has fewer rows.
    fn seek(&mut self, row: u64) -> anyhow::Result<()>;

    /// Appends the next rows to `out` as frames, about [`WRITE_SIZE`] bytes at most. Appends nothing at the end of the input.
    ///
    /// # Errors
    /// When the input cannot be read.
    fn fill(&mut self, out: &mut Vec<u8>) -> anyhow::Result<()>;

    /// The number of the next row; at the end of the input, the number of all rows.
    fn position(&self) -> u64;

    fn extent(&self) -> Extent;

    /// Identifies the input's files; `None` if there are none.
    fn identity(&self) -> Option<String> {
        None
    }

    /// Detects changes of the input's files; `None` if there are none.
    fn watch(&self) -> Option<Watch> {
        None
    }

    /// Checks that the input has not changed.
    ///
    /// # Errors
    /// When it has; says what has changed.
    fn check(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Rows before this one will not be requested again.
    fn forget(&mut self, _before: u64) {}

    /// The types of the columns, and some of the rows: the first [`SURVEYED_ROWS`], unless all rows can be read twice. Call this
    /// before any row is read.
    ///
    /// # Errors
    /// When the input cannot be read.
    fn survey(&mut self) -> anyhow::Result<Survey> {
        let (mut first, began) = (Vec::new(), Instant::now());
        while self.position() < SURVEYED_ROWS && (first.is_empty() || began.elapsed() < SURVEY_TIME) {
            let mut out = Vec::new();
            self.fill(&mut out)?;
            if out.is_empty() {
                break;
            }
            first.extend(out);
        }
        self.seek(0)?;
        let records = frame::rows(&first).take(SURVEYED_ROWS as usize).filter_map(|row| match row {
            frame::Row::Whole(record) => Some(record),
            frame::Row::Flawed { .. } => None,
        });
        let records: Vec<_> = records.collect();
        let width = records::count(self.header()).unwrap_or(0);
        Ok(Survey { rows: self.extent().rows_total, ..Survey::of_first(&records, width) })
    }
}

/// A CSV, from a file or from standard input.
pub struct Csv {
    /// The file, if it can be reopened.
    path: Option<PathBuf>,
    name: String,
    options: Options,
    reader: Reader<Box<dyn Read>>,
    header: Vec<u8>,
    next: u64,
    /// Detects changes of the file; `None` if the CSV is not a file.
    guard: Option<Guard>,
    /// How much of a compressed input has been read.
    compressed: Option<Consumed>,
}

/// The user's options for a CSV.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The identity that the file must have.
    pub identity: Option<Identity>,
    pub declared: Declared,
}

impl Csv {
    /// Whether it can seek to an earlier row.
    pub fn can_go_back(&self) -> bool {
        self.path.is_some()
    }

    /// Opens a file.
    ///
    /// # Errors
    /// When it cannot be read, has another identity than `options` asks for, or is not a CSV with a header.
    pub fn open(path: &Path, options: Options) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let opening = || format!("opening the input {name}");
        let file = File::open(path).with_context(opening)?;
        let found = file.metadata().with_context(opening)?;
        ensure!(!found.is_dir(), "the input {name} is a folder; give a CSV file");
        if found.is_file() {
            let guard = Guard::new(&file, Some(path), options.identity).with_context(opening)?;
            let guarded = Guarded::new(file, guard.clone()).with_context(opening)?;
            return Self::new(Box::new(guarded), name, options, Some(path.to_owned()), Some(guard));
        }
        // A pipe cannot be reopened, and has no length.
        Self::new(Box::new(file), name, options, None, None)
    }

    /// Reads standard input, which cannot go back.
    ///
    /// # Errors
    /// When it cannot be read, or is not a CSV with a header.
    pub fn stdin(options: Options) -> anyhow::Result<Self> {
        let name = "standard input".to_owned();
        let opening = || format!("opening {name}");
        let stdin = File::from(std::io::stdin().as_fd().try_clone_to_owned().with_context(opening)?);
        let found = stdin.metadata().with_context(opening)?;
        ensure!(!found.is_dir(), "{name} is a folder; give a CSV file");
        // Standard input may be a file whose name is unknown.
        let is_file = found.is_file() && found.len() > 0;
        let guard = is_file.then(|| Guard::new(&stdin, None, options.identity)).transpose();
        let guard = guard.with_context(opening)?;
        let inner: Box<dyn Read + Send> = match &guard {
            Some(guard) => Box::new(Guarded::new(stdin, guard.clone()).with_context(opening)?),
            None => Box::new(stdin),
        };
        Self::new(inner, name, options, None, guard)
    }

    fn new(
        inner: Box<dyn Read + Send>,
        name: String,
        options: Options,
        path: Option<PathBuf>,
        guard: Option<Guard>,
    ) -> anyhow::Result<Self> {
        let (inner, compressed) = compressed::open(inner).with_context(|| format!("reading {name}"))?;
        let mut reader = Reader::with_dialect(inner, DEFAULT_LIMIT, options.declared.dialect);
        // Shell commands that read a file would get compressed bytes.
        let named = Name { name: &name, is_file: path.is_some() && compressed.is_none() };
        let header = records::read_header(&mut reader, named, options.declared)?;
        Ok(Self { path, name, options, reader, header, next: 0, guard, compressed })
    }

    fn reading(&self) -> String {
        format!("reading {}", self.name)
    }

    /// The bytes of the file once more, from its beginning.
    fn plain_again(&self) -> anyhow::Result<Box<dyn Read>> {
        let path = self.path.as_ref().context("only a file can be read twice")?;
        let identity = self.guard.as_ref().map(Guard::identity);
        let file = File::open(path).with_context(|| format!("opening the input {}", self.name))?;
        let guard = Guard::new(&file, Some(path), identity).with_context(|| self.reading())?;
        let file = Guarded::new(file, guard).with_context(|| self.reading())?;
        Ok(compressed::open(Box::new(file)).with_context(|| self.reading())?.0)
    }

    /// Skips rows up to this one. Returns `false` if there are fewer.
    fn skip_to(&mut self, row: u64) -> anyhow::Result<bool> {
        while self.next < row {
            let context = || format!("reading {}", self.name);
            if self.reader.next_row().with_context(context)?.is_none() {
                return Ok(false);
            }
            self.next += 1;
        }
        Ok(true)
    }
}

impl Input for Csv {
    fn header(&self) -> &[u8] {
        &self.header
    }

    fn position(&self) -> u64 {
        self.next
    }

    fn extent(&self) -> Extent {
        Extent {
            rows_total: None,
            bytes: self.compressed.as_ref().map_or_else(|| self.reader.consumed(), Consumed::get),
            // Standard input may begin in the middle of a file, so its total is unknown.
            bytes_total: self
                .guard
                .as_ref()
                .filter(|_| self.path.is_some())
                .map(|guard| guard.identity().size()),
        }
    }

    fn identity(&self) -> Option<String> {
        self.guard.as_ref().map(|guard| guard.identity().to_string())
    }

    fn watch(&self) -> Option<Watch> {
        let (guard, reading) = (self.guard.clone()?, self.reading());
        Some(Box::new(move || guard.check().with_context(|| reading.clone())))
    }

    fn check(&self) -> anyhow::Result<()> {
        self.guard.as_ref().map_or(Ok(()), |guard| guard.check().with_context(|| self.reading()))
    }

    fn survey(&mut self) -> anyhow::Result<Survey> {
        let plain = self.plain_again()?;
        columns::survey([Ok(plain)], DEFAULT_LIMIT, self.options.declared.dialect)
            .with_context(|| self.reading())
    }

    fn seek(&mut self, row: u64) -> anyhow::Result<()> {
        if row < self.next {
            let Some(path) = &self.path else {
                bail!(
                    "the source asks for row {row} again, but {}, now at row {}, cannot go back; start the job again, or \
                     give a file",
                    self.name,
                    self.next
                );
            };
            // Another file at this path would have other rows.
            let identity = self.guard.as_ref().map(Guard::identity);
            *self = Self::open(path, Options { identity, ..self.options })?;
        }
        if !self.skip_to(row)? {
            bail!("the source asks for row {row}, but {} has only {}", self.name, self.next);
        }
        Ok(())
    }

    fn fill(&mut self, out: &mut Vec<u8>) -> anyhow::Result<()> {
        while out.len() < WRITE_SIZE {
            // The program that writes to a pipe may be slow: do not hold back the rows that are here.
            if self.path.is_none() && !out.is_empty() && !self.reader.has_row() {
                break;
            }
            let context = || format!("reading {}", self.name);
            let Some(row) = self.reader.next_row().with_context(context)? else {
                break;
            };
            match row.flaw {
                // Workers detect an open quote themselves.
                Some(Flaw::OpenQuote) | None => frame::push(out, row.bytes),
                Some(flaw) => frame::push_flawed(out, &flaw.to_string(), row.bytes),
            }
            self.next += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use protocol::frame::Row;

    use super::*;

    pub(super) fn rows(input: &mut dyn Input) -> Vec<Vec<u8>> {
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
        Csv::new(Box::new(text.as_bytes()), "the test".into(), Options::default(), None, None)
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
        assert!(csv("h\n0\n").unwrap().seek(2).unwrap_err().to_string().contains("has only 1"));
    }

    #[test]
    fn rows_may_have_any_bytes_and_a_row_above_the_limit_is_sent_as_flawed() {
        let long = "x".repeat(DEFAULT_LIMIT + 1);
        let text = format!("h\n\u{4}\n{long}\n\u{5}{{}}\n").leak();
        let (mut input, mut frames) = (csv(text).unwrap(), Vec::new());
        while input.position() < 3 {
            let mut out = Vec::new();
            input.fill(&mut out).unwrap();
            frames.extend_from_slice(&out);
        }
        let rows: Vec<_> = frame::rows(&frames).collect();
        let reason = "the row is longer than 16777216 bytes; its first bytes are these";
        let flawed = Row::Flawed { reason, beginning: &long.as_bytes()[..1000] };
        assert_eq!(rows, [Row::Whole(b"\x04"), flawed, Row::Whole(b"\x05{}")]);
        assert_eq!(input.extent().bytes, text.len() as u64);
    }

    #[test]
    fn rows_of_another_dialect_are_sent_in_the_standard_one() {
        let options =
            Options { declared: Declared::parse(Some(";"), None, Some("#")).unwrap(), identity: None };
        let text = "# made\na;b\n1;2,5\n# 2\n2;\"open\n3;c\n";
        let mut input = Csv::new(Box::new(text.as_bytes()), "the test".into(), options, None, None).unwrap();
        assert_eq!(input.header(), b"a,b");
        let mut frames = Vec::new();
        while input.position() < 3 {
            let mut out = Vec::new();
            input.fill(&mut out).unwrap();
            frames.extend(out);
        }
        let flawed = Row::Flawed { reason: "a quoted value is not closed", beginning: b"2;\"open" };
        let rows: Vec<_> = frame::rows(&frames).collect();
        assert_eq!(rows, [Row::Whole(b"1,\"2,5\""), flawed, Row::Whole(b"3,c")]);
        assert_eq!((input.position(), input.extent().bytes), (3, text.len() as u64));
    }

    #[test]
    fn a_file_goes_back_unless_another_has_taken_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.csv");
        std::fs::write(&path, "h\n0\n1\n2\n").unwrap();
        let mut input = Csv::open(&path, Options::default()).unwrap();
        input.seek(2).unwrap();
        input.seek(0).unwrap();
        assert_eq!(rows(&mut input), [b"0", b"1", b"2"]);
        std::fs::write(folder.path().join("new.csv"), "h\n0\n1\n9\n").unwrap();
        std::fs::rename(folder.path().join("new.csv"), &path).unwrap();
        let error = format!("{:#}", input.seek(1).unwrap_err());
        assert!(
            error.contains("in.csv: it has changed while it was read: another file is in its place"),
            "{error}"
        );
        assert!(input.check().is_err());
    }
}
