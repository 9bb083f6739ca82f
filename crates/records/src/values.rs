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
mod tests;
