//! Splits a stream of any size into rows.
//!
//! A bad row affects no other row: an unclosed quote spoils the line on which it opens, and a row above the limit is cut. Reading
//! continues with the next line. Where rows end depends on the bytes and the limit alone, not on the pieces in which the bytes
//! arrive, so a reader that starts over counts the same rows.
//!
//! Each byte is examined about twice at most. If a search finds no closing quote, it has passed only doubled quotes, so none of
//! the lines that it has passed leaves a quote open.

use std::io::{self, Read};

use crate::BOM;

const BLOCK: usize = 512 << 10;
/// The most bytes returned of a row above the limit.
const BEGINNING: usize = 1000;

/// A record, or the bytes of a bad row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// The record without its line end; if it is too long, only its first bytes.
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
    /// It has more bytes than a row may have.
    #[error("the row is longer than {limit} bytes; its first bytes are these")]
    TooLong { limit: usize },
}

/// Splits a stream into rows. Skips a byte order mark at its beginning. The last line end may be missing. An empty line is
/// an empty record.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    buffer: Vec<u8>,
    /// `buffer[start..end]` has been read and not returned yet.
    start: usize,
    end: usize,
    /// Where the search for the row's end continues, and whether that is inside quotes.
    searched: usize,
    quoted: bool,
    /// The offset from `start` at which the line with the open quote ends, if its value continues on another line.
    line_end: Option<usize>,
    /// The rest of a row above the limit must be skipped.
    skipping: bool,
    /// `inner` has ended.
    finished: bool,
    begun: bool,
    /// Bytes read from `inner`.
    read: u64,
    limit: usize,
}

/// A row that is complete in the buffer.
struct Found {
    end: usize,
    next: usize,
    flaw: Option<Flaw>,
}

impl<R: Read> Reader<R> {
    /// Reads rows of at most `limit` bytes.
    pub fn new(inner: R, limit: usize) -> Self {
        Self {
            inner,
            buffer: vec![0; BLOCK],
            start: 0,
            end: 0,
            searched: 0,
            quoted: false,
            line_end: None,
            skipping: false,
            finished: false,
            begun: false,
            read: 0,
            limit,
        }
    }

    /// Whether [`Self::next_row`] returns a row without reading from the stream.
    pub fn has_row(&mut self) -> bool {
        self.begun && self.skip() && self.locate().is_some()
    }

    /// Bytes of the stream that belong to returned rows, line ends included.
    pub fn consumed(&self) -> u64 {
        self.read - (self.end - self.start) as u64
    }

    /// The next bytes, without consuming them. Reads until they are `enough`, and at most `most` bytes. Also returns whether
    /// the stream ends there.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn peek(&mut self, most: usize, enough: impl Fn(&[u8]) -> bool) -> io::Result<(&[u8], bool)> {
        self.begin()?;
        while !self.finished && self.end - self.start < most && !enough(&self.buffer[self.start..self.end]) {
            self.fill()?;
        }
        let end = self.end.min(self.start.saturating_add(most));
        Ok((&self.buffer[self.start..end], self.finished && end == self.end))
    }

    /// The next row; `None` at the end of the stream.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn next_row(&mut self) -> io::Result<Option<Row<'_>>> {
        self.begin()?;
        while !self.skip() {
            if self.finished {
                return Ok(None);
            }
            self.fill()?;
        }
        let Found { end, next, flaw } = loop {
            if let Some(found) = self.locate() {
                break found;
            }
            if self.finished {
                return Ok(None);
            }
            self.fill()?;
        };
        let bytes = self.start..end;
        self.skipping = matches!(flaw, Some(Flaw::TooLong { .. }));
        self.start = next;
        self.searched = next;
        self.quoted = false;
        self.line_end = None;
        let bytes = &self.buffer[bytes];
        let bytes = match flaw {
            Some(Flaw::TooLong { .. }) => beginning(bytes),
            _ if next > end => bytes.strip_suffix(b"\r").unwrap_or(bytes),
            _ => bytes,
        };
        Ok(Some(Row { bytes, flaw }))
    }

    /// Skips a byte order mark at the beginning of the stream.
    fn begin(&mut self) -> io::Result<()> {
        if self.begun {
            return Ok(());
        }
        while self.end < BOM.len() && !self.finished {
            self.fill()?;
        }
        if self.buffer[..self.end].starts_with(BOM) {
            self.start = BOM.len();
            self.searched = self.start;
        }
        self.begun = true;
        Ok(())
    }

    /// Skips the rest of a row above the limit, as far as it has been read. Returns whether all of it is skipped.
    fn skip(&mut self) -> bool {
        if self.skipping {
            let line_end = memchr::memchr(b'\n', &self.buffer[self.start..self.end]);
            self.start = line_end.map_or(self.end, |at| self.start + at + 1);
            self.searched = self.start;
            self.skipping = line_end.is_none();
        }
        !self.skipping
    }

    /// Finds the row's end. If there is none yet, remembers how far it has searched.
    fn locate(&mut self) -> Option<Found> {
        // No row reaches beyond this: its bytes, and a line feed.
        let most = self.start.saturating_add(self.limit).saturating_add(1);
        let available = self.end.min(most);
        let is_cut = available == most;
        while self.searched < available {
            let Some(found) = memchr::memchr2(b'"', b'\n', &self.buffer[self.searched..available]) else {
                self.searched = available;
                break;
            };
            let at = self.searched + found;
            match (self.buffer[at], self.quoted) {
                (b'\n', false) => return Some(Found { end: at, next: at + 1, flaw: None }),
                (b'\n', true) => {
                    self.line_end.get_or_insert(at - self.start);
                    self.searched = at + 1;
                }
                (_, false) => {
                    // A quote opens a quoted value only where a value begins.
                    self.quoted = at == self.start || self.buffer[at - 1] == b',';
                    self.line_end = None;
                    self.searched = at + 1;
                }
                (_, true) => match self.quote(at, available) {
                    Quote::Doubled => self.searched = at + 2,
                    Quote::Closing => {
                        self.quoted = false;
                        self.searched = at + 1;
                    }
                    Quote::Stray => return self.open_quote(),
                    // The row does not end within the limit, whatever follows.
                    Quote::Unclear if is_cut => break,
                    Quote::Unclear if self.finished => {
                        self.quoted = false;
                        self.searched = at + 1;
                    }
                    Quote::Unclear => {
                        self.searched = at;
                        return None;
                    }
                },
            }
        }
        if is_cut {
            let flaw = Some(Flaw::TooLong { limit: self.limit });
            return self.open_quote().or(Some(Found { end: available, next: available, flaw }));
        }
        if !self.finished || self.start == self.end {
            return None;
        }
        let flaw = self.quoted.then_some(Flaw::OpenQuote);
        self.open_quote().or(Some(Found { end: self.end, next: self.end, flaw }))
    }

    /// What a quote inside quotes means, which depends on the bytes after it.
    fn quote(&self, at: usize, available: usize) -> Quote {
        let after = &self.buffer[at + 1..available];
        match after.first() {
            None => Quote::Unclear,
            Some(b'"') => Quote::Doubled,
            // Text after it belongs to the value, as in pandas, and affects no other row.
            Some(_) if self.line_end.is_none() => Quote::Closing,
            // After several lines, it is more likely the opening quote of a later row: an earlier row has lost its closing quote.
            Some(_) => match after.iter().find(|byte| !matches!(byte, b' ' | b'\t')) {
                None => Quote::Unclear,
                Some(b',' | b'\r' | b'\n') => Quote::Closing,
                Some(_) => Quote::Stray,
            },
        }
    }

    /// The line with the open quote, if it ends before the row does.
    fn open_quote(&self) -> Option<Found> {
        let end = self.start + self.line_end.filter(|_| self.quoted)?;
        Some(Found { end, next: end + 1, flaw: Some(Flaw::OpenQuote) })
    }

    /// Reads once, and appends to the buffer.
    fn fill(&mut self) -> io::Result<()> {
        if self.end == self.buffer.len() {
            if self.start > self.buffer.len() / 2 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.searched -= self.start;
                self.start = 0;
            } else {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        let read = loop {
            match self.inner.read(&mut self.buffer[self.end..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.end += read;
        self.read += read as u64;
        self.finished = read == 0;
        Ok(())
    }
}

/// A quote inside quotes.
enum Quote {
    /// The first of two quotes that stand for one.
    Doubled,
    Closing,
    /// It would close a value of several lines, but more text follows.
    Stray,
    /// More bytes are needed.
    Unclear,
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
mod tests;
