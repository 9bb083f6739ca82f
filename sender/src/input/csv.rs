//! CSVs, plain, compressed, or in a form that the program `formats` reads.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use columns::{ColumnType, Survey};
use protocol::conversion::Source;
use protocol::frame::{self, DEFAULT_LIMIT};
use records::format::{is_address, shown};
use records::identity::{Guard, Guarded, Identity};
use records::sniff::Name;
use records::{Declared, Dialect, Flaw, Reader};

use super::reading::{Plain, Reading};
use super::{Consumed, Extent, Input, WRITE_SIZE, Watch};

/// A CSV, from a file or from standard input.
pub struct Csv {
    /// The file or its address, if it can be reopened.
    path: Option<PathBuf>,
    name: String,
    options: Options,
    reader: Reader<Box<dyn Read>>,
    header: Vec<u8>,
    next: u64,
    /// Detects changes of the file; `None` if the CSV is not a file.
    guard: Option<Guard>,
    /// What is known of a file at an address.
    source: Option<Source>,
    /// How much of an input has been read that is no plain text.
    consumed: Option<Consumed>,
    /// The types of its columns, if the input declares them.
    types: Option<Vec<ColumnType>>,
}

/// How a CSV is opened.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The identity that the file must have.
    pub identity: Option<String>,
    pub reading: Reading,
}

impl Options {
    fn file_identity(&self) -> anyhow::Result<Option<Identity>> {
        self.identity.as_deref().map(str::parse).transpose()
    }
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
        let name = shown(path);
        if is_address(path) {
            let plain = options.reading.address(path, options.identity.as_deref());
            let plain = plain.with_context(|| format!("reading {name}"))?;
            return Self::new(plain, name, options, Some(path.to_owned()), None);
        }
        let opening = || format!("opening the input {name}");
        let file = File::open(path).with_context(opening)?;
        let found = file.metadata().with_context(opening)?;
        ensure!(!found.is_dir(), "the input {name} is a folder; give a CSV file");
        if found.is_file() {
            let guard = Guard::new(&file, Some(path), options.file_identity()?).with_context(opening)?;
            let plain = options.reading.file(file, path, guard.clone());
            let plain = plain.with_context(|| format!("reading {name}"))?;
            return Self::new(plain, name, options, Some(path.to_owned()), Some(guard));
        }
        // A pipe cannot be reopened, and has no length.
        let plain = options.reading.text(Box::new(file)).with_context(|| format!("reading {name}"))?;
        Self::new(plain, name, options, None, None)
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
        let identity = options.file_identity()?;
        let guard = is_file.then(|| Guard::new(&stdin, None, identity)).transpose();
        let guard = guard.with_context(opening)?;
        let inner: Box<dyn Read + Send> = match &guard {
            Some(guard) => Box::new(Guarded::new(stdin, guard.clone()).with_context(opening)?),
            None => Box::new(stdin),
        };
        let plain = options.reading.text(inner).with_context(|| format!("reading {name}"))?;
        Self::new(plain, name, options, None, guard)
    }

    fn new(
        Plain { bytes, consumed, types, source }: Plain,
        name: String,
        options: Options,
        path: Option<PathBuf>,
        guard: Option<Guard>,
    ) -> anyhow::Result<Self> {
        let mut declared = options.reading.declared;
        if types.is_some() {
            // A table becomes a CSV of the standard dialect, whatever its values look like.
            declared = Declared { delimiter: true, comment: true, ..Declared::default() };
        }
        let mut reader = Reader::with_dialect(bytes, DEFAULT_LIMIT, declared.dialect);
        // Shell commands that read a file would get other bytes.
        let named = Name { name: &name, is_file: path.is_some() && consumed.is_none() };
        let header = records::read_header(&mut reader, named, declared)?;
        Ok(Self { path, name, options, reader, header, next: 0, guard, source, consumed, types })
    }

    fn reading(&self) -> String {
        format!("reading {}", self.name)
    }

    /// The bytes of the file's CSV once more, from its beginning.
    pub(super) fn plain_again(&self) -> anyhow::Result<Box<dyn Read>> {
        let path = self.path.as_ref().context("only a file can be read twice")?;
        if let Some(source) = &self.source {
            let plain = self.options.reading.address(path, Some(&source.identity));
            return Ok(plain.with_context(|| self.reading())?.bytes);
        }
        let identity = self.guard.as_ref().map(Guard::identity);
        let file = File::open(path).with_context(|| format!("opening the input {}", self.name))?;
        let guard = Guard::new(&file, Some(path), identity).with_context(|| self.reading())?;
        let plain = self.options.reading.file(file, path, guard);
        Ok(plain.with_context(|| self.reading())?.bytes)
    }

    /// Of its file, in bytes.
    pub(super) fn length(&self) -> Option<u64> {
        let file = self.guard.as_ref().filter(|_| self.path.is_some());
        let of_file = file.map(|guard| guard.identity().size());
        of_file.or_else(|| self.source.as_ref().map(|source| source.length))
    }

    /// The dialect of the bytes of its CSV.
    pub(super) fn dialect(&self) -> Dialect {
        self.reader.dialect()
    }

    /// The types of its columns, if it declares them.
    pub(super) fn types(&self) -> Option<&[ColumnType]> {
        self.types.as_deref()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Skips rows up to this one. Returns `false` if there are fewer.
    pub(super) fn skip_to(&mut self, row: u64) -> anyhow::Result<bool> {
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
            bytes: self.consumed.as_ref().map_or_else(|| self.reader.consumed(), Consumed::get),
            // Standard input may begin in the middle of a file, so its total is unknown.
            bytes_total: self.length(),
        }
    }

    fn identity(&self) -> Option<String> {
        let of_file = self.guard.as_ref().map(|guard| guard.identity().to_string());
        of_file.or_else(|| self.source.as_ref().map(|source| source.identity.clone()))
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
        let survey = columns::survey([Ok(plain)], DEFAULT_LIMIT, self.dialect());
        let survey = survey.with_context(|| self.reading())?;
        let types = self.types.clone().unwrap_or(survey.types);
        Ok(Survey { types, ..survey })
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
            let identity = self.identity();
            *self = Self::open(path, Options { identity, ..self.options.clone() })?;
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

    use super::super::tests::rows;
    use super::*;

    fn csv(text: &'static str) -> anyhow::Result<Csv> {
        let plain = Plain { bytes: Box::new(text.as_bytes()), consumed: None, types: None, source: None };
        Csv::new(plain, "the test".into(), Options::default(), None, None)
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
        let declared = Declared::parse(Some(";"), None, Some("#")).unwrap();
        let options = Options { reading: Reading { declared, ..Reading::default() }, identity: None };
        let text = "# made\na;b\n1;2,5\n# 2\n2;\"open\n3;c\n";
        let plain = Plain { bytes: Box::new(text.as_bytes()), consumed: None, types: None, source: None };
        let mut input = Csv::new(plain, "the test".into(), options, None, None).unwrap();
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
