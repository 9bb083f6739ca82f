use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::tests::Trickle;
use super::*;
use crate::BOM;

const LIMIT: usize = 10_000;
const SEMICOLONS: Dialect = Dialect { delimiter: b';', quote: Some(b'"'), comment: Some(b'#') };

/// All rows, and their flaws.
fn read(text: &[u8], dialect: Dialect, step: usize, limit: usize) -> Vec<(Vec<u8>, Option<Flaw>)> {
    let mut reader = Reader::with_dialect(Trickle(text, step), limit, dialect);
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row().unwrap() {
        rows.push((row.bytes.to_vec(), row.flaw));
    }
    assert_eq!(reader.consumed(), text.len() as u64);
    rows
}

#[track_caller]
fn reads(text: &str, dialect: Dialect, expected: &[(&str, Option<Flaw>)]) {
    for step in [1, 2, 7, 5000] {
        let rows = read(text.as_bytes(), dialect, step, LIMIT);
        let rows: Vec<_> =
            rows.iter().map(|(row, flaw)| (std::str::from_utf8(row).unwrap(), *flaw)).collect();
        assert_eq!(rows, expected, "{step}");
    }
}

#[test]
fn an_open_quote_is_a_flaw_of_its_line_alone_and_its_bytes_are_as_they_came() {
    let bad = |text| (text, Some(Flaw::Unconverted));
    let row = |text| (text, None);
    reads("h\n1;\"open\r\n2;b\n", SEMICOLONS, &[row("h"), bad("1;\"open"), row("2,b")]);
    reads("1;\"a\n2;\"b\"\n\"3\";\"c\"\n", SEMICOLONS, &[bad("1;\"a"), row("2,b"), row("3,c")]);
    reads("\"a\n1,5;x\n", SEMICOLONS, &[bad("\"a"), row("\"1,5\",x")]);
    reads("1;\"a\"\"\n# \"x\"\n2;b\n", SEMICOLONS, &[bad("1;\"a\"\""), row("2,b")]);
    // A quote of the standard dialect is an ordinary character, and so is one of this dialect inside a value.
    let single = Dialect { delimiter: b'\t', quote: Some(b'\''), comment: None };
    reads("1\t\"open\n'2\tb\n", single, &[row("1,\"\"\"open\""), bad("'2\tb")]);
    reads("it's\t'a'b\n", single, &[row("it's,ab")]);
    let none = Dialect { quote: None, ..SEMICOLONS };
    reads("1;\"open\n\"2;b\"\n", none, &[row("1,\"\"\"open\""), row("\"\"\"2\",\"b\"\"\"")]);
    assert_eq!(Flaw::Unconverted.to_string(), Flaw::OpenQuote.to_string());
}

#[test]
fn a_value_of_several_lines_ends_at_a_delimiter_even_if_that_is_a_blank() {
    let row = |text| (text, None);
    for delimiter in [b' ', b'\t', b';'] {
        let dialect = Dialect { delimiter, ..SEMICOLONS };
        let text = "\"a\n#b\";c\n\"d\ne\"\n".replace(';', char::from(delimiter).encode_utf8(&mut [0; 4]));
        reads(&text, dialect, &[row("\"a\n#b\",c"), row("\"d\ne\"")]);
    }
    reads("a  b\n", Dialect { delimiter: b' ', ..SEMICOLONS }, &[row("a,,b")]);
}

#[test]
fn comments_are_no_rows_and_may_be_longer_than_a_row() {
    let row = |text| (text, None);
    let long = format!("#{}\n", "x".repeat(3 * LIMIT));
    let text = format!("\u{feff}{long}#\nA;B\n# \"\n1;#2\n\n{long} #;3\n\"x\n#y\";4\n# end");
    reads(&text, SEMICOLONS, &["A,B", "1,#2", "", " #,3", "\"x\n#y\",4"].map(row));
    // An open quote does not make a row of the comment after it.
    reads(&format!("\"x\n{long}1;2"), SEMICOLONS, &[("\"x", Some(Flaw::Unconverted)), row("1,2")]);
    let mut reader = Reader::with_dialect(&b"# only\n# comments"[..], LIMIT, SEMICOLONS);
    assert!(!reader.has_row());
    assert_eq!(reader.next_row().unwrap(), None);
    assert_eq!(reader.consumed(), 17);
}

#[test]
fn peek_returns_the_bytes_as_they_come() {
    let mut reader = Reader::with_dialect(&b"# made\nA;B\n1;2\n"[..], LIMIT, SEMICOLONS);
    assert_eq!(reader.peek(11, |_| false).unwrap(), (&b"# made\nA;B\n"[..], false));
    assert_eq!(reader.next_row().unwrap().unwrap().bytes, b"A,B");
    assert!(reader.has_row());
    assert_eq!(reader.consumed(), 11);
}

#[test]
fn the_limit_holds_for_a_row_as_it_came_and_as_converted() {
    let too_long = Some(Flaw::TooLong { limit: 1000 });
    for step in [1, 13, 5000] {
        let rows = |text: &str| {
            let rows = read(format!("{text}\n2;b\n").as_bytes(), SEMICOLONS, step, 1000);
            assert_eq!((rows.len(), &rows[1]), (2, &(b"2,b".to_vec(), None)));
            (rows[0].0.len(), rows[0].1)
        };
        assert_eq!(rows(&"x".repeat(1000)), (1000, None));
        assert_eq!(rows(&"x".repeat(1001)), (1000, too_long));
        assert_eq!(rows(&format!("1;{}", "x".repeat(5000))), (1000, too_long));
        // Each comma needs quotes.
        assert_eq!(rows(&",;".repeat(250)), (1000, None));
        assert_eq!(rows(&(",;".repeat(250) + "x")), (501, too_long));
        // With its flaw, the row has at most the limit.
        assert_eq!(rows(&format!("\"{}", "x".repeat(899))), (900, Some(Flaw::Unconverted)));
    }
    let text = format!("\"{}", "x".repeat(4990));
    let rows = read(text.as_bytes(), SEMICOLONS, 5000, 5000);
    assert_eq!((rows[0].0.len(), rows[0].1), (1000, Some(Flaw::Unconverted)));
}

#[test]
fn many_bad_rows_of_another_dialect_are_read_in_linear_time() {
    for line in ["1;\"open\n", "#\"\n1;\"a\n", "1;\"\"\",\n", "#\n"] {
        let text = line.repeat((4 << 20) / line.len());
        let mut reader = Reader::with_dialect(text.as_bytes(), 16 << 20, SEMICOLONS);
        while reader.next_row().unwrap().is_some() {}
        assert_eq!(reader.consumed(), text.len() as u64);
    }
}

fn dialects() -> impl Strategy<Value = Dialect> {
    let delimiter = select(&b",;\t| \"\x01"[..]);
    let quote = select(&[Some(b'"'), Some(b'\''), None][..]);
    let comment = select(&[Some(b'#'), Some(b'|'), None][..]);
    let dialect = (delimiter, quote, comment);
    dialect
        .prop_map(|(delimiter, quote, comment)| Dialect { delimiter, quote, comment })
        .prop_filter("one character cannot be both", |Dialect { delimiter, quote, comment }| {
            *quote != Some(*delimiter) && *comment != Some(*delimiter)
        })
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(select(&b"ab01,;\t| \"'#\r\n\x01\xc3\xff"[..]), 0..6)
}

/// A table of any values, with as many columns in each row.
fn tables() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    (1..4usize).prop_flat_map(|width| prop::collection::vec(prop::collection::vec(bytes(), width), 1..6))
}

/// Removes what a dialect without quotes cannot write.
fn without_quotes(table: &mut [Vec<Vec<u8>>], dialect: Dialect) {
    for (column, value) in table.iter_mut().flat_map(|row| row.iter_mut().enumerate()) {
        let is_comment = |byte| column == 0 && dialect.comment == Some(byte);
        value.retain(|&byte| byte != dialect.delimiter && !b"\r\n".contains(&byte) && !is_comment(byte));
    }
}

/// Writes a row; some values are quoted though they need not be.
fn write(row: &[Vec<u8>], dialect: Dialect, quotes: &[bool], out: &mut Vec<u8>) {
    for (column, value) in row.iter().enumerate() {
        if column > 0 {
            out.push(dialect.delimiter);
        }
        let Some(quote) = dialect.quote else {
            out.extend(value);
            continue;
        };
        let is_special = |byte| [dialect.delimiter, quote, b'\r', b'\n'].contains(byte);
        let is_comment = column == 0 && value.first().copied() == dialect.comment;
        if quotes[column] || value.iter().any(is_special) || is_comment {
            out.push(quote);
            for &byte in value {
                out.extend(std::iter::repeat_n(byte, if byte == quote { 2 } else { 1 }));
            }
            out.push(quote);
        } else {
            out.extend(value);
        }
    }
}

/// A text without line ends, as a comment.
fn comment(dialect: Dialect, text: &[u8], out: &mut Vec<u8>) {
    if let Some(comment) = dialect.comment {
        out.push(comment);
        out.extend(text.iter().filter(|byte| **byte != b'\n'));
        out.push(b'\n');
    }
}

/// The text with two bytes in each other's place.
fn swapped(text: &[u8], swaps: [(u8, u8); 2]) -> Vec<u8> {
    let swap = |byte| {
        let mut swaps = swaps.iter();
        swaps.find_map(|&(a, b)| if byte == a { Some(b) } else { (byte == b).then_some(a) }).unwrap_or(byte)
    };
    text.iter().copied().map(swap).collect()
}

proptest! {
    /// Any table that is written in any dialect, with comments between its rows.
    #[test]
    fn written_tables_read_back(
        dialect in dialects(), mut table in tables(), quotes: [bool; 3], mark: bool, crlf: bool, last: bool,
        comments in prop::collection::vec((bytes(), any::<Index>()), 0..4), step in 1usize..40,
    ) {
        if dialect.quote.is_none() {
            without_quotes(&mut table, dialect);
        }
        let mut text = if mark { BOM.to_vec() } else { Vec::new() };
        for (i, row) in table.iter().enumerate() {
            for (words, _) in comments.iter().filter(|(_, at)| at.index(table.len() + 1) == i) {
                comment(dialect, words, &mut text);
            }
            let start = text.len();
            write(row, dialect, &quotes, &mut text);
            // Without its line end, an empty line is no row.
            if last || i + 1 < table.len() || text.len() == start {
                text.extend(if crlf { &b"\r\n"[..] } else { b"\n" });
            }
        }
        let after = comments.iter().filter(|(_, at)| at.index(table.len() + 1) == table.len());
        if text.ends_with(b"\n") {
            after.for_each(|(words, _)| comment(dialect, words, &mut text));
        }
        let rows = read(&text, dialect, step, LIMIT);
        prop_assert!(rows.iter().all(|(_, flaw)| flaw.is_none()), "{:?}", rows);
        let values: Vec<_> = rows.iter().map(|(row, _)| crate::split(row).unwrap()).collect();
        prop_assert_eq!(values, table);
        // The converted text has the same records.
        let converted: Vec<_> = rows.iter().flat_map(|(row, _)| [row, &b"\n"[..]].concat()).collect();
        if dialect.converts() {
            prop_assert_eq!(read(&converted, Dialect::default(), step, LIMIT), rows);
        }
    }

    /// Another dialect reads any text as the standard dialect reads the text with other delimiters and quotes. Blanks have a
    /// meaning of their own.
    #[test]
    fn a_dialect_is_the_standard_one_with_other_bytes(
        delimiter in select(&b";|\x01"[..]), quote in select(&[Some(b'"'), Some(b'\''), None][..]),
        text in prop::collection::vec(select(&b"aa,,;;;|\"\"''  \t\r\n\n\x01\xff"[..]), 0..80),
        step in 1usize..40, limit in prop_oneof![1usize..40, Just(LIMIT)],
    ) {
        let dialect = Dialect { delimiter, quote, comment: None };
        // NUL does not occur, so nothing is quoted where there are no quotes.
        let swaps = [(delimiter, b','), (quote.unwrap_or(0), b'"')];
        let standard = read(&swapped(&text, swaps), Dialect::default(), step, limit);
        let rows = read(&text, dialect, step, limit);
        prop_assert_eq!(rows.len(), standard.len());
        for ((row, flaw), (expected, expected_flaw)) in rows.iter().zip(&standard) {
            match expected_flaw {
                Some(Flaw::OpenQuote) => {
                    prop_assert_eq!((row, *flaw), (&swapped(expected, swaps), Some(Flaw::Unconverted)));
                }
                None if flaw.is_none() => {
                    prop_assert_eq!(row.is_empty(), expected.is_empty());
                    let values = crate::split(expected).unwrap();
                    let values: Vec<_> = values.iter().map(|value| swapped(value, swaps)).collect();
                    prop_assert_eq!(crate::split(row).unwrap(), values);
                }
                _ => {
                    prop_assert_eq!(row, &swapped(expected, swaps));
                    prop_assert_eq!(*flaw, Some(Flaw::TooLong { limit }));
                    prop_assert!(expected_flaw.is_some() || 3 * expected.len() + 2 > limit);
                }
            }
        }
    }

    /// For any text and dialect, rows do not depend on pieces or on calls of `has_row`.
    #[test]
    fn rows_of_a_dialect_do_not_depend_on_pieces_or_on_has_row(
        dialect in dialects(), text in prop::collection::vec(select(&b"a,;\t| \"'#\r\n\n\x01"[..]), 0..80),
        step in 1usize..40, limit in 1usize..40, asks in any::<[bool; 3]>(),
    ) {
        let expected = read(&text, dialect, 1000, limit);
        let mut reader = Reader::with_dialect(Trickle(&text, step), limit, dialect);
        let mut turns = asks.into_iter().cycle();
        for (bytes, flaw) in &expected {
            if turns.next().unwrap() {
                reader.has_row();
            }
            let row = reader.next_row().unwrap().unwrap();
            prop_assert_eq!((row.bytes, row.flaw), (&bytes[..], *flaw));
            prop_assert!(flaw.is_some() || crate::count(row.bytes).is_ok());
        }
        prop_assert!(reader.next_row().unwrap().is_none());
    }

    /// With comments alone, records are returned to the byte: as if the comments were not there.
    #[test]
    fn records_of_the_standard_dialect_are_not_changed_by_comments(
        lines in prop::collection::vec("[#a, \"\r]{0,8}", 0..12), step in 1usize..40,
    ) {
        let dialect = Dialect { comment: Some(b'#'), ..Dialect::default() };
        // No value has several lines here, since the second line would be no comment.
        let is_whole = |line: &&String| crate::count(line.as_bytes()).is_ok();
        let lines: Vec<_> = lines.iter().filter(is_whole).map(|line| format!("{line}\n")).collect();
        let rest: String = lines.iter().filter(|line| !line.starts_with('#')).map(String::as_str).collect();
        let rows = read(lines.concat().as_bytes(), dialect, step, LIMIT);
        prop_assert_eq!(rows, read(rest.as_bytes(), Dialect::default(), step, LIMIT));
    }
}
