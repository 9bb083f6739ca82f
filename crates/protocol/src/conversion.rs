//! What passes between the program `formats` and its parent: the bytes of a CSV, in pieces. While it reads an input, it writes
//! pieces to its standard output. While it writes results, it reads pieces from standard input, and then writes how that has
//! ended.
//!
//! A piece is a kind (1 byte), a length (4 bytes, big-endian), and a payload of that length. The last piece says how the pieces
//! have ended, so that a killed program is not taken for the end of a file.

use std::io::{self, ErrorKind, Read, Write};

use columns::ColumnType;
use serde::{Deserialize, Serialize};

const TABLE: u8 = 1;
const BYTES: u8 = 2;
const DONE: u8 = 3;
const FAILED: u8 = 4;
const COLUMNS: u8 = 5;
const MISFIT: u8 = 6;
const SOURCE: u8 = 7;

/// Bytes of a piece before its payload.
const HEAD: usize = 5;
/// The most bytes of a payload.
const LIMIT: usize = 16 << 20;
/// Bytes of the count in a piece of bytes.
const COUNT: usize = 8;

/// What is known of a file at an address before its first byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Changes when the file does.
    pub identity: String,
    /// In bytes.
    pub length: u64,
}

/// What is known of a table before its first row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The declared types of its columns.
    pub types: Vec<ColumnType>,
}

/// The kind of a column's values in a form of results that has kinds. Any value may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Int64,
    Float64,
    Bool,
    Text,
}

/// The columns of results, before their first row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Columns {
    pub columns: Vec<(String, Kind)>,
    /// Whether the first record is a header.
    pub has_header: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// The first piece, if the input is at an address.
    Source(Source),
    /// The next piece, if the input is a table with types, and not a text.
    Table(Table),
    Bytes {
        /// How many bytes of the input have been read.
        consumed: u64,
        bytes: Vec<u8>,
    },
    /// The input has ended.
    Done,
    /// Reading or writing has ended for this reason.
    Failed(String),
    /// The first piece of results, if their form has kinds.
    Columns(Columns),
    /// Writing has ended, since a value of this column, counted from 0, is not of the column's kind.
    Misfit(u32),
}

fn write(mut out: impl Write, kind: u8, payload: &[&[u8]]) -> io::Result<()> {
    let length = payload.iter().map(|part| part.len()).sum::<usize>();
    if length > LIMIT {
        return Err(io::Error::other(format!("a piece of {length} bytes; the limit is {LIMIT}")));
    }
    let mut head = [kind; HEAD];
    head[1..].copy_from_slice(&(length as u32).to_be_bytes());
    out.write_all(&head)?;
    payload.iter().try_for_each(|part| out.write_all(part))
}

/// # Errors
/// Those of the stream.
pub fn write_source(out: impl Write, source: &Source) -> io::Result<()> {
    write(out, SOURCE, &[&serde_json::to_vec(source)?])
}

/// # Errors
/// Those of the stream.
pub fn write_table(out: impl Write, table: &Table) -> io::Result<()> {
    write(out, TABLE, &[&serde_json::to_vec(table)?])
}

/// # Errors
/// Those of the stream.
pub fn write_columns(out: impl Write, columns: &Columns) -> io::Result<()> {
    write(out, COLUMNS, &[&serde_json::to_vec(columns)?])
}

/// # Errors
/// Those of the stream.
pub fn write_misfit(out: impl Write, column: u32) -> io::Result<()> {
    write(out, MISFIT, &[&column.to_be_bytes()])
}

/// Writes bytes of the CSV; `consumed` bytes of the input have been read for them and those before.
///
/// # Errors
/// Those of the stream; or there are more than 16 MiB.
pub fn write_bytes(out: impl Write, consumed: u64, bytes: &[u8]) -> io::Result<()> {
    write(out, BYTES, &[&consumed.to_be_bytes(), bytes])
}

/// Writes how reading has ended.
///
/// # Errors
/// Those of the stream.
pub fn write_end(out: impl Write, end: Result<(), &str>) -> io::Result<()> {
    match end {
        Ok(()) => write(out, DONE, &[]),
        Err(reason) => write(out, FAILED, &[reason.as_bytes()]),
    }
}

/// Reads the next piece.
///
/// # Errors
/// Those of the stream; it ends, or has something else.
pub fn read(mut stream: impl Read) -> io::Result<Piece> {
    let mut head = [0; HEAD];
    stream.read_exact(&mut head)?;
    let [kind, length @ ..] = head;
    let length = u32::from_be_bytes(length) as usize;
    let invalid = |what: &str| io::Error::new(ErrorKind::InvalidData, what.to_owned());
    if length > LIMIT {
        return Err(invalid("a piece above the limit"));
    }
    let mut bytes = Vec::new();
    if kind == BYTES {
        let mut consumed = [0; COUNT];
        let length = length.checked_sub(COUNT).ok_or_else(|| invalid("a piece without a count"))?;
        stream.read_exact(&mut consumed)?;
        fill(stream, length, &mut bytes)?;
        return Ok(Piece::Bytes { consumed: u64::from_be_bytes(consumed), bytes });
    }
    fill(stream, length, &mut bytes)?;
    match kind {
        SOURCE => Ok(Piece::Source(serde_json::from_slice(&bytes)?)),
        TABLE => Ok(Piece::Table(serde_json::from_slice(&bytes)?)),
        DONE => Ok(Piece::Done),
        FAILED => Ok(Piece::Failed(String::from_utf8_lossy(&bytes).into_owned())),
        COLUMNS => Ok(Piece::Columns(serde_json::from_slice(&bytes)?)),
        MISFIT => {
            let column = bytes.try_into().map_err(|_| invalid("a column that is no number"))?;
            Ok(Piece::Misfit(u32::from_be_bytes(column)))
        }
        _ => Err(invalid("a piece of an unknown kind")),
    }
}

fn fill(stream: impl Read, length: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.reserve_exact(length);
    let read = stream.take(length as u64).read_to_end(bytes)?;
    if read == length { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece() -> impl Strategy<Value = Piece> {
        let bytes = prop::collection::vec(any::<u8>(), 0..100);
        prop_oneof![
            Just(Piece::Table(Table { types: vec![ColumnType::Int64, ColumnType::Literal] })),
            (any::<u64>(), bytes).prop_map(|(consumed, bytes)| Piece::Bytes { consumed, bytes }),
            (".*", any::<u64>()).prop_map(|(identity, length)| Piece::Source(Source { identity, length })),
            Just(Piece::Done),
            ".*".prop_map(Piece::Failed),
            any::<u32>().prop_map(Piece::Misfit),
            (".*", any::<bool>()).prop_map(|(name, has_header)| {
                Piece::Columns(Columns { columns: vec![(name, Kind::Text)], has_header })
            }),
        ]
    }

    fn written(pieces: &[Piece]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Source(source) => write_source(&mut out, source),
                Piece::Table(table) => write_table(&mut out, table),
                Piece::Bytes { consumed, bytes } => write_bytes(&mut out, *consumed, bytes),
                Piece::Done => write_end(&mut out, Ok(())),
                Piece::Failed(reason) => write_end(&mut out, Err(reason)),
                Piece::Columns(columns) => write_columns(&mut out, columns),
                Piece::Misfit(column) => write_misfit(&mut out, *column),
            }
            .unwrap();
        }
        out
    }

    proptest! {
        #[test]
        fn pieces_read_back_as_written_and_an_end_among_them_is_an_error(
            pieces in prop::collection::vec(piece(), 1..5), cut in any::<prop::sample::Index>(),
        ) {
            let out = written(&pieces);
            let mut stream = &out[..];
            for piece in &pieces {
                prop_assert_eq!(&read(&mut stream).unwrap(), piece);
            }
            prop_assert_eq!(read(&mut stream).unwrap_err().kind(), ErrorKind::UnexpectedEof);
            let last = written(&pieces[..1]);
            let error = read(&last[..cut.index(last.len())]).unwrap_err();
            prop_assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        }

        #[test]
        fn other_bytes_are_no_pieces(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            // No panic.
            let _ = read(&bytes[..]);
        }
    }
}
