//! Formats that are no plain text, by their first bytes. Pure.

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
    fn a_format_is_known_by_its_first_bytes() {
        assert_eq!(Format::of(b"PAR1\x15\x04"), Some(Format::Parquet));
        for text in [&b"PAR1,PAR2\n"[..], b"PAR1\nx", b"PAR1", b"", b"\x1f\x8b", b"id,x\n"] {
            assert_eq!(Format::of(text), None);
        }
    }
}
