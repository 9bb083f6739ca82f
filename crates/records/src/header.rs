//! The beginning of an input: checks that it is a CSV, and reads its header.

use std::io::{self, Read};

use crate::sniff::{self, Name, SAMPLE};
use crate::{Declared, Reader, check_header};

/// Why an input is refused.
#[derive(Debug, thiserror::Error)]
pub enum BadInput {
    /// It is not a CSV with a header in the declared dialect, for this reason.
    #[error("{0}")]
    Refused(String),
    /// Reading failed.
    #[error("reading {name}: {source}")]
    Io { name: String, source: io::Error },
}

/// Reads the header of an input from which nothing has been read yet, as a record of the standard dialect. The reader has the
/// declared dialect. Reads no more of a stream than necessary, since its rows may arrive much later.
///
/// # Errors
/// See [`BadInput`].
pub fn read_header<R: Read>(
    reader: &mut Reader<R>,
    name: Name<'_>,
    declared: Declared,
) -> Result<Vec<u8>, BadInput> {
    let io = |source| BadInput::Io { name: name.name.to_owned(), source };
    let refused = |why: String| BadInput::Refused(why);
    debug_assert_eq!(reader.dialect(), declared.dialect);
    let enough = |seen: &[u8]| !name.is_file && sniff::is_enough(seen, declared);
    let (seen, is_all) = reader.peek(SAMPLE, enough).map_err(io)?;
    sniff::check(seen, is_all, declared, name).map_err(|why| refused(format!("{} {why}", name.name)))?;
    let row = reader.next_row().map_err(io)?;
    // An empty input has been refused already.
    let row = row.ok_or_else(|| refused(format!("{} has only comments", name.name)))?;
    let wrong = |why: &dyn std::fmt::Display| refused(format!("the header of {} {why}", name.name));
    if let Some(flaw) = row.flaw {
        return Err(wrong(&format_args!("is malformed: {flaw}")));
    }
    check_header(row.bytes).map_err(|why| wrong(&why))?;
    Ok(row.bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &[u8], is_file: bool, declared: Declared) -> Result<Vec<u8>, String> {
        let mut reader = Reader::with_dialect(text, 100, declared.dialect);
        read_header(&mut reader, Name { name: "it", is_file }, declared).map_err(|error| error.to_string())
    }

    #[test]
    fn a_header_is_read_or_the_input_is_refused_with_a_reason() {
        for is_file in [true, false] {
            let header = |text: &[u8]| header(text, is_file, Declared::default());
            assert_eq!(header(b"\xef\xbb\xbfA,\"B\nC\"\r\n1,2\n"), Ok(b"A,\"B\nC\"".to_vec()));
            let said = |text: &[u8]| header(text).unwrap_err();
            assert!(said(b"").starts_with("it is empty; the first line must be"));
            assert!(said(b"A;B\n1;2\n").starts_with("it seems to have semicolons"));
            assert_eq!(said(b"A,\"B\n1,2\n"), "the header of it is malformed: a quoted value is not closed");
            assert!(
                said("x".repeat(200).as_bytes())
                    .starts_with("the header of it is malformed: the row is longer")
            );
            assert!(said(b"A,\xff\n").starts_with("the header of it is not UTF-8; pass its encoding"));
        }
    }

    #[test]
    fn a_header_of_another_dialect_is_checked_as_converted() {
        let declared = Declared::parse(Some(";"), None, Some("#")).unwrap();
        for is_file in [true, false] {
            let header = |text: &[u8]| header(text, is_file, declared);
            assert_eq!(header(b"\xef\xbb\xbf# made\n#\nA;\"B,C\"\r\n1;2\n"), Ok(b"A,\"B,C\"".to_vec()));
            assert_eq!(header(b"A,B\n1,2\n"), Ok(b"\"A,B\"".to_vec()));
            let said = |text: &[u8]| header(text).unwrap_err();
            assert_eq!(said(b"A;\"B\n1;2\n"), "the header of it is malformed: a quoted value is not closed");
            assert!(said(b"A;B\r1;2\r").contains("has a carriage return in it"));
            assert!(said(b"# made\n#").starts_with("it has only comments; "));
            assert!(said(b"# made\n\nA;B\n").contains("the first line after its comments is empty"));
            let comments = "#\n".repeat(SAMPLE);
            assert_eq!(said(comments.as_bytes()), "it has only comments");
            assert_eq!(header(format!("{comments}A;B").as_bytes()), Ok(b"A,B".to_vec()));
        }
    }

    #[test]
    fn a_stream_is_not_read_beyond_its_header() {
        /// Returns a header, and must not be read again.
        struct Live(Option<&'static [u8]>);
        impl Read for Live {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                let text = self.0.take().expect("it is read once");
                out[..text.len()].copy_from_slice(text);
                Ok(text.len())
            }
        }
        let mut reader = Reader::new(Live(Some(b"ID,NAME\n")), 100);
        let name = Name { name: "it", is_file: false };
        assert_eq!(read_header(&mut reader, name, Declared::default()).unwrap(), b"ID,NAME");
    }
}
