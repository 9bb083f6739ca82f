//! What an input is: an address, or a format that is no plain text, by its first bytes. Pure.

use std::path::Path;

/// Whether an input's path is an HTTP address.
pub fn is_address(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.starts_with("https://") || text.starts_with("http://"))
}

/// An input's path or address for messages: without what may be secret in an address.
pub fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    if !is_address(path) {
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

    /// The format of an input that begins with these bytes.
    pub fn of(first: &[u8]) -> Option<Self> {
        match first {
            [0x1f, 0x8b, 0x08, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
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
        assert_eq!(shown(Path::new("a?b.csv")), "a?b.csv");
    }

    #[test]
    fn a_format_is_known_by_its_first_bytes() {
        assert_eq!(Format::of(b"PAR1\x15\x04"), Some(Format::Parquet));
        for text in [&b"PAR1,PAR2\n"[..], b"PAR1\nx", b"PAR1", b"", b"\x1f\x8b", b"id,x\n"] {
            assert_eq!(Format::of(text), None);
        }
    }
}
