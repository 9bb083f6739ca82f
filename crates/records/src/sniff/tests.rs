use super::*;

const FILE: Name<'_> = Name { name: "in.csv", is_file: true };

fn refusal(seen: &[u8]) -> String {
    refusal_of(seen, Declared::default())
}

fn refusal_of(seen: &[u8], declared: Declared) -> String {
    match check(seen, true, declared, FILE) {
        Ok(()) => String::new(),
        Err(not_csv) => not_csv.to_string(),
    }
}

/// The declaration of these options: `--delimiter` and `--comment`.
fn declared(delimiter: Option<&str>, comment: Option<&str>) -> Declared {
    Declared::parse(delimiter, None, comment).unwrap()
}

#[track_caller]
fn refused(seen: &[u8], words: &str) {
    let said = refusal(seen);
    assert!(said.contains(words), "{:?}: {said}", String::from_utf8_lossy(seen));
}

#[test]
fn ordinary_inputs_are_accepted() {
    let inputs: [&[u8]; 29] = [
        b"ID,NAME\n1,a\n",
        b"ID,NAME",
        b"TEXT\nany; thing\nother\n",
        b"TEXT; NOTES\nany\nthing\n",
        b"TEXT; NOTES\n",
        b"A;B,C\n1;2,3\n",
        b"TEXT\na\tb\tc\n",
        b"a; b; c in words\none\ntwo\nthree\n",
        b"\"a;b;c\"\n\"1;2;3\"\n",
        b"BZh1,B\n1,2\n",
        b"PAR1,PAR2\n1,2\n",
        b"PAR1\n1\n",
        b"FEA1,FEA2\n",
        b"PK\n1\n",
        b"#ID,NAME\n1,a\n2,b\n",
        b"#CHROM,POS\n",
        b"sep,a\n1,2\n",
        b"sep=x,a\n1,2\n",
        b"{a},b\n1,2\n",
        b"[a],b\n1,2\n",
        b"<a>,b\n1,2\n",
        b"a\0b,c\n1,2\n",
        b"<HEADING>,<BODY2>\n1,2\n",
        b"#ID,NAME\n1,a\n2\n3,c\n",
        b"\xce\xb1,\xce\xb2\n1,2\n",
        b"a,b\n\0\0\0\0,\0\0\0\0\n",
        b"1,2\n3,4\n",
        b"a,a\n1,2\n",
        b"7z,PK\n1,2\n",
    ];
    for input in inputs {
        assert_eq!(refusal(input), "", "{:?}", String::from_utf8_lossy(input));
    }
}

#[test]
fn other_separators_are_named_with_the_option_for_them() {
    refused(
        b"ID;NAME;PRICE\n1;a;1,50\n2;b;2\n",
        "is one column with 2 semicolons; pass --delimiter ';'; or, if it is one column, pass --delimiter ,",
    );
    refused(b"ID;PRICE\n0;0,50\n1;1,50\n", "header (\"ID;PRICE\") is one column with 1 semicolon;");
    refused(b"ID\tNAME\tX\r\n1\ta\t2\r\n", "seems to have tabs between its values");
    refused(b"ID\tNAME\tX\n1\ta\t\n2\tb\t\n", "with 2 tabs; pass --delimiter tab; or");
    refused(b"ID|NAME|X\n1|a|2\n", "with 2 vertical bars; pass --delimiter '|'; or");
    refused(b"ID;NAME;X", "pass --delimiter ,");
    refused(b"\"ID\";\"NAME\"\n\"1\";\"a;b\"\n", "with 1 semicolon");
}

#[test]
fn a_declaration_overrules_a_guess() {
    for text in [&b"ID;NAME;PRICE\n1;a;1\n"[..], b"ID\tNAME\tX\n1\ta\tb\n", b"<html>,B\n1,2\n", b"[[1]]\n"] {
        for delimiter in [",", ";"] {
            assert_eq!(refusal_of(text, declared(Some(delimiter), None)), "");
        }
    }
    let comment = b"# a comment\nID,NAME\n";
    for character in ["#", "none"] {
        assert_eq!(refusal_of(comment, declared(None, Some(character))), "");
    }
    assert!(refusal_of(comment, declared(Some(","), None)).contains("is a comment"));
    // The header is the first line after the comments.
    let said = refusal_of(b"# a comment\n#\nA;B\n# another\n1;2\n", declared(None, Some("#")));
    assert!(said.contains("header (\"A;B\") is one column with 1 semicolon"), "{said}");
    assert!(refusal_of(b"# a comment\n\nA,B\n", declared(None, Some("#"))).contains("is empty; remove"));
    assert!(refusal_of(b"# a comment\n", declared(None, Some("#"))).starts_with("has only comments"));
    // Empty names are no empty line.
    assert_eq!(refusal_of(b"\t\t\n1\t2\t3\n", declared(Some("tab"), None)), "");
    assert_eq!(refusal_of(b"#ID;NAME\n1;a\n", declared(Some(";"), None)), "");
    // The line of Excel says the same as the option.
    assert!(refusal_of(b"sep=;\nA;B\n", declared(Some(";"), None)).contains("an instruction for Excel"));
    assert_eq!(refusal_of(b"sep=;\n1\n", declared(Some(","), None)), "");
}

#[test]
fn packed_and_binary_files_are_recognized_by_their_first_bytes() {
    refused(
        b"\x1f\x8b\x08\0\0\0",
        "is compressed with gzip; give it as a CSV: gzip -dc < in.csv | cargo xtask",
    );
    refused(b"BZh91AY&SY\0\0", "bzip2 -dc");
    refused(b"\xfd7zXZ\0\0\x04", "xz -dc");
    refused(b"\x28\xb5\x2f\xfd\x24", "zstd -dc");
    refused(b"7z\xbc\xaf\x27\x1c\0", "a 7z archive");
    refused(b"PK\x03\x04\x14\0\0\0\x08\0in.csv", "is a zip archive; give it as a CSV: bsdtar");
    refused(b"PK\x03\x04\x14\0\x06\0\x08\0[Content_Types].xml", "is an Excel workbook; save it as a CSV");
    refused(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0", "is an Excel workbook");
    refused(b"PAR1\x15\x04\x15\x10", "is a Parquet file; give it as a CSV: python3 -c 'import io");
    refused(b"ARROW1\0\0\xff", "an Arrow (Feather) file");
    refused(b"SQLite format 3\0\x10", "an SQLite database");
    // `--delimiter ,` does not overrule this.
    assert!(check(b"\x1f\x8b\x08", true, declared(Some(","), None), FILE).is_err());
    let odd = Name { name: "it's here.gz", is_file: true };
    let said = check(b"\x1f\x8b", true, Declared::default(), odd).unwrap_err().to_string();
    assert!(said.contains(r"gzip -dc < 'it'\''s here.gz' |"), "{said}");
    let stream = Name { name: "standard input", is_file: false };
    let said = check(b"\x1f\x8b", true, Declared::default(), stream).unwrap_err().to_string();
    assert!(said.ends_with("give it as a CSV: gzip -dc | cargo xtask run-locally --input -"), "{said}");
}

#[test]
fn encodings_are_recognized_with_and_without_a_mark() {
    let text = "ID,NAME\n1,\u{e9}\u{20ac}\n";
    let utf16 = |encode: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(encode).collect::<Vec<_>>();
    let utf32 = |encode: fn(u32) -> [u8; 4]| text.chars().flat_map(|c| encode(c.into())).collect::<Vec<_>>();
    refused(&utf16(u16::to_le_bytes), "is UTF-16LE, and not UTF-8; pass --encoding UTF-16LE");
    refused(&utf16(u16::to_be_bytes), "is UTF-16BE");
    refused(
        &utf32(u32::to_le_bytes),
        "is UTF-32LE, and not UTF-8; convert it: iconv -f UTF-32LE -t UTF-8 < in.csv",
    );
    refused(&utf32(u32::to_be_bytes), "is UTF-32BE");
    // Also if hardly any character except commas and line ends is ASCII.
    let cyrillic = "Имя,Город\r\nЬорис,Москва\r\n";
    let wide = |encode: fn(u16) -> [u8; 2]| cyrillic.encode_utf16().flat_map(encode).collect::<Vec<_>>();
    refused(&wide(u16::to_le_bytes), "--encoding UTF-16LE");
    refused(&wide(u16::to_be_bytes), "--encoding UTF-16BE");
    let said = |text: &str, delimiter| {
        let wide: Vec<_> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        refusal_of(&wide, declared(Some(delimiter), None))
    };
    assert!(said(&cyrillic.replace(',', ";"), ";").ends_with("--encoding UTF-16LE"));
    refused(&[b"\xff\xfe", &utf16(u16::to_le_bytes)[..]].concat(), "--encoding UTF-16LE");
    refused(&[b"\xfe\xff", &utf16(u16::to_be_bytes)[..]].concat(), "--encoding UTF-16BE");
    refused(&[b"\xff\xfe\0\0", &utf32(u32::to_le_bytes)[..]].concat(), "iconv -f UTF-32 -t UTF-8");
}

#[test]
fn lines_before_the_header_and_other_text_formats_are_refused() {
    refused(b"", "is empty; the first line must be a CSV header");
    refused(b"\nID,NAME\n", "has no header: its first line is empty");
    refused(b"  \t\r\nID,NAME\n", "has no header: its first line is empty");
    refused(
        b"# made by hand\nID,NAME\n1,a\n",
        "its first line (\"# made by hand\") is a comment; pass --comment '#'; or, if it is the header, \
         pass --comment none",
    );
    refused(b"#made at 10:00, by hand\nID,NAME,X\n1,a,b\n", "is a comment");
    refused(b"## a,b\n1,2\n", "is a comment");
    refused(
        b"sep=;\nID;NAME\n1;a\n",
        "is an instruction for Excel; give it without that line: tail -n +2 < in.csv | \
         cargo xtask run-locally --input - --delimiter ';'",
    );
    refused(b"<!DOCTYPE html>\n<html>", "is an HTML page");
    refused(b"\n <html><body>404</body>", "is an HTML page");
    refused(b"<?xml version=\"1.0\"?>", "is XML");
    refused(b"{\"rows\": [1, 2]}", "is JSON");
    refused(b"[\n  {\"id\": 1},\n", "is JSON");
}

#[test]
fn no_more_of_a_stream_is_needed_than_decides() {
    let plain = |seen: &[u8]| is_enough(seen, Declared::default());
    assert!(!plain(b"ID,NA"));
    assert!(plain(b"ID,NAME\n"));
    assert!(plain(b"ID\n"));
    assert!(!plain(b"ID;NAME\n1;"));
    assert!(plain(b"ID;NAME\n1;a\n"));
    assert!(!plain(b"#ID,NAME\n"));
    assert!(plain(b"#ID,NAME\n1,a\n"));
    // What is declared is not in doubt.
    assert!(is_enough(b"ID;NAME\n", declared(Some(","), None)));
    assert!(is_enough(b"ID;NAME\n", declared(Some(";"), None)));
    assert!(is_enough(b"#ID,NAME\n", declared(None, Some("none"))));
    assert!(!is_enough(b"# a\n#ID,NAME\n", declared(None, Some("#"))));
    assert!(is_enough(b"# a\nID,NAME\n", declared(None, Some("#"))));
}

#[test]
fn odd_headers_get_a_hint() {
    let plain = |header: &[u8]| hints(header, Declared::default());
    assert_eq!(plain(b"ID,NAME"), [""; 0]);
    assert!(plain(b"1,2.5")[0].contains("are all numbers"));
    assert!(plain(b"ID,NAME,\"ID\"")[0].contains("the name \"ID\" more than once"));
}

#[test]
fn a_declared_delimiter_that_the_header_does_not_have_gets_a_hint() {
    let said = hints(b"\"ID,NAME,X\"", declared(Some(";"), None));
    assert_eq!(said, ["the header (\"ID,NAME,X\") is one column with 2 commas; should it be --delimiter ,?"]);
    let said = hints(b"ID\tNAME", declared(Some(","), None));
    assert!(said[0].ends_with("is one column with 1 tab; should it be --delimiter tab?"), "{said:?}");
    assert_eq!(hints(b"ID,\"NAME;X\"", declared(Some("|"), None)), [""; 0]);
    assert_eq!(hints(b"ID;NAME", Declared::default()), [""; 0]);
}
