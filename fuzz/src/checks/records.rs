//! Checks the CSV dialect: for any bytes in pieces of any size, the reader returns the same records as a state machine that
//! goes byte by byte. The functions of the dialect agree with each other. Records of other dialects keep their values.

use records::sniff::{self, Name};
use records::{BOM, BadHeader, Declared, Dialect, Flaw, Malformed, Reader, Row, Shape};

use crate::allocation::largest_allocation;
use crate::input::{Pieces, settings};

const STANDARD: Dialect = Dialect { delimiter: b',', quote: Some(b'"'), comment: None };
const OTHERS: [Dialect; 5] = [
    Dialect { delimiter: b';', ..STANDARD },
    Dialect { delimiter: b'\t', comment: Some(b'#'), ..STANDARD },
    Dialect { delimiter: b' ', quote: Some(b'\''), comment: Some(b'"') },
    Dialect { quote: None, ..STANDARD },
    Dialect { comment: Some(b'a'), ..STANDARD },
];

/// # Panics
/// If an invariant does not hold for this input.
pub fn check(input: &[u8]) {
    let Some(([limit, first, second, ask], stream)) = settings(input) else { return };
    let limit = [0, 1, 5, 100, 10_000, 16 << 20][usize::from(limit) % 6];
    let expected = split(stream, limit, STANDARD);
    let mut reader = Reader::new(Pieces::new(stream, [first, second]), limit);
    let (_, largest) = largest_allocation(|| {
        for (i, row) in expected.iter().enumerate() {
            // `has_row` must not change what is read.
            if (ask >> (i % 8)) & 1 == 1 {
                reader.has_row();
            }
            assert_eq!(reader.next_row().unwrap(), Some(*row));
        }
        assert_eq!(reader.next_row().unwrap(), None);
        assert_eq!(reader.consumed(), stream.len() as u64);
    });
    assert!(largest <= (1 << 20) + 4 * stream.len(), "{largest} bytes for a stream of {}", stream.len());
    for Row { bytes, flaw } in expected {
        match flaw {
            None => joined(bytes, &values(bytes).expect("the reader returns whole records")),
            // Workers detect this themselves.
            Some(Flaw::OpenQuote) => assert_eq!(values(bytes), Err(Malformed::OpenQuote)),
            Some(Flaw::TooLong { .. }) => assert!(bytes.len() <= 1000 && bytes.len() <= limit + 1),
            Some(Flaw::Unconverted) => panic!("the standard dialect is not converted"),
        }
        header(bytes);
    }
    OTHERS.iter().for_each(|dialect| other(stream, limit, [first, second], *dialect));
    let name = Name { name: "it", is_file: ask & 1 == 1 };
    let seen = &stream[..stream.len().min(sniff::SAMPLE)];
    let plain = Declared::default();
    let dialect = OTHERS[usize::from(ask >> 4) % OTHERS.len()];
    let declared = Declared { delimiter: ask & 2 == 2, comment: ask & 4 == 4, ..plain };
    for declared in [plain, declared, Declared { dialect, ..declared }] {
        if let Err(why) = sniff::check(seen, true, declared, name) {
            assert!(why.to_string().contains("; "));
        }
        sniff::hints(seen, declared);
    }
    if seen.contains(&b'\n')
        && sniff::check(seen, false, plain, name).is_ok()
        && !sniff::is_enough(seen, plain)
    {
        assert_eq!(seen.iter().filter(|&&byte| byte == b'\n').count(), 1);
    }
    // A frame may contain anything.
    match values(stream) {
        Ok(values) => joined(stream, &values),
        Err(malformed) => {
            assert!(Shape::of(stream).special);
            assert_eq!(records::join(stream, 0, &mut Vec::new()), Err(malformed));
        }
    }
    header(stream);
}

/// Checks that the rows of another dialect have the same values after they are converted.
fn other(stream: &[u8], limit: usize, sizes: [u8; 2], dialect: Dialect) {
    let mut reader = Reader::with_dialect(Pieces::new(stream, sizes), limit, dialect);
    for expected in split(stream, limit, dialect) {
        let row = reader.next_row().unwrap().expect("as many rows");
        match (expected.flaw, row.flaw) {
            (_, flaw) if !dialect.converts() => {
                assert_eq!((row.bytes, flaw), (expected.bytes, expected.flaw));
            }
            (None, None) => {
                assert!(row.bytes.len() <= limit && row.bytes.is_empty() == expected.bytes.is_empty());
                assert_eq!(values(row.bytes), values_in(expected.bytes, dialect));
            }
            // The converted record is longer.
            (None, flaw) => {
                assert_eq!((row.bytes, flaw), (beginning(expected.bytes), Some(Flaw::TooLong { limit })));
            }
            (Some(Flaw::OpenQuote), flaw) => {
                assert_eq!(values_in(expected.bytes, dialect), Err(Malformed::OpenQuote));
                assert_eq!(flaw, Some(Flaw::Unconverted));
                assert!(row.bytes == expected.bytes || row.bytes == beginning(expected.bytes));
            }
            (expected_flaw, flaw) => assert_eq!((row.bytes, flaw), (expected.bytes, expected_flaw)),
        }
    }
    assert_eq!(reader.next_row().unwrap(), None);
    assert_eq!(reader.consumed(), stream.len() as u64);
}

/// Splits a stream into rows as they came, byte by byte.
fn split(stream: &[u8], limit: usize, dialect: Dialect) -> Vec<Row<'_>> {
    let mut rest = stream.strip_prefix(BOM).unwrap_or(stream);
    let mut rows = Vec::new();
    while !rest.is_empty() {
        if rest.first().copied() == dialect.comment {
            let line = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |end| end + 1);
            rest = &rest[line..];
            continue;
        }
        let (end, flaw) = row(rest, limit, dialect);
        // A carriage return is removed only as part of a line end.
        let bytes = match (flaw, end < rest.len()) {
            (Some(Flaw::TooLong { .. }), _) => beginning(&rest[..end]),
            (_, true) => rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]),
            (_, false) => &rest[..end],
        };
        rows.push(Row { bytes, flaw });
        let behind = match flaw {
            Some(Flaw::TooLong { .. }) => {
                end + rest[end..].iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())
            }
            _ => end,
        };
        rest = rest.get(behind + 1..).unwrap_or_default();
    }
    rows
}

/// The end of the first row, and its flaw.
fn row(rest: &[u8], limit: usize, dialect: Dialect) -> (usize, Option<Flaw>) {
    let Dialect { delimiter, quote, .. } = dialect;
    let is_quote = |byte: u8| Some(byte) == quote;
    let here = &rest[..rest.len().min(limit + 1)];
    let is_cut = here.len() == limit + 1;
    let (mut at, mut quoted, mut begins, mut line_end) = (0, false, true, None);
    while at < here.len() {
        let behind = &here[at + 1..];
        match here[at] {
            b'\n' if !quoted => return (at, None),
            b'\n' => line_end = line_end.or(Some(at)),
            byte if is_quote(byte) && quoted && behind.first() == Some(&byte) => at += 1,
            byte if is_quote(byte) && quoted => {
                let is_blank = |byte: &u8| b" \t".contains(byte) && *byte != delimiter;
                let next = behind.iter().find(|byte| line_end.is_none() || !is_blank(byte));
                match (line_end, next) {
                    (_, None) if is_cut => break,
                    (Some(end), Some(next)) if *next != delimiter && !b"\r\n".contains(next) => {
                        return (end, Some(Flaw::OpenQuote));
                    }
                    _ => quoted = false,
                }
            }
            byte if is_quote(byte) && begins => (quoted, line_end) = (true, None),
            _ => {}
        }
        begins = !quoted && here[at] == delimiter;
        at += 1;
    }
    match (quoted, line_end, is_cut) {
        (true, Some(end), _) => (end, Some(Flaw::OpenQuote)),
        (_, _, true) => (limit + 1, Some(Flaw::TooLong { limit })),
        (quoted, _, false) => (rest.len(), quoted.then_some(Flaw::OpenQuote)),
    }
}

/// At most 1,000 bytes of the row, cut between characters.
fn beginning(row: &[u8]) -> &[u8] {
    let mut end = row.len().min(1000);
    if end < row.len() {
        end = (997..=1000).rev().find(|&at| row[at] & 0xc0 != 0x80).unwrap_or(1000);
    }
    &row[..end]
}

fn values(record: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    values_in(record, STANDARD)
}

/// Splits a record into values, byte by byte.
fn values_in(record: &[u8], dialect: Dialect) -> Result<Vec<Vec<u8>>, Malformed> {
    let is_quote = |byte: u8| Some(byte) == dialect.quote;
    let mut values = vec![Vec::new()];
    let (mut at, mut quoted, mut begins) = (0, false, true);
    while let Some(&byte) = record.get(at) {
        at += 1;
        let value = values.last_mut().expect("there is always one");
        match byte {
            byte if is_quote(byte) && quoted && record.get(at) == Some(&byte) => {
                value.push(byte);
                at += 1;
            }
            byte if is_quote(byte) && quoted => quoted = false,
            byte if is_quote(byte) && begins => quoted = true,
            byte if byte == dialect.delimiter && !quoted => {
                values.push(Vec::new());
                begins = true;
                continue;
            }
            b'\n' if !quoted => return Err(Malformed::LineEnd),
            byte => value.push(byte),
        }
        begins = false;
    }
    if quoted { Err(Malformed::OpenQuote) } else { Ok(values) }
}

/// Checks that `join`, `Shape` and `write_value` agree on the record's values.
fn joined(record: &[u8], values: &[Vec<u8>]) {
    let separator = 0;
    let mut joined = Vec::new();
    assert_eq!(records::join(record, separator, &mut joined), Ok(values.len()));
    assert_eq!(joined, values.join(&separator));
    let shape = Shape::of(record);
    assert_eq!(shape.ascii, record.is_ascii());
    assert_eq!(shape.commas, record.iter().filter(|&&byte| byte == b',').count());
    if !shape.special {
        assert_eq!(shape.commas + 1, values.len());
    }
    let mut written = Vec::new();
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            written.push(b',');
        }
        records::write_value(value, &mut written);
    }
    assert_eq!(self::values(&written).as_deref(), Ok(values));
}

fn header(record: &[u8]) {
    let checked = records::check_header(record);
    match checked {
        Ok(()) | Err(BadHeader::CarriageReturn) => {
            assert!(!record.is_empty() && std::str::from_utf8(record).is_ok() && values(record).is_ok());
            assert_eq!(checked.is_err(), has_bare_carriage_return(record), "{:?}", record.escape_ascii());
        }
        Err(BadHeader::Malformed(malformed)) => assert_eq!(values(record), Err(malformed)),
        Err(BadHeader::Empty | BadHeader::Control | BadHeader::NotUtf8) => {}
    }
}

/// Whether there is a carriage return outside quotes.
fn has_bare_carriage_return(record: &[u8]) -> bool {
    let (mut at, mut quoted, mut begins) = (0, false, true);
    while let Some(&byte) = record.get(at) {
        match byte {
            b'\r' if !quoted => return true,
            b'"' if quoted && record.get(at + 1) == Some(&b'"') => at += 1,
            b'"' if quoted => quoted = false,
            b'"' if begins => quoted = true,
            _ => {}
        }
        begins = !quoted && byte == b',';
        at += 1;
    }
    false
}
