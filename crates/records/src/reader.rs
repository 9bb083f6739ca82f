//! Splits a stream of any size into rows.
//!
//! A bad row affects no other row: an unclosed quote spoils the line on which it opens, and a row above the limit is cut. Reading
//! continues with the next line. Where rows end depends on the bytes and the limit alone, not on the pieces in which the bytes
//! arrive, so a reader that starts over counts the same rows.
//!
//! Each byte is examined about twice at most. If a search finds no closing quote, it has passed only doubled quotes, so none of
//! the lines that it has passed leaves a quote open.
//!
//! Records of another [`Dialect`] are converted, so that all code behind the reader knows only the standard dialect.

mod splitter;

use std::io::{self, Read};

use splitter::Splitter;

use crate::Dialect;
use crate::convert::Converter;

/// The most bytes returned of a row above the limit.
const BEGINNING: usize = 1000;
/// A row that is not converted is sent with its flaw. Both have room in a frame of the limit if the row leaves this many bytes.
const ROOM: usize = 100;

/// A record of the standard dialect, or the bytes of a bad row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// The record without its line end; if it is too long, only its first bytes. Those of a bad row are as they came.
    pub bytes: &'a [u8],
    /// Why the row is not a record, if it is not.
    pub flaw: Option<Flaw>,
}

/// Why a row is not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A quote opens on this line, and is not closed before the limit or the end of the input; or the next quote is not where a
    /// value of several lines can end.
    #[error("a quoted value is not closed")]
    OpenQuote,
    /// The same in a dialect whose records are converted. The bytes (only the first ones, if they fill the limit) are as they
    /// came: read as a record of the standard dialect, they may look whole, so the flaw must be passed on with them.
    #[error("a quoted value is not closed")]
    Unconverted,
    /// It has more bytes than a row may have, as it came or converted.
    #[error("the row is longer than {limit} bytes; its first bytes are these")]
    TooLong { limit: usize },
}

/// Splits a stream into rows. Skips a byte order mark at its beginning, and comments. The last line end may be missing. An empty
/// line is an empty record.
#[derive(Debug)]
pub struct Reader<R> {
    splitter: Splitter<R>,
    /// `None` if records are returned as they came.
    converter: Option<Converter>,
}

impl<R: Read> Reader<R> {
    /// Reads rows of the standard dialect, of at most `limit` bytes, and returns them to the byte.
    pub fn new(inner: R, limit: usize) -> Self {
        Self::with_dialect(inner, limit, Dialect::default())
    }

    /// Reads rows of this dialect, of at most `limit` bytes, and returns them as records of the standard dialect, also of at
    /// most `limit` bytes. Values stay the same to the byte; they are quoted only where they must be.
    pub fn with_dialect(inner: R, limit: usize, dialect: Dialect) -> Self {
        Self {
            splitter: Splitter::new(inner, limit, dialect),
            converter: dialect.converts().then(|| Converter::new(dialect)),
        }
    }

    pub fn dialect(&self) -> Dialect {
        self.splitter.dialect()
    }

    /// Whether [`Self::next_row`] returns a row without reading from the stream.
    pub fn has_row(&mut self) -> bool {
        self.splitter.has_row()
    }

    /// Bytes of the stream that belong to returned rows and to comments before them, line ends included.
    pub fn consumed(&self) -> u64 {
        self.splitter.consumed()
    }

    /// The next bytes as they come, comments included, without consuming them. Reads until they are `enough`, and at most `most`
    /// bytes. Also returns whether the stream ends there.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn peek(&mut self, most: usize, enough: impl Fn(&[u8]) -> bool) -> io::Result<(&[u8], bool)> {
        self.splitter.peek(most, enough)
    }

    /// The next row; `None` at the end of the stream.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn next_row(&mut self) -> io::Result<Option<Row<'_>>> {
        let Some(converter) = &mut self.converter else { return self.splitter.next_row() };
        let limit = self.splitter.limit();
        Ok(self.splitter.next_row()?.map(|row| convert(row, converter, limit)))
    }
}

/// The row as one of the standard dialect.
fn convert<'a>(row: Row<'a>, converter: &'a mut Converter, limit: usize) -> Row<'a> {
    let Row { bytes, flaw } = row;
    let converted = match flaw {
        None => converter.convert(bytes).ok(),
        Some(Flaw::TooLong { .. }) => return row,
        Some(_) => None,
    };
    match converted {
        Some(record) if record.len() <= limit => Row { bytes: record, flaw: None },
        Some(_) => Row { bytes: beginning(bytes), flaw: Some(Flaw::TooLong { limit }) },
        None => {
            let has_room = bytes.len().saturating_add(ROOM) <= limit;
            Row { bytes: if has_room { bytes } else { beginning(bytes) }, flaw: Some(Flaw::Unconverted) }
        }
    }
}

/// The first bytes of a row; they end between characters if the row is UTF-8.
fn beginning(row: &[u8]) -> &[u8] {
    if row.len() <= BEGINNING {
        return row;
    }
    let is_start = |at: usize| row[at] & 0xc0 != 0x80;
    let end = (BEGINNING - 3..=BEGINNING).rev().find(|&at| is_start(at)).unwrap_or(BEGINNING);
    &row[..end]
}

#[cfg(test)]
mod dialect_tests;
#[cfg(test)]
mod tests;
