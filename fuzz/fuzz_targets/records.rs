//! The CSV dialect: whatever bytes come, in whatever pieces, the reader gives the records that a machine gives that looks at
//! one byte after the other; and the parts of the dialect agree with each other.
#![no_main]

use fuzz::{Pieces, largest_allocation, settings};
use libfuzzer_sys::fuzz_target;
use records::{BOM, BadHeader, Malformed, Reader, RecordError, Shape};

/// How a stream ends.
#[derive(Debug, PartialEq)]
enum End {
    Closed,
    TooLong(u64),
    OpenQuote(u64),
}

fuzz_target!(|input: &[u8]| {
    let Some(([limit, first, second, ask], stream)) = settings(input) else { return };
    let limit = [0, 1, 5, 100, 10_000, 16 << 20][usize::from(limit) % 6];
    let (expected, end) = split(stream, limit);
    let mut reader = Reader::new(Pieces::new(stream, [first, second]), limit);
    let (_, largest) = largest_allocation(|| {
        for (i, record) in expected.iter().enumerate() {
            // To ask makes no difference.
            if (ask >> (i % 8)) & 1 == 1 {
                reader.has_record();
            }
            assert_eq!(reader.next_record().unwrap(), Some(*record));
        }
        let ended = match reader.next_record() {
            Ok(record) => {
                assert_eq!(record, None);
                End::Closed
            }
            Err(RecordError::TooLong { line, .. }) => End::TooLong(line),
            Err(RecordError::OpenQuote { line }) => End::OpenQuote(line),
            Err(RecordError::Io(error)) => panic!("{error}"),
        };
        assert_eq!(ended, end);
    });
    assert!(largest <= (1 << 20) + 4 * stream.len(), "{largest} bytes for a stream of {}", stream.len());
    for record in expected {
        let values = values(record).expect("the reader gives whole records");
        joined(record, &values);
        header(record);
    }
    // A frame may have anything in it.
    match values(stream) {
        Ok(values) => joined(stream, &values),
        Err(malformed) => {
            assert!(Shape::of(stream).special);
            assert_eq!(records::join(stream, 0, &mut Vec::new()), Err(malformed));
        }
    }
    header(stream);
});

/// Records byte by byte.
fn split(stream: &[u8], limit: usize) -> (Vec<&[u8]>, End) {
    let stream = stream.strip_prefix(BOM).unwrap_or(stream);
    let (mut records, mut start, mut line) = (Vec::new(), 0, 1);
    while start < stream.len() {
        let rest = &stream[start..];
        let (mut at, mut quoted, mut begins) = (0, false, true);
        while at < rest.len() && (quoted || rest[at] != b'\n') {
            match rest[at] {
                b'"' if quoted && rest.get(at + 1) == Some(&b'"') => at += 1,
                b'"' if quoted => quoted = false,
                b'"' if begins => quoted = true,
                _ => {}
            }
            begins = !quoted && rest[at] == b',';
            at += 1;
        }
        if at > limit {
            return (records, End::TooLong(line));
        }
        if quoted {
            return (records, End::OpenQuote(line));
        }
        let record = &rest[..at];
        line += 1 + record.iter().filter(|&&byte| byte == b'\n').count() as u64;
        // Only a line end has a carriage return to itself.
        let ended = at < rest.len();
        records.push(if ended { record.strip_suffix(b"\r").unwrap_or(record) } else { record });
        start += at + 1;
    }
    (records, End::Closed)
}

/// Values byte by byte.
fn values(record: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut values = vec![Vec::new()];
    let (mut at, mut quoted, mut begins) = (0, false, true);
    while let Some(&byte) = record.get(at) {
        at += 1;
        let value = values.last_mut().expect("there is always one");
        match byte {
            b'"' if quoted && record.get(at) == Some(&b'"') => {
                value.push(b'"');
                at += 1;
            }
            b'"' if quoted => quoted = false,
            b'"' if begins => quoted = true,
            b',' if !quoted => {
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

/// `join`, `Shape` and `write_value` say the same.
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
