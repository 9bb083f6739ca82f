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
