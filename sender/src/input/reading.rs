//! The bytes of a CSV, of an input in any form that can be read as one.

use std::fs::File;
use std::io::{Cursor, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use columns::ColumnType;
use protocol::conversion::Source;
use records::Declared;
use records::format::Format;
use records::identity::{Guard, Guarded};

use super::converted::{Converted, Table};
use super::{Consumed, compressed};

/// What the user says of an input.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Of a text.
    pub declared: Declared,
    /// Of a text, if it is not UTF-8.
    pub encoding: Option<String>,
    /// The program `formats`, if the input may need it.
    pub formats: Option<PathBuf>,
    /// The file with signed requests for objects of S3.
    pub signed: Option<PathBuf>,
}

impl From<Table> for Plain {
    fn from(Table { rows, types, source }: Table) -> Self {
        Self { consumed: Some(rows.consumed()), bytes: Box::new(rows), types: Some(types), source }
    }
}

/// The bytes of a CSV.
pub(super) struct Plain {
    pub(super) bytes: Box<dyn Read>,
    pub(super) consumed: Option<Consumed>,
    /// The types of its columns, if the input declares them.
    pub(super) types: Option<Vec<ColumnType>>,
    /// What is known of a file at an address.
    pub(super) source: Option<Source>,
}

impl Reading {
    /// The text of an input, decompressed and in UTF-8.
    pub(super) fn text(&self, input: Box<dyn Read + Send>) -> anyhow::Result<Plain> {
        let (mut bytes, consumed) = compressed::open(input)?;
        let first = Format::read_first(&mut bytes)?;
        let is_zstd = Format::of(&first) == Some(Format::Zstd);
        let bytes = Box::new(Cursor::new(first).chain(bytes));
        let program = self.formats.as_ref().filter(|_| is_zstd || self.encoding.is_some());
        let Some(program) = program else { return Ok(Plain { bytes, consumed, types: None, source: None }) };
        let converted = Converted::text(program, self.encoding.as_deref(), bytes)?;
        let consumed = consumed.or_else(|| Some(converted.consumed()));
        Ok(Plain { bytes: Box::new(converted), consumed, types: None, source: None })
    }

    /// A file's text, or its table as a CSV.
    pub(super) fn file(&self, file: File, path: &Path, guard: Guard) -> anyhow::Result<Plain> {
        let mut first = [0; Format::SAMPLE];
        let read = file.read_at(&mut first, 0)?;
        if let Some(formats) = &self.formats
            && Format::of(&first[..read]) == Some(Format::Parquet)
        {
            return Ok(Converted::table(formats, path, None)?.into());
        }
        self.text(Box::new(Guarded::new(file, guard)?))
    }

    /// The same of a file at an address, which must have this identity.
    pub(super) fn address(&self, address: &Path, identity: Option<&str>) -> anyhow::Result<Plain> {
        let formats = self.formats.as_ref().context("no program that fetches it was named (--formats)")?;
        let signed = self.signed.as_deref();
        let (mut fetched, source) = Converted::fetched(formats, address, signed)?;
        let consumed = fetched.consumed();
        let first = Format::read_first(&mut fetched)?;
        let mut plain = if Format::of(&first) == Some(Format::Parquet) {
            Converted::table(formats, address, signed)?.into()
        } else {
            let text = self.text(Box::new(Cursor::new(first).chain(fetched)))?;
            // How much was fetched is more accurate than how much of that was decoded.
            Plain { consumed: Some(consumed), ..text }
        };
        let found = plain.source.get_or_insert(source);
        ensure!(
            identity.is_none_or(|identity| identity == found.identity),
            "it has changed since the job began; start it again"
        );
        Ok(plain)
    }
}
