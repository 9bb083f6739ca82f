//! A record's values.

/// Why a record's values cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a quoted value is not closed")]
    OpenQuote,
    /// So this is more than one record.
    #[error("a line end outside quotes")]
    LineEnd,
}

/// Why a record cannot be a CSV's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    #[error("is empty")]
    Empty,
    /// It begins with a byte that the protocol reserves.
    #[error("starts with a control character")]
    Control,
    #[error("is not UTF-8; pass its encoding, for example --encoding windows-1252")]
    NotUtf8,
    /// Outside quotes: the program that wrote this ends lines with it, so all rows would be part of the header.
    #[error("has a carriage return in it; lines must end with a line feed (or with both)")]
    CarriageReturn,
    #[error("is malformed: {0}")]
    Malformed(#[from] Malformed),
}

/// # Errors
/// The record cannot be a CSV's header.
pub fn check_header(header: &[u8]) -> Result<(), BadHeader> {
    match header {
        [] => return Err(BadHeader::Empty),
        // ENQ and EOT: these begin frames of the protocol.
        [0x04 | 0x05, ..] => return Err(BadHeader::Control),
        _ => {}
    }
    std::str::from_utf8(header).map_err(|_| BadHeader::NotUtf8)?;
    count(header)?;
    if has_carriage_return_outside_quotes(header)? {
        return Err(BadHeader::CarriageReturn);
    }
    Ok(())
}

/// Reads value by value, since a quote in the middle of a value is an ordinary character.
fn has_carriage_return_outside_quotes(record: &[u8]) -> Result<bool, Malformed> {
    let mut rest = record;
    loop {
        if let Some(quoted) = rest.strip_prefix(b"\"") {
            rest = unquote(quoted, b'"', &mut |_| {})?;
        }
        let (value, after) = rest.split_at(memchr::memchr(b',', rest).unwrap_or(rest.len()));
        if value.contains(&b'\r') {
            return Ok(true);
        }
        match after.split_first() {
            Some((_, next)) => rest = next,
            None => return Ok(false),
        }
    }
}

/// Why a record cannot be classified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("an empty record")]
    Empty,
    #[error("not UTF-8 after byte {0}")]
    NotUtf8(usize),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("{values} values; the header has {columns}")]
    Count { values: usize, columns: usize },
}

/// Checks that a record can be a row of a table with this number of columns.
///
/// # Errors
/// It cannot.
pub fn check_record(record: &[u8], columns: usize) -> Result<Shape, Unfit> {
    if record.is_empty() {
        return Err(Unfit::Empty);
    }
    let shape = Shape::of(record);
    if !shape.ascii
        && let Err(error) = std::str::from_utf8(record)
    {
        return Err(Unfit::NotUtf8(error.valid_up_to()));
    }
    let values = if shape.special { count(record)? } else { shape.commas + 1 };
    if values == columns { Ok(shape) } else { Err(Unfit::Count { values, columns }) }
}

/// Bytes examined at once: a register of any x86-64 or ARM64 processor.
const LANES: usize = 16;

/// What one quick pass over a record finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Commas, also those inside quotes.
    pub commas: usize,
    /// Whether there are quotes or line feeds, so that values must be read one by one.
    pub special: bool,
    /// Whether all bytes are ASCII.
    pub ascii: bool,
}

impl Shape {
    pub fn of(record: &[u8]) -> Self {
        let (mut commas, mut special, mut all) = (0, [0; LANES], [0; LANES]);
        // The counters of a piece fit in a byte each, so the compiler can vectorize the loop.
        for piece in record.chunks(255 * LANES) {
            let mut counts = [0u8; LANES];
            let mut look = |bytes: &[u8; LANES]| {
                for (lane, &byte) in bytes.iter().enumerate() {
                    // At most 255, so it does not wrap; an overflow check would prevent vectorization.
                    counts[lane] = counts[lane].wrapping_add(u8::from(byte == b','));
                    special[lane] |= u8::from(byte == b'"') | u8::from(byte == b'\n');
                    all[lane] |= byte;
                }
            };
            let (whole, rest) = piece.as_chunks();
            whole.iter().for_each(&mut look);
            if !rest.is_empty() {
                look(&match piece.last_chunk() {
                    // Shifts out the bytes that were examined already.
                    Some(last) => (u128::from_le_bytes(*last) >> (8 * (LANES - rest.len()))).to_le_bytes(),
                    None => std::array::from_fn(|lane| rest.get(lane).copied().unwrap_or_default()),
                });
            }
            commas += counts.iter().map(|&count| usize::from(count)).sum::<usize>();
        }
        Self { commas, special: special != [0; LANES], ascii: all.is_ascii() }
    }
}

/// The number of values in a record.
///
/// # Errors
/// See [`Malformed`].
pub fn count(record: &[u8]) -> Result<usize, Malformed> {
    walk(record, |_| {})
}

/// Appends the record's values to `out`, with `separator` between them, and returns their number.
///
/// # Errors
/// See [`Malformed`]. Values appended before the error remain in `out`.
pub fn join(record: &[u8], separator: u8, out: &mut Vec<u8>) -> Result<usize, Malformed> {
    walk(record, |piece| match piece {
        Piece::Between => out.push(separator),
        Piece::Part(part) => out.extend_from_slice(part),
    })
}

/// The record's values.
///
/// # Errors
/// See [`Malformed`].
pub fn split(record: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut values = vec![Vec::new()];
    walk(record, |piece| match (piece, values.last_mut()) {
        (Piece::Part(part), Some(value)) => value.extend_from_slice(part),
        _ => values.push(Vec::new()),
    })?;
    Ok(values)
}

/// Calls `visit` with each value, without its quotes, and returns the number of values. The buffer holds a quoted value.
///
/// # Errors
/// See [`Malformed`]; after some values may have been visited.
pub fn for_each(
    record: &[u8],
    buffer: &mut Vec<u8>,
    mut visit: impl FnMut(&[u8]),
) -> Result<usize, Malformed> {
    for_each_quoted(record, buffer, |value, _| visit(value))
}

/// As [`for_each`]; `visit` is also told whether the value is quoted, since some formats tell an empty text from a missing value.
///
/// # Errors
/// See [`Malformed`]; after some values may have been visited.
pub fn for_each_quoted(
    record: &[u8],
    buffer: &mut Vec<u8>,
    mut visit: impl FnMut(&[u8], bool),
) -> Result<usize, Malformed> {
    let mut rest = record;
    let mut count = 0;
    loop {
        count += 1;
        let quoted = rest.strip_prefix(b"\"");
        if let Some(quoted) = quoted {
            buffer.clear();
            rest = unquote(quoted, b'"', &mut |part| buffer.extend_from_slice(part))?;
        }
        let end = memchr::memchr2(b',', b'\n', rest);
        let value = &rest[..end.unwrap_or(rest.len())];
        if quoted.is_some() {
            buffer.extend_from_slice(value);
            visit(buffer, true);
        } else {
            visit(value, false);
        }
        match end {
            None => return Ok(count),
            Some(at) if rest[at] == b'\n' => return Err(Malformed::LineEnd),
            Some(at) => rest = &rest[at + 1..],
        }
    }
}

/// A piece of a record.
enum Piece<'a> {
    /// The boundary between two values.
    Between,
    /// A part of a value.
    Part(&'a [u8]),
}

/// Calls `visit` for each piece of the record, and returns the number of values.
fn walk(record: &[u8], mut visit: impl FnMut(Piece<'_>)) -> Result<usize, Malformed> {
    let mut rest = record;
    let mut count = 0;
    loop {
        if count > 0 {
            visit(Piece::Between);
        }
        count += 1;
        let mut part = |part: &[u8]| visit(Piece::Part(part));
        if let Some(quoted) = rest.strip_prefix(b"\"") {
            rest = unquote(quoted, b'"', &mut part)?;
        }
        // The value, or the text after its closing quote.
        let end = memchr::memchr2(b',', b'\n', rest);
        part(&rest[..end.unwrap_or(rest.len())]);
        match end {
            None => return Ok(count),
            Some(at) if rest[at] == b'\n' => return Err(Malformed::LineEnd),
            Some(at) => rest = &rest[at + 1..],
        }
    }
}

/// Calls `part` for each part before the closing quote, and returns the bytes after it.
pub(crate) fn unquote<'a>(
    mut rest: &'a [u8],
    quote: u8,
    part: &mut impl FnMut(&[u8]),
) -> Result<&'a [u8], Malformed> {
    loop {
        let at = memchr::memchr(quote, rest).ok_or(Malformed::OpenQuote)?;
        part(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.strip_prefix(&[quote]) {
            Some(more) => {
                part(&[quote]);
                rest = more;
            }
            None => return Ok(rest),
        }
    }
}

/// The number of values in a line with this separator and quote, even if the line is malformed.
pub(crate) fn count_separated(line: &[u8], separator: u8, quote: Option<u8>) -> usize {
    let (mut count, mut quoted, mut begins) = (1, false, true);
    for &byte in line {
        match byte {
            _ if Some(byte) == quote && (quoted || begins) => quoted = !quoted,
            _ if byte == separator && !quoted => {
                count += 1;
                begins = true;
                continue;
            }
            _ => {}
        }
        begins = false;
    }
    count
}

/// Appends a value to a CSV line, quoted if necessary.
pub fn write_value(value: &[u8], out: &mut Vec<u8>) {
    if memchr::memchr3(b'"', b',', b'\n', value).is_none() && memchr::memchr(b'\r', value).is_none() {
        out.extend_from_slice(value);
        return;
    }
    out.push(b'"');
    write_escaped(value, out);
    out.push(b'"');
}

/// Appends a value with its quotes doubled, for use between quotes.
pub fn write_escaped(value: &[u8], out: &mut Vec<u8>) {
    for (i, part) in value.split(|&b| b == b'"').enumerate() {
        if i > 0 {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(record: &str) -> Result<Vec<String>, Malformed> {
        let mut out = Vec::new();
        let count = join(record.as_bytes(), 0x1f, &mut out)?;
        let values: Vec<_> = String::from_utf8(out).unwrap().split('\x1f').map(str::to_owned).collect();
        assert_eq!(values.len(), count);
        let split_values = split(record.as_bytes())?;
        assert!(values.iter().map(String::as_bytes).eq(split_values.iter().map(Vec::as_slice)));
        let mut visited = Vec::new();
        let count = for_each(record.as_bytes(), &mut Vec::new(), |value| visited.push(value.to_vec()))?;
        assert_eq!((count, visited), (values.len(), split_values));
        Ok(values)
    }

    #[test]
    fn headers_are_checked() {
        for good in ["A", "A,B", "\"a\r\nb\",B", "\u{e9}", "5\" pipe,\"a\rb\""] {
            assert_eq!(check_header(good.as_bytes()), Ok(()), "{good:?}");
        }
        assert_eq!(check_header(b""), Err(BadHeader::Empty));
        assert_eq!(check_header(b"\x05{}"), Err(BadHeader::Control));
        assert_eq!(check_header(b"a\xff"), Err(BadHeader::NotUtf8));
        assert_eq!(check_header(b"ID,NAME\r1,a\r2,b"), Err(BadHeader::CarriageReturn));
        // A quote inside a value is an ordinary character.
        for lines in ["SIZE 5\"\r1,a", "\"a\" \"b\r1,a", "\"a\"\r1,\"b\""] {
            assert_eq!(check_header(lines.as_bytes()), Err(BadHeader::CarriageReturn), "{lines:?}");
        }
        assert_eq!(check_header(b"\"a"), Err(BadHeader::Malformed(Malformed::OpenQuote)));
    }

    #[test]
    fn values_are_unquoted() {
        assert_eq!(values("a,b").unwrap(), ["a", "b"]);
        assert_eq!(values("").unwrap(), [""]);
        assert_eq!(values(",").unwrap(), ["", ""]);
        assert_eq!(values(r#""a,b",c"#).unwrap(), ["a,b", "c"]);
        assert_eq!(values(r#"1,"say ""hi""",""#).unwrap_err(), Malformed::OpenQuote);
        assert_eq!(values(r#"1,"say ""hi""","#).unwrap(), ["1", "say \"hi\"", ""]);
        assert_eq!(values("\"two\r\nlines\",x").unwrap(), ["two\r\nlines", "x"]);
        assert_eq!(values(r#"5" pipe,x"#).unwrap(), ["5\" pipe", "x"]);
        assert_eq!(values(r#""ab"c,d"#).unwrap(), ["abc", "d"]);
        assert_eq!(values("a\nb").unwrap_err(), Malformed::LineEnd);
        assert_eq!(values("\"a\"\nb").unwrap_err(), Malformed::LineEnd);
    }

    #[test]
    fn quoted_values_are_told_apart() {
        let mut seen = Vec::new();
        let visit = |value: &[u8], quoted| seen.push((value.to_vec(), quoted));
        assert_eq!(for_each_quoted(br#"a,,"","b","c"d,e""#, &mut Vec::new(), visit), Ok(6));
        let expected: [(&[u8], bool); 6] =
            [(b"a", false), (b"", false), (b"", true), (b"b", true), (b"cd", true), (b"e\"", false)];
        assert_eq!(seen, expected.map(|(value, quoted)| (value.to_vec(), quoted)));
    }

    proptest! {
        /// At any position, and after as many commas as fit in the counters.
        #[test]
        fn shape_counts_like_a_simple_loop(
            bytes in prop::collection::vec(prop::sample::select(&b"aaaa,,\"\n\xc3\xff\0"[..]), 0..40),
            at in 0..=2 * 255 * LANES,
        ) {
            let record = [&vec![b','; at], &bytes[..]].concat();
            let found = Shape {
                commas: record.iter().filter(|&&byte| byte == b',').count(),
                special: record.contains(&b'"') || record.contains(&b'\n'),
                ascii: record.is_ascii(),
            };
            prop_assert_eq!(Shape::of(&record), found);
        }

        #[test]
        fn written_values_read_back(sent in prop::collection::vec("[a,\"\r\n\u{e9}]{0,6}", 1..6)) {
            let mut record = Vec::new();
            for (i, value) in sent.iter().enumerate() {
                if i > 0 { record.push(b','); }
                write_value(value.as_bytes(), &mut record);
            }
            prop_assert_eq!(values(std::str::from_utf8(&record).unwrap()).unwrap(), sent);
        }

        /// The `csv` crate's own parser agrees on every record that is one.
        #[test]
        fn csv_core_agrees(record in "[ab,\"\u{e9}]{1,12}") {
            if let Ok(ours) = values(&record) {
                let mut theirs = Vec::new();
                let (mut reader, mut value) = (csv_core::Reader::new(), vec![0; 64]);
                let (mut rest, mut filled) = (record.as_bytes(), 0);
                loop {
                    let (outcome, read, written) = reader.read_field(rest, &mut value[filled..]);
                    rest = &rest[read..];
                    filled += written;
                    match outcome {
                        csv_core::ReadFieldResult::Field { .. } => {
                            theirs.push(String::from_utf8(value[..filled].to_vec()).unwrap());
                            filled = 0;
                        }
                        csv_core::ReadFieldResult::InputEmpty => {}
                        csv_core::ReadFieldResult::OutputFull => unreachable!("64 bytes are enough"),
                        csv_core::ReadFieldResult::End => break,
                    }
                }
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
