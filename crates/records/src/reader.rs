//! Rows from a stream of any size.
//!
//! A row that is none costs itself and no other one: a quote that is never closed spoils the line on which it opens, and a
//! row above the limit is cut. What follows is read from the next line on. Where rows end depends on the bytes and the limit
//! alone, and not on the pieces in which they come; so a reader that starts over counts the same rows.
//!
//! No byte is looked at more than about twice. A search that finds no closing quote has passed only doubled ones, so no
//! line of those that it has passed leaves a quote open.

use std::io::{self, Read};

use crate::BOM;

const BLOCK: usize = 512 << 10;
/// So many bytes of a row above the limit are given out, at most.
const BEGINNING: usize = 1000;

/// What stands between two line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// The record, without its line end; of one that is too long, its first bytes.
    pub bytes: &'a [u8],
    /// Why it is no record, if it is none.
    pub flaw: Option<Flaw>,
}

/// Why a row is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A quote opens on this line, and nothing closes it: neither up to the limit or the end of the input, nor does the next
    /// quote stand where a value of several lines ends.
    #[error("a quoted value is not closed")]
    OpenQuote,
    /// It has more bytes than a row may have.
    #[error("the row is longer than {limit} bytes; its first bytes are these")]
    TooLong {
        /// The longest row, in bytes.
        limit: usize,
    },
}

/// Splits a stream to rows. A byte order mark at its beginning is skipped; a missing line end at its
/// end makes no difference; an empty line is an empty record.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    buffer: Vec<u8>,
    /// What is read and not given out yet is `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Where the search for the row's end goes on, and whether it is inside quotes there.
    searched: usize,
    quoted: bool,
    /// How far behind `start` the line ends on which the open quote stands, when its value has more lines.
    line_end: Option<usize>,
    /// The rest of a row above the limit is to be skipped.
    skipping: bool,
    /// No more will come from `inner`.
    finished: bool,
    begun: bool,
    /// Bytes that came from `inner`.
    read: u64,
    limit: usize,
}

/// A row that is whole in the buffer.
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

    /// Whether the next row is here already, so that it can be had without waiting.
    pub fn has_row(&mut self) -> bool {
        self.begun && self.skip() && self.locate().is_some()
    }

    /// How many bytes of the stream belong to rows that were given out, line ends included.
    pub fn consumed(&self) -> u64 {
        self.read - (self.end - self.start) as u64
    }

    /// What comes next, without taking it: read until it is `enough`, and at most `most` bytes. Says as well whether the
    /// stream ends there.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn look(&mut self, most: usize, enough: impl Fn(&[u8]) -> bool) -> io::Result<(&[u8], bool)> {
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

    /// Skips a byte order mark, at first.
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

    /// Skips what is here of a row above the limit; says whether that was all of it.
    fn skip(&mut self) -> bool {
        if self.skipping {
            let line_end = memchr::memchr(b'\n', &self.buffer[self.start..self.end]);
            self.start = line_end.map_or(self.end, |at| self.start + at + 1);
            self.searched = self.start;
            self.skipping = line_end.is_none();
        }
        !self.skipping
    }

    /// Looks for the row's end. Without one, remembers how far it looked.
    fn locate(&mut self) -> Option<Found> {
        // No row reaches behind this: its bytes, and a line feed.
        let most = self.start.saturating_add(self.limit).saturating_add(1);
        let here = self.end.min(most);
        let is_cut = here == most;
        while self.searched < here {
            let Some(found) = memchr::memchr2(b'"', b'\n', &self.buffer[self.searched..here]) else {
                self.searched = here;
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
                (_, true) => match self.quote(at, here) {
                    Quote::Doubled => self.searched = at + 2,
                    Quote::Closing => {
                        self.quoted = false;
                        self.searched = at + 1;
                    }
                    Quote::Stray => return self.open_quote(),
                    // The row does not end within the limit, however this goes on.
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
            let too_long = Found { end: here, next: here, flaw: Some(Flaw::TooLong { limit: self.limit }) };
            return self.open_quote().or(Some(too_long));
        }
        if !self.finished || self.start == self.end {
            return None;
        }
        let flaw = self.quoted.then_some(Flaw::OpenQuote);
        self.open_quote().or(Some(Found { end: self.end, next: self.end, flaw }))
    }

    /// What a quote inside quotes is, by what stands behind it.
    fn quote(&self, at: usize, here: usize) -> Quote {
        let behind = &self.buffer[at + 1..here];
        match behind.first() {
            None => Quote::Unclear,
            Some(b'"') => Quote::Doubled,
            // What follows it belongs to the value, as pandas has it too, and spoils no other row.
            Some(_) if self.line_end.is_none() => Quote::Closing,
            // After several lines it is rather the next row's opening one: some row before it has lost its closing one.
            Some(_) => match behind.iter().find(|byte| !matches!(byte, b' ' | b'\t')) {
                None => Quote::Unclear,
                Some(b',' | b'\r' | b'\n') => Quote::Closing,
                Some(_) => Quote::Stray,
            },
        }
    }

    /// The line on which the open quote stands, if it ends before the row does.
    fn open_quote(&self) -> Option<Found> {
        let end = self.start + self.line_end.filter(|_| self.quoted)?;
        Some(Found { end, next: end + 1, flaw: Some(Flaw::OpenQuote) })
    }

    /// Reads once more, behind what is here.
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
    /// One of two that stand for one.
    Doubled,
    Closing,
    /// It closes a value of several lines, and then the value would go on.
    Stray,
    /// What is here does not say.
    Unclear,
}

/// The first bytes of a row, as whole characters if it is UTF-8.
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
