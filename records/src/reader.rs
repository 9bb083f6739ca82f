//! Records from a stream of any size.

use std::io::{self, Read};

use crate::BOM;

const BLOCK: usize = 512 << 10;

/// Why no further record can be had.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A record is longer than allowed.
    #[error(
        "the record that starts on line {line} is longer than {limit} bytes; is a quote open that should be closed?"
    )]
    TooLong {
        /// The line on which the record starts, counted from 1.
        line: u64,
        /// The longest allowed record in bytes.
        limit: usize,
    },
    /// The stream ended inside quotes.
    #[error("the record that starts on line {line} ends inside quotes, at the end of the input")]
    OpenQuote {
        /// The line on which the record starts, counted from 1.
        line: u64,
    },
    /// Reading failed.
    #[error("reading: {0}")]
    Io(#[from] io::Error),
}

/// Splits a stream to records. A byte order mark at its beginning is skipped; a missing line end at its
/// end makes no difference; an empty line is an empty record.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    buffer: Vec<u8>,
    /// What is read and not given out yet is `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Where the search for the record's end goes on, and whether it is inside quotes there.
    searched: usize,
    quoted: bool,
    /// No more will come from `inner`.
    finished: bool,
    begun: bool,
    line: u64,
    /// Line feeds in the quoted values of the record that is being searched, as far as it is.
    inner_lines: u64,
    limit: usize,
}

impl<R: Read> Reader<R> {
    /// Reads records of at most `limit` bytes.
    pub fn new(inner: R, limit: usize) -> Self {
        Self {
            inner,
            buffer: vec![0; BLOCK],
            start: 0,
            end: 0,
            searched: 0,
            quoted: false,
            finished: false,
            begun: false,
            line: 1,
            inner_lines: 0,
            limit,
        }
    }

    /// Whether the next record is here already, so that it can be had without waiting.
    pub fn has_record(&mut self) -> bool {
        self.begun && self.search().is_some()
    }

    /// The next record, without its line end; `None` at the end of the stream.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn next_record(&mut self) -> Result<Option<&[u8]>, RecordError> {
        if !self.begun {
            while self.end < BOM.len() && !self.finished {
                self.fill()?;
            }
            if self.buffer[..self.end].starts_with(BOM) {
                self.start = BOM.len();
                self.searched = self.start;
            }
            self.begun = true;
        }
        let (at, next) = loop {
            if let Some(line_end) = self.search() {
                break (line_end, line_end + 1);
            }
            if self.end - self.start > self.limit {
                return Err(RecordError::TooLong { line: self.line, limit: self.limit });
            }
            if !self.finished {
                self.fill()?;
            } else if self.start == self.end {
                return Ok(None);
            } else if self.quoted {
                return Err(RecordError::OpenQuote { line: self.line });
            } else {
                break (self.end, self.end);
            }
        };
        let record = self.start..at;
        if at - self.start > self.limit {
            return Err(RecordError::TooLong { line: self.line, limit: self.limit });
        }
        self.start = next;
        self.searched = next;
        let record = &self.buffer[record];
        self.line += 1 + std::mem::take(&mut self.inner_lines);
        Ok(Some(if next > at { record.strip_suffix(b"\r").unwrap_or(record) } else { record }))
    }

    /// Looks for the line feed that ends the record; without one, remembers how far it looked.
    fn search(&mut self) -> Option<usize> {
        while self.searched < self.end {
            let rest = &self.buffer[self.searched..self.end];
            if self.quoted {
                let Some(found) = memchr::memchr2(b'"', b'\n', rest) else {
                    self.searched = self.end;
                    return None;
                };
                let behind = self.searched + found + 1;
                if rest[found] == b'\n' {
                    self.inner_lines += 1;
                    self.searched = behind;
                    continue;
                }
                if behind == self.end && !self.finished {
                    // Whether this quote is doubled is seen when more has come.
                    self.searched += found;
                    return None;
                }
                if behind < self.end && self.buffer[behind] == b'"' {
                    self.searched = behind + 1;
                } else {
                    self.searched = behind;
                    self.quoted = false;
                }
                continue;
            }
            let Some(found) = memchr::memchr2(b'"', b'\n', rest) else {
                self.searched = self.end;
                return None;
            };
            let at = self.searched + found;
            if self.buffer[at] == b'\n' {
                return Some(at);
            }
            // A quote opens a quoted value only where a value begins.
            self.quoted = at == self.start || self.buffer[at - 1] == b',';
            self.searched = at + 1;
        }
        None
    }

    /// Reads once more, behind what is here.
    fn fill(&mut self) -> Result<(), RecordError> {
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
        self.finished = read == 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives a few bytes a read, so that every place in a record is once the end of what is here.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(out.len());
            out[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn all(text: &str, step: usize) -> Result<Vec<String>, RecordError> {
        let mut reader = Reader::new(Trickle(text.as_bytes(), step), 1000);
        let mut records = Vec::new();
        while let Some(record) = reader.next_record()? {
            records.push(String::from_utf8(record.to_vec()).unwrap());
        }
        Ok(records)
    }

    #[test]
    fn records_end_where_they_should() {
        for step in [1, 2, 3, 1000] {
            let records = |text| all(text, step).unwrap();
            assert_eq!(records("a,b\nc,d\n"), ["a,b", "c,d"]);
            assert_eq!(records("a,b\r\nc,d"), ["a,b", "c,d"]);
            assert_eq!(records("a\n\nb"), ["a", "", "b"]);
            assert_eq!(records("\u{feff}a\nb"), ["a", "b"]);
            assert_eq!(records(""), [""; 0]);
            assert_eq!(records("\n"), [""]);
            assert_eq!(records("\"x\ny\",1\n2"), ["\"x\ny\",1", "2"]);
            assert_eq!(records("\"x\"\"\ny\",1\n2"), ["\"x\"\"\ny\",1", "2"]);
            assert_eq!(records("5\" pipe\n6\" pipe\n"), ["5\" pipe", "6\" pipe"]);
            assert_eq!(records("\"a\"\n\"b\"\n"), ["\"a\"", "\"b\""]);
            assert_eq!(records("a\rb\n"), ["a\rb"]);
            assert_eq!(records("\u{feff}\"a\nb\"\n"), ["\"a\nb\""]);
            assert_eq!(records("\"\"\n\"\""), ["\"\"", "\"\""]);
        }
    }

    #[test]
    fn an_open_quote_names_its_line() {
        let error = all("h\n\"a\nb\"\n1,\"open\nand on", 4).unwrap_err().to_string();
        assert_eq!(error, "the record that starts on line 4 ends inside quotes, at the end of the input");
        let error = all(&format!("h\n\"{}", "x".repeat(2000)), 100).unwrap_err().to_string();
        assert!(error.starts_with("the record that starts on line 2 is longer than 1000 bytes"), "{error}");
    }

    #[test]
    fn long_records_grow_the_buffer() {
        let long = "x".repeat(3 * BLOCK);
        let text = format!("{long}\n{long}\n");
        let mut reader = Reader::new(text.as_bytes(), usize::MAX);
        assert_eq!(reader.next_record().unwrap().unwrap(), long.as_bytes());
        assert_eq!(reader.next_record().unwrap().unwrap(), long.as_bytes());
        assert!(reader.next_record().unwrap().is_none());
    }

    proptest! {
        /// The pieces a stream comes in make no difference, and records that were written come back.
        #[test]
        fn written_records_come_back(
            sent in prop::collection::vec(prop::collection::vec("[a,\"\r\n\u{e9}]{0,6}", 2..4), 1..8),
            crlf: bool, last: bool, step in 1usize..40,
        ) {
            let mut records = Vec::new();
            for values in &sent {
                let mut record = Vec::new();
                for (i, value) in values.iter().enumerate() {
                    if i > 0 { record.push(b','); }
                    crate::write_value(value.as_bytes(), &mut record);
                }
                records.push(String::from_utf8(record).unwrap());
            }
            let mut text = records.join(if crlf { "\r\n" } else { "\n" });
            if last { text.push('\n'); }
            prop_assert_eq!(all(&text, step).unwrap(), records);
        }

        /// An error names the line on which its record starts, wherever the reader has looked before.
        #[test]
        fn lines_are_counted(
            values in prop::collection::vec("[a\"\n]{0,6}", 1..8), step in 1usize..40, looks in any::<[bool; 3]>(),
        ) {
            let mut text = Vec::new();
            for value in &values {
                crate::write_value(value.as_bytes(), &mut text);
                text.push(b'\n');
            }
            let lines = text.iter().filter(|&&byte| byte == b'\n').count();
            text.extend_from_slice(b"1,\"open\n\n");
            let mut reader = Reader::new(Trickle(&text, step), 1000);
            let mut turns = looks.into_iter().cycle();
            let error = loop {
                if turns.next().unwrap() {
                    reader.has_record();
                }
                match reader.next_record() {
                    Ok(record) => prop_assert!(record.is_some()),
                    Err(error) => break error.to_string(),
                }
            };
            prop_assert!(error.starts_with(&format!("the record that starts on line {} ", lines + 1)), "{error}");
        }
    }
}
