//! Texts: decompresses them, and turns them into UTF-8.

use std::io::{self, BufReader, Cursor, ErrorKind, Read, Write};

use anyhow::{Context, anyhow};
use encoding_rs::{Decoder, DecoderResult, Encoding};
use protocol::conversion;
use records::format::Format;

/// The longest distance of a repetition, as a power of two: that of `zstd --ultra --long=31`.
const LONGEST_WINDOW: u32 = 31;
/// How many bytes are read or written at once.
const BLOCK: usize = 256 << 10;
/// A byte that no UTF-8 has: it takes the place of a character that cannot be decoded, so that only its row is rejected.
const NOT_UTF8: u8 = 0xff;

/// The encoding with this name, as browsers know it, such as `windows-1252` or `utf-16le`.
///
/// # Errors
/// There is none.
pub fn encoding(name: &str) -> anyhow::Result<&'static Encoding> {
    Encoding::for_label_no_replacement(name.as_bytes()).ok_or_else(|| {
        anyhow!(
            "the encoding {name:?} is unknown; there are those of the WHATWG Encoding Standard, such as windows-1252, iso-8859-2, \
             utf-16le, shift_jis or gbk, and iconv converts a file from others"
        )
    })
}

/// Writes a text as pieces of UTF-8. Decompresses it if its first bytes are those of zstd. A character that is not in the
/// encoding becomes the byte 255, so that its row is not UTF-8.
///
/// # Errors
/// The text cannot be read or decompressed, or nothing reads the output.
pub fn decode(
    input: impl Read,
    encoding: Option<&'static Encoding>,
    mut out: impl Write,
) -> anyhow::Result<()> {
    let mut counted = Counted { inner: input, count: 0 };
    let first = Format::read_first(&mut counted).context("reading the text")?;
    let mut decoder = encoding.map(Encoding::new_decoder);
    let mut convert = |bytes: &[u8], consumed, is_last| -> anyhow::Result<()> {
        let writing = "writing the text";
        match &mut decoder {
            Some(decoder) => {
                let text = to_utf8(decoder, bytes, is_last);
                conversion::write_bytes(&mut out, consumed, &text).context(writing)
            }
            None => conversion::write_bytes(&mut out, consumed, bytes).context(writing),
        }
    };
    let mut block = vec![0; BLOCK];
    if Format::of(&first) != Some(Format::Zstd) {
        convert(&first, counted.count, false)?;
        loop {
            let read = read(&mut counted, &mut block).context("reading the text")?;
            convert(&block[..read], counted.count, read == 0)?;
            if read == 0 {
                return Ok(());
            }
        }
    }
    let input = BufReader::with_capacity(BLOCK, Cursor::new(first).chain(counted));
    let mut zstd = zstd::Decoder::with_buffer(input).context("starting zstd")?;
    zstd.window_log_max(LONGEST_WINDOW).context("starting zstd")?;
    loop {
        let read = read(&mut zstd, &mut block);
        let consumed = zstd.get_ref().get_ref().get_ref().1.count;
        let read = read.map_err(|error| broken(&error, consumed))?;
        convert(&block[..read], consumed, read == 0)?;
        if read == 0 {
            return Ok(());
        }
    }
}

fn broken(error: &io::Error, consumed: u64) -> anyhow::Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => {
            anyhow!("it is cut off: its zstd stream has no end after {consumed} bytes")
        }
        _ => anyhow!("it is damaged, at or before byte {consumed} of its zstd stream: {error}"),
    }
}

fn read(mut input: impl Read, block: &mut [u8]) -> io::Result<usize> {
    loop {
        match input.read(block) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

fn to_utf8(decoder: &mut Decoder, mut bytes: &[u8], is_last: bool) -> Vec<u8> {
    let mut text = Vec::new();
    let mut room = vec![0; decoder.max_utf8_buffer_length_without_replacement(bytes.len()).unwrap_or(BLOCK)];
    loop {
        let (result, read, written) = decoder.decode_to_utf8_without_replacement(bytes, &mut room, is_last);
        text.extend_from_slice(&room[..written]);
        bytes = &bytes[read..];
        match result {
            DecoderResult::InputEmpty => return text,
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(..) => text.push(NOT_UTF8),
        }
    }
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(out)?;
        self.count += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::conversion::Piece;

    use super::*;

    /// Decodes an input that arrives in pieces of some bytes. Returns the text, and how much of the input was read for it.
    fn decoded(input: &[u8], step: usize, name: Option<&str>) -> anyhow::Result<(Vec<u8>, u64)> {
        struct Steps<'a>(&'a [u8], usize);
        impl Read for Steps<'_> {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                let length = out.len().min(self.1);
                self.0.read(&mut out[..length])
            }
        }
        let mut out = Vec::new();
        decode(Steps(input, step), name.map(encoding).transpose()?, &mut out)?;
        let (mut stream, mut text, mut last) = (&out[..], Vec::new(), 0);
        while !stream.is_empty() {
            let Piece::Bytes { consumed, bytes } = conversion::read(&mut stream)? else { panic!("no bytes") };
            text.extend(bytes);
            last = consumed;
        }
        Ok((text, last))
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    proptest! {
        #[test]
        fn frames_are_read_one_after_the_other(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..4),
            step in 1..5000_usize,
        ) {
            let skipped = b"\x5a\x2a\x4d\x18\x03\0\0\0abc";
            let frames_of = frames.iter().flat_map(|frame| zstd(frame));
            let compressed: Vec<u8> = skipped.iter().copied().chain(frames_of).collect();
            let length = compressed.len() as u64;
            prop_assert_eq!(decoded(&compressed, step, None).unwrap(), (frames.concat(), length));
        }

        #[test]
        fn other_texts_are_decoded(text in "(\r\n|[a-zäöü€,\"]){0,300}", step in 1..50_usize, is_compressed: bool) {
            let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let marked = [&b"\xff\xfe"[..], &utf16].concat();
            let western = encoding("windows-1252").unwrap().encode(&text).0.into_owned();
            for (bytes, name) in [(&utf16, "UTF-16LE"), (&marked, "utf-16"), (&western, "windows-1252")] {
                let bytes = if is_compressed { zstd(bytes) } else { bytes.clone() };
                let (found, consumed) = decoded(&bytes, step, Some(name)).unwrap();
                prop_assert_eq!(String::from_utf8(found).unwrap(), text.clone());
                prop_assert_eq!(consumed, bytes.len() as u64);
            }
        }
    }

    #[test]
    fn a_character_that_is_not_in_the_encoding_spoils_only_itself() {
        let (text, _) = decoded(b"a,\x81\x20,b\nc", 1, Some("shift_jis")).unwrap();
        assert_eq!(text, b"a,\xff ,b\nc");
        assert!(encoding("iso-2022-kr").is_err());
        assert!(encoding("klingon").unwrap_err().to_string().contains("\"klingon\" is unknown"));
    }

    #[test]
    fn a_broken_stream_is_an_error_that_says_where() {
        let rows: String = (0..200_000).map(|i| format!("{i}\n")).collect();
        let whole = zstd(rows.as_bytes());
        for cut in [5, 12, whole.len() / 2, whole.len() - 1] {
            let error = decoded(&whole[..cut], BLOCK, None).unwrap_err().to_string();
            assert_eq!(error, format!("it is cut off: its zstd stream has no end after {cut} bytes"));
        }
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let error = decoded(&damaged, BLOCK, None).unwrap_err().to_string();
        assert!(
            error.starts_with("it is damaged, at or before byte ") && error.contains("checksum"),
            "{error}"
        );
        let error = decoded(&[&whole[..], b"trailing bytes"].concat(), BLOCK, None).unwrap_err().to_string();
        assert!(error.starts_with("it is damaged, at or before byte "), "{error}");
    }
}
