use proptest::prelude::*;

use super::splitter::BLOCK;
use super::*;

/// Returns a few bytes at each read, so that every position in a row is the end of the buffer once.
pub(super) struct Trickle<'a>(pub(super) &'a [u8], pub(super) usize);

impl Read for Trickle<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.1.min(self.0.len()).min(out.len());
        out[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

const LIMIT: usize = 1000;

/// All rows, as text and flaw.
fn flawed(text: &[u8], step: usize, limit: usize) -> Vec<(String, Option<Flaw>)> {
    let mut reader = Reader::new(Trickle(text, step), limit);
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row().unwrap() {
        rows.push((String::from_utf8_lossy(row.bytes).into_owned(), row.flaw));
    }
    assert_eq!(reader.consumed(), text.len() as u64);
    rows
}

/// The rows of a text without bad rows.
fn all(text: &str, step: usize) -> Vec<String> {
    let rows = flawed(text.as_bytes(), step, LIMIT).into_iter();
    rows.map(|(record, flaw)| if flaw.is_none() { record } else { panic!("{record:?}: {flaw:?}") }).collect()
}

#[test]
fn records_end_at_line_ends_outside_quotes() {
    for step in [1, 2, 3, 1000] {
        let records = |text| all(text, step);
        assert_eq!(records("a,b\nc,d\n"), ["a,b", "c,d"]);
        assert_eq!(records("a,b\r\nc,d"), ["a,b", "c,d"]);
        assert_eq!(records("a\n\nb"), ["a", "", "b"]);
        assert_eq!(records("\u{feff}a\nb"), ["a", "b"]);
        assert_eq!(records(""), [""; 0]);
        assert_eq!(records("\n"), [""]);
        assert_eq!(records("\"x\ny\",1\n2"), ["\"x\ny\",1", "2"]);
        assert_eq!(records("\"x\"\"\ny\",1\n2"), ["\"x\"\"\ny\",1", "2"]);
        assert_eq!(records("5\" pipe\n6\" pipe\n"), ["5\" pipe", "6\" pipe"]);
        assert_eq!(records("\"a\"\n\"b\"\n"), ["\"a\"", "\"b\""]);
        assert_eq!(records("a\rb\n"), ["a\rb"]);
        assert_eq!(records("\u{feff}\"a\nb\"\n"), ["\"a\nb\""]);
        assert_eq!(records("\"\"\n\"\""), ["\"\"", "\"\""]);
        // Text after a closing quote on one line, and blanks after one that ends several lines.
        assert_eq!(records("\"a\"b,c\nd,e\n"), ["\"a\"b,c", "d,e"]);
        assert_eq!(records("\"a\nb\" \t,c\n\"d\ne\"  "), ["\"a\nb\" \t,c", "\"d\ne\"  "]);
    }
}

#[test]
fn an_open_quote_spoils_only_its_own_line() {
    let open = Some(Flaw::OpenQuote);
    for step in [1, 2, 7, 5000] {
        let rows = |text: &str| flawed(text.as_bytes(), step, LIMIT);
        let row = |text: &str| (text.to_owned(), None);
        let bad = |text: &str| (text.to_owned(), open);
        // At the end of the input.
        assert_eq!(rows("h\n1,\"open\r\n2,b\n"), [row("h"), bad("1,\"open"), row("2,b")]);
        assert_eq!(rows("h\n1,\"open"), [row("h"), bad("1,\"open")]);
        // At the limit.
        let many = "2,b\n".repeat(600);
        let expected: Vec<_> = [row("h"), bad("1,\"open")].into_iter().chain(vec![row("2,b"); 600]).collect();
        assert_eq!(rows(&format!("h\n1,\"open\n{many}")), expected);
        // Quotes of the next row do not close it, whichever value has them.
        assert_eq!(rows("1,\"a\n2,\"b\"\n3,\"c\"\n"), [bad("1,\"a"), row("2,\"b\""), row("3,\"c\"")]);
        assert_eq!(rows("1,\"a\n\"2\",b\n"), [bad("1,\"a"), row("\"2\",b")]);
        assert_eq!(rows("1,\"a\n2,\"\"\n3,\"x\"\n"), [bad("1,\"a"), row("2,\"\""), row("3,\"x\"")]);
        // One quote too many at the end of a value opens it again.
        assert_eq!(rows("1,\"a\"\"\n2,b\n"), [bad("1,\"a\"\""), row("2,b")]);
        // An earlier value of several lines belongs to the same row.
        assert_eq!(rows("\"a\nb\",\"c\nd,e\n"), [bad("\"a\nb\",\"c"), row("d,e")]);
    }
}

#[test]
fn a_row_above_the_limit_is_cut_and_the_next_one_is_read() {
    let too_long = Some(Flaw::TooLong { limit: LIMIT });
    for step in [1, 13, 5000] {
        for (length, flaw) in [(LIMIT, None), (LIMIT + 1, too_long), (50 * LIMIT, too_long)] {
            for end in ["\n", "\r\n"] {
                let length = length - (end.len() - 1);
                let text = format!("h{end}{}{end}2,b{end}", "x".repeat(length));
                let rows = flawed(text.as_bytes(), step, LIMIT);
                assert_eq!(rows.len(), 3, "{length} {end:?}");
                assert_eq!((rows[1].1, &*rows[2].0), (flaw, "2,b"), "{length} {end:?}");
                assert_eq!(rows[1].0.len(), length.min(LIMIT));
            }
        }
        // In quotes that open on the line, and at the end of the input.
        let rows = flawed(format!("h\n1,\"{}\n2,b\n", "x".repeat(5000)).as_bytes(), step, LIMIT);
        assert_eq!((rows.len(), rows[1].1, &*rows[2].0), (3, too_long, "2,b"));
        let rows = flawed(format!("h\n{}", "é".repeat(5000)).as_bytes(), step, 999);
        assert_eq!((rows.len(), &rows[1].0), (2, &"é".repeat(500)));
    }
}

#[test]
fn memory_does_not_grow_with_a_row_above_the_limit() {
    let mut reader = Reader::new(io::repeat(b'x').take(200 << 20), 1 << 20);
    assert!(matches!(reader.next_row().unwrap().unwrap().flaw, Some(Flaw::TooLong { .. })));
    assert!(reader.next_row().unwrap().is_none());
    assert!(reader.splitter.buffer.len() <= 4 << 20, "{}", reader.splitter.buffer.len());
}

/// A search that began again at each line would take hours here.
#[test]
fn many_bad_rows_are_read_in_linear_time() {
    for line in ["1,\"open\n", "1,\"a\"\"b\n", "1,\"\"\"\"\"\n", "\"\n", "1,\"\"\",\"\n"] {
        let text = line.repeat((4 << 20) / line.len());
        let mut reader = Reader::new(text.as_bytes(), 16 << 20);
        while reader.next_row().unwrap().is_some() {}
        assert_eq!(reader.consumed(), text.len() as u64);
    }
    // A quote that is open up to the limit, before lines with doubled and closed quotes.
    let text = format!("1,\"open\n{}", "2,\"\"\n".repeat(2 << 20));
    let mut reader = Reader::new(text.as_bytes(), 16 << 20);
    let mut rows = 0;
    while let Some(row) = reader.next_row().unwrap() {
        assert_eq!(row.flaw.is_some(), rows == 0);
        rows += 1;
    }
    assert_eq!(rows, 1 + (2 << 20));
}

#[test]
fn long_records_grow_the_buffer() {
    let long = "x".repeat(3 * BLOCK);
    let text = format!("{long}\n{long}\n");
    let mut reader = Reader::new(text.as_bytes(), usize::MAX);
    for _ in 0..2 {
        assert_eq!(reader.next_row().unwrap().unwrap(), Row { bytes: long.as_bytes(), flaw: None });
    }
    assert!(reader.next_row().unwrap().is_none());
}

#[test]
fn peek_consumes_nothing_and_reads_no_more_than_necessary() {
    let text = "\u{feff}a,b\n1,2\n3,4\n";
    let mut reader = Reader::new(Trickle(text.as_bytes(), 1), LIMIT);
    let (seen, is_all) = reader.peek(100, |seen| seen.contains(&b'\n')).unwrap();
    assert_eq!((seen, is_all), (&b"a,b\n"[..], false));
    assert_eq!(reader.peek(6, |_| false).unwrap(), (&b"a,b\n1,"[..], false));
    assert_eq!(reader.peek(100, |_| false).unwrap(), (&b"a,b\n1,2\n3,4\n"[..], true));
    assert_eq!(reader.next_row().unwrap().unwrap().bytes, b"a,b");
}

/// The records of a well-formed CSV.
fn records() -> impl Strategy<Value = Vec<String>> {
    let value = "[a,\"\r\n\u{e9}]{0,6}";
    prop::collection::vec(prop::collection::vec(value, 2..4), 1..8).prop_map(|records| {
        let join = |values: &Vec<String>| {
            let mut record = Vec::new();
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    record.push(b',');
                }
                crate::write_value(value.as_bytes(), &mut record);
            }
            String::from_utf8(record).unwrap()
        };
        records.iter().map(join).collect()
    })
}

/// Records of a single line each.
fn lines() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[1-9],(\"[a-z]{1,3}(,|\"\")?[a-z]\"|[a-z]{0,4}|\"\")", 0..12)
}

proptest! {
    /// Whatever the pieces in which the stream arrives.
    #[test]
    fn written_records_read_back(records in records(), crlf: bool, last: bool, step in 1usize..40) {
        let mut text = records.join(if crlf { "\r\n" } else { "\n" });
        if last { text.push('\n'); }
        prop_assert_eq!(all(&text, step), records);
    }

    /// If one row is damaged, it is a bad row, and all others are unchanged.
    #[test]
    fn a_damaged_row_spoils_no_other_row(
        before in lines(), after in lines(), step in 1usize..40,
        damage in prop::sample::select(vec![
            ("9,\"open".to_owned(), Flaw::OpenQuote),
            ("\"9,open".to_owned(), Flaw::OpenQuote),
            ("9,\"a\"\"".to_owned(), Flaw::OpenQuote),
            ("9,a,\"".to_owned(), Flaw::OpenQuote),
            (format!("9,{}", "x".repeat(LIMIT)), Flaw::TooLong { limit: LIMIT }),
            (format!("9,\"{}\"", "x".repeat(LIMIT)), Flaw::TooLong { limit: LIMIT }),
        ]),
    ) {
        let (line, flaw) = damage;
        // A row that ends with a quote might as well be the end of a value of several lines.
        let rows: Vec<_> = before.iter().chain([&line]).chain(&after).map(String::as_str).collect();
        let text = rows.join("\n") + "\n";
        let expected: Vec<_> = before.iter().map(|row| (row.clone(), None))
            .chain([(line[..line.len().min(LIMIT)].to_owned(), Some(flaw))])
            .chain(after.iter().map(|row| (row.clone(), None))).collect();
        prop_assert_eq!(flawed(text.as_bytes(), step, LIMIT), expected);
    }

    /// For any text, rows do not depend on pieces or on calls of `has_row`, no byte is lost, and an open quote is also found
    /// if its line is read alone.
    #[test]
    fn rows_do_not_depend_on_pieces_or_on_has_row(
        text in "[a,\"\" \r\n]{0,60}", step in 1usize..40, limit in 1usize..30, asks in any::<[bool; 3]>(),
    ) {
        let expected = flawed(text.as_bytes(), 1000, limit);
        prop_assert_eq!(&flawed(text.as_bytes(), step, limit), &expected);
        let mut reader = Reader::new(Trickle(text.as_bytes(), step), limit);
        let mut turns = asks.into_iter().cycle();
        for (bytes, flaw) in &expected {
            if turns.next().unwrap() {
                reader.has_row();
            }
            let row = reader.next_row().unwrap().unwrap();
            prop_assert_eq!((row.bytes, row.flaw), (bytes.as_bytes(), *flaw));
            let malformed = crate::count(row.bytes) == Err(crate::Malformed::OpenQuote);
            let is_cut = matches!(flaw, Some(Flaw::TooLong { .. }));
            prop_assert!(is_cut || malformed == flaw.is_some());
        }
        prop_assert!(reader.next_row().unwrap().is_none());
    }
}
