//! The beginning of an input: checks that it is a CSV, and reads its header.

use std::io::{self, Read};

use crate::sniff::{self, Name, SAMPLE};
use crate::{Reader, check_header};

/// Why an input is refused.
#[derive(Debug, thiserror::Error)]
pub enum BadInput {
    /// It is not a CSV with commas and a header, for this reason.
    #[error("{0}")]
    Refused(String),
    /// Reading failed.
    #[error("reading {name}: {source}")]
    Io { name: String, source: io::Error },
}

/// Reads the header of an input from which nothing has been read yet. With `commas`, the user has declared that it is a CSV with
/// commas, whatever it looks like. Reads no more of a stream than necessary, since its rows may arrive much later.
///
/// # Errors
/// See [`BadInput`].
pub fn read_header<R: Read>(
    reader: &mut Reader<R>,
    name: Name<'_>,
    commas: bool,
) -> Result<Vec<u8>, BadInput> {
    let io = |source| BadInput::Io { name: name.name.to_owned(), source };
    let refused = |why: String| BadInput::Refused(why);
    let enough = |seen: &[u8]| !name.is_file && sniff::is_enough(seen);
    let (seen, is_all) = reader.peek(SAMPLE, enough).map_err(io)?;
    sniff::check(seen, is_all, commas, name).map_err(|why| refused(format!("{} {why}", name.name)))?;
    let row = reader.next_row().map_err(io)?;
    let row = row.ok_or_else(|| refused(format!("{} is empty", name.name)))?;
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

    fn header(text: &[u8], is_file: bool) -> Result<Vec<u8>, String> {
        let mut reader = Reader::new(text, 100);
        read_header(&mut reader, Name { name: "it", is_file }, false).map_err(|error| error.to_string())
    }

    #[test]
    fn a_header_is_read_or_the_input_is_refused_with_a_reason() {
        for is_file in [true, false] {
            assert_eq!(header(b"\xef\xbb\xbfA,\"B\nC\"\r\n1,2\n", is_file), Ok(b"A,\"B\nC\"".to_vec()));
            let said = |text: &[u8]| header(text, is_file).unwrap_err();
            assert!(said(b"").starts_with("it is empty; the first line must be"));
            assert!(said(b"A;B\n1;2\n").starts_with("it seems to have semicolons"));
            assert_eq!(said(b"A,\"B\n1,2\n"), "the header of it is malformed: a quoted value is not closed");
            assert!(
                said("x".repeat(200).as_bytes())
                    .starts_with("the header of it is malformed: the row is longer")
            );
            assert!(said(b"A,\xff\n").starts_with("the header of it is not UTF-8"));
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
        assert_eq!(read_header(&mut reader, name, false).unwrap(), b"ID,NAME");
    }
}
