//! What an input is: an address, or a format that is no plain text, by its first bytes.

use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Whether an input's path is an HTTP address, or that of an object of S3.
pub fn is_address(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.starts_with("https://") || text.starts_with("http://"))
        || is_object(path)
}

/// Whether an input's path is the address of an object of S3, or of all objects below a prefix.
pub fn is_object(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.starts_with("s3://"))
}

/// An input's path or address for messages: without what may be secret in an address.
pub fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    if !is_address(path) || is_object(path) {
        return text;
    }
    let address = text.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = address.split_once("://").unwrap_or_default();
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}/{path}")
}

/// A format that the sender turns into a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Gzip,
    Zstd,
    Parquet,
}

impl Format {
    /// How many first bytes decide.
    pub const SAMPLE: usize = 5;

    /// Reads the first bytes of an input, as many as decide: a text may be a stream whose next byte comes much later.
    ///
    /// # Errors
    /// Those of the input.
    pub fn read_first(mut input: impl Read) -> io::Result<Vec<u8>> {
        let mut first = Vec::new();
        while first.len() < Self::SAMPLE && Self::may_follow(&first) {
            let mut next = [0; Self::SAMPLE];
            match input.read(&mut next[..Self::SAMPLE - first.len()]) {
                Ok(0) => break,
                Ok(read) => first.extend_from_slice(&next[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(first)
    }

    /// Whether more bytes may make this the beginning of a format.
    fn may_follow(first: &[u8]) -> bool {
        let begins = |magic: &[u8]| magic.starts_with(first) || first.starts_with(magic);
        let skipped = |first: &[u8]| match first {
            [0x50..=0x5f, rest @ ..] => {
                b"\x2a\x4d\x18".starts_with(rest) || rest.starts_with(b"\x2a\x4d\x18")
            }
            first => first.is_empty(),
        };
        [&b"\x1f\x8b\x08"[..], b"\x28\xb5\x2f\xfd", b"PAR1"].into_iter().any(begins) || skipped(first)
    }

    /// The format of an input that begins with these bytes.
    pub fn of(first: &[u8]) -> Option<Self> {
        match first {
            [0x1f, 0x8b, 0x08, ..] => Some(Self::Gzip),
            // It may begin with a frame to skip.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            // A header may begin with these letters.
            [b'P', b'A', b'R', b'1', next, ..] if !next.is_ascii_graphic() && !next.is_ascii_whitespace() => {
                Some(Self::Parquet)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_secrets() {
        let address = Path::new("https://me:key@host:80/a/b.csv?X-Amz-Signature=1@2/3#x");
        assert!(is_address(address) && !is_address(Path::new("https.csv")));
        assert_eq!(shown(address), "https://host:80/a/b.csv");
        for other in ["a?b.csv", "s3://bucket/a?b#c@d.csv"] {
            assert_eq!(shown(Path::new(other)), other);
        }
    }

    #[test]
    fn a_format_is_known_by_its_first_bytes() {
        assert_eq!(Format::of(b"PAR1\x15\x04"), Some(Format::Parquet));
        /// Returns a byte at a time, and must not be read beyond the end.
        struct Live(&'static [u8]);
        impl Read for Live {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                let (first, rest) = self.0.split_first().expect("no more is needed");
                out[0] = *first;
                self.0 = rest;
                Ok(1)
            }
        }
        for (begin, needed) in
            [(&b"A"[..], 1), (b"PA,", 3), (b"\n", 1), (b"P\n", 2), (b"PAR1\x15", 5), (b"\x1f\x8b\x08\0\0", 5)]
        {
            assert_eq!(Format::read_first(Live(begin)).unwrap().len(), needed, "{begin:?}");
        }
        assert_eq!(Format::read_first(&b"PAR"[..]).unwrap(), b"PAR");
        assert_eq!(Format::of(b"\x5a\x2a\x4d\x18\x03"), Some(Format::Zstd));
        for text in [&b"PAR1,PAR2\n"[..], b"PAR1\nx", b"PAR1", b"", b"\x1f\x8b", b"id,x\n"] {
            assert_eq!(Format::of(text), None);
        }
    }
}
