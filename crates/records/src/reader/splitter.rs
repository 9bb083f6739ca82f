//! Finds rows in a stream, in any dialect, and returns them as they came.

use std::io::{self, Read};

use super::{Flaw, Row, beginning};
use crate::{BOM, Dialect};

pub(super) const BLOCK: usize = 512 << 10;
const STANDARD: (u8, u8) = (b',', b'"');

/// Splits a stream into rows. Its methods are documented in [`super::Reader`].
#[derive(Debug)]
pub(super) struct Splitter<R> {
    inner: R,
    pub(super) buffer: Vec<u8>,
    /// `buffer[start..end]` has been read and not returned yet.
    start: usize,
    end: usize,
    /// Where the search for the row's end continues, and whether that is inside quotes.
    searched: usize,
    quoted: bool,
    /// The offset from `start` at which the line with the open quote ends, if its value continues on another line.
    line_end: Option<usize>,
    /// The rest of a line must be skipped: of a row above the limit, or of a comment.
    skipping: bool,
    /// `inner` has ended.
    finished: bool,
    begun: bool,
    /// Bytes read from `inner`.
    read: u64,
    limit: usize,
    dialect: Dialect,
    /// The dialect's quote; a line feed, which is never taken for a quote, if it has none.
    quote: u8,
}

/// A row that is complete in the buffer.
struct Found {
    end: usize,
    next: usize,
    flaw: Option<Flaw>,
}

impl<R: Read> Splitter<R> {
    pub(super) fn new(inner: R, limit: usize, dialect: Dialect) -> Self {
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
            dialect,
            quote: dialect.quote.unwrap_or(b'\n'),
        }
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn has_row(&mut self) -> bool {
        self.begun && self.skip() && self.locate().is_some()
    }

    pub(super) fn consumed(&self) -> u64 {
        self.read - (self.end - self.start) as u64
    }

    pub(super) fn peek(&mut self, most: usize, enough: impl Fn(&[u8]) -> bool) -> io::Result<(&[u8], bool)> {
        self.begin()?;
        while !self.finished && self.end - self.start < most && !enough(&self.buffer[self.start..self.end]) {
            self.fill()?;
        }
        let end = self.end.min(self.start.saturating_add(most));
        Ok((&self.buffer[self.start..end], self.finished && end == self.end))
    }

    pub(super) fn next_row(&mut self) -> io::Result<Option<Row<'_>>> {
        self.begin()?;
        let Found { end, next, flaw } = loop {
            if self.skip()
                && let Some(found) = self.locate()
            {
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

    /// Skips the rest of a row above the limit, and comments, as far as they have been read. Returns whether a row, or nothing
    /// yet, comes next.
    fn skip(&mut self) -> bool {
        (!self.skipping && self.dialect.comment.is_none()) || self.skip_lines()
    }

    /// Not inlined, since most inputs have nothing to skip.
    #[inline(never)]
    fn skip_lines(&mut self) -> bool {
        while self.skipping || self.dialect.is_comment(&self.buffer[self.start..self.end]) {
            let line_end = memchr::memchr(b'\n', &self.buffer[self.start..self.end]);
            self.start = line_end.map_or(self.end, |at| self.start + at + 1);
            self.searched = self.start;
            self.skipping = line_end.is_none();
            if self.skipping {
                return false;
            }
        }
        true
    }

    /// Finds the row's end. If there is none yet, remembers how far it has searched.
    fn locate(&mut self) -> Option<Found> {
        match (self.dialect.delimiter, self.quote) {
            // With constants, the code is faster.
            STANDARD => self.locate_in(STANDARD),
            other => self.locate_in(other),
        }
    }

    #[inline(always)]
    fn locate_in(&mut self, (delimiter, quote): (u8, u8)) -> Option<Found> {
        // No row reaches beyond this: its bytes, and a line feed.
        let most = self.start.saturating_add(self.limit).saturating_add(1);
        let available = self.end.min(most);
        let is_cut = available == most;
        while self.searched < available {
            let Some(found) = memchr::memchr2(quote, b'\n', &self.buffer[self.searched..available]) else {
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
                    self.quoted = at == self.start || self.buffer[at - 1] == delimiter;
                    self.line_end = None;
                    self.searched = at + 1;
                }
                (_, true) => match self.quote_at(at, available, (delimiter, quote)) {
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
    #[inline(always)]
    fn quote_at(&self, at: usize, available: usize, (delimiter, quote): (u8, u8)) -> Quote {
        let after = &self.buffer[at + 1..available];
        match after.first() {
            None => Quote::Unclear,
            Some(&byte) if byte == quote => Quote::Doubled,
            // Text after it belongs to the value, as in pandas, and affects no other row.
            Some(_) if self.line_end.is_none() => Quote::Closing,
            // After several lines, it is more likely the opening quote of a later row: an earlier row has lost its closing quote.
            Some(_) => {
                // A delimiter may be a blank, too.
                let ends = |byte: u8| byte == delimiter || matches!(byte, b'\r' | b'\n');
                match after.iter().find(|&&byte| ends(byte) || !matches!(byte, b' ' | b'\t')) {
                    None => Quote::Unclear,
                    Some(&byte) if ends(byte) => Quote::Closing,
                    Some(_) => Quote::Stray,
                }
            }
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
