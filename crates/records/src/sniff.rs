//! Detects from an input's first bytes that it is not a CSV in the dialect that the user has declared. Pure.
//!
//! Each refusal says what the input seems to be, and what to do about it. A declaration overrules a guess, but not a certainty (a
//! compressed file): `--delimiter` overrules that values have another separator, or that it is HTML or JSON, and `--comment` that
//! the first line is a comment.

use std::fmt;

use crate::values::{check_header, count_separated};
use crate::{Declared, Dialect};

/// The most bytes of an input that are examined.
pub const SAMPLE: usize = 64 << 10;
/// The most rows that are examined.
const SAMPLE_ROWS: usize = 20;
/// The command that reads a job's input from standard input.
const PIPE: &str = "cargo xtask run-locally --input -";

/// Why an input is refused before any of it is sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct NotCsv {
    /// What is wrong, as words after the input's name.
    what: String,
    /// What the user can do.
    remedy: String,
}

impl fmt::Display for NotCsv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

/// An input's name in messages.
#[derive(Debug, Clone, Copy)]
pub struct Name<'a> {
    pub name: &'a str,
    /// Whether `name` is a file, which shell commands can read.
    pub is_file: bool,
}

impl Name<'_> {
    /// A shell command that pipes the input through `command` to a job.
    fn through(self, command: &str) -> String {
        let is_plain = |c: char| c.is_alphanumeric() || "/._-+=:@%".contains(c);
        match self.is_file {
            false => format!("{command} | {PIPE}"),
            true if self.name.chars().all(is_plain) => format!("{command} < {} | {PIPE}", self.name),
            true => format!("{command} < '{}' | {PIPE}", self.name.replace('\'', "'\\''")),
        }
    }
}

/// The first bytes of gzip, with the only method that there is.
pub const GZIP: [u8; 3] = *b"\x1f\x8b\x08";
/// File formats: the first bytes, the name, and the command that turns the file into a CSV, if any.
const FORMATS: [(&[u8], &str, &str); 17] = [
    (b"\x1f\x8b", "compressed with gzip", "gzip -dc"),
    (b"BZh", "compressed with bzip2", "bzip2 -dc"),
    (b"\xfd7zXZ\0", "compressed with xz", "xz -dc"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "zstd -dc"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "lz4 -dc"),
    (b"\x1f\x9d", "compressed with compress", "gzip -dc"),
    (b"LZIP\x01", "compressed with lzip", "lzip -dc"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "bsdtar -xOf -"),
    (b"PK\x03\x04", "a zip archive", "bsdtar -xOf -"),
    (b"PK\x05\x06", "an empty zip archive", ""),
    (b"Rar!\x1a\x07", "a RAR archive", "bsdtar -xOf -"),
    (b"PAR1", "a Parquet file", PARQUET),
    (b"ARROW1\0\0", "an Arrow (Feather) file", FEATHER),
    (b"FEA1", "a Feather file", FEATHER),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook", ""),
    (b"SQLite format 3\0", "an SQLite database", ""),
    (b"%PDF-", "a PDF document", ""),
];
const PARQUET: &str = "python3 -c 'import io, sys, pandas; pandas.read_parquet(io.BytesIO(sys.stdin.buffer.read())).to_csv(sys.stdout, index=False)'";
const FEATHER: &str = "python3 -c 'import io, sys, pandas; pandas.read_feather(io.BytesIO(sys.stdin.buffer.read())).to_csv(sys.stdout, index=False)'";
/// Usual separators, their names, and how a shell's user gives them as an option.
const SEPARATORS: [(u8, &str, &str); 4] = [
    (b',', "commas", ","),
    (b';', "semicolons", "';'"),
    (b'\t', "tabs", "tab"),
    (b'|', "vertical bars", "'|'"),
];

/// The usual separators that are not this delimiter.
fn other_separators(delimiter: u8) -> impl Iterator<Item = &'static (u8, &'static str, &'static str)> {
    SEPARATORS.iter().filter(move |(byte, ..)| *byte != delimiter)
}

/// Whether `seen` is enough of a stream to check it. Reading more could mean to wait for rows that arrive much later.
pub fn is_enough(seen: &[u8], declared: Declared) -> bool {
    let Declared { dialect, .. } = declared;
    let lines = seen.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let mut lines = lines.filter(|line| !dialect.is_comment(line));
    let Some(first) = lines.next() else { return false };
    // Only a row tells whether the header is a comment, or has another separator.
    let may_be_comment = !declared.comment && first.starts_with(b"#");
    let may_be_separated = !declared.delimiter
        && !first.contains(&dialect.delimiter)
        && other_separators(dialect.delimiter).any(|(byte, ..)| first.contains(byte));
    !(may_be_comment || may_be_separated) || lines.next().is_some()
}

/// Checks the first bytes of an input, after its UTF-8 mark; `is_all` if these are all its bytes.
///
/// # Errors
/// The input cannot be, or very likely is not, a CSV in the declared dialect.
pub fn check(seen: &[u8], is_all: bool, declared: Declared, name: Name<'_>) -> Result<(), NotCsv> {
    let Declared { dialect, .. } = declared;
    let refuse = |what: String, remedy: String| Err(NotCsv { what, remedy });
    let example = "the first line must be a CSV header such as ID,NAME";
    if seen.is_empty() {
        return refuse("is empty".into(), example.into());
    }
    check_format(seen, name)?;
    check_encoding(seen, dialect.delimiter, name)?;
    if !declared.delimiter {
        check_markup(seen)?;
    }
    let text = after_comments(seen, dialect);
    let has_comments = text.len() < seen.len();
    let line_end = memchr::memchr(b'\n', text);
    if has_comments && is_all && text.is_empty() {
        return refuse("has only comments".into(), "after them must be a CSV header such as ID,NAME".into());
    }
    if has_comments && !is_all && line_end.is_none() {
        // The comments left no room for the header.
        return Ok(());
    }
    let end = line_end.unwrap_or(text.len());
    let (header, rest) =
        (text[..end].strip_suffix(b"\r").unwrap_or(&text[..end]), text.get(end + 1..).unwrap_or_default());
    // Blanks may be delimiters.
    if header.trim_ascii().is_empty() && !header.contains(&dialect.delimiter) {
        if has_comments {
            let what = "has no header: the first line after its comments is empty";
            return refuse(what.into(), "remove the empty lines before the header".into());
        }
        let skip = name.through("sed '/[^[:space:]]/,$!d'");
        return refuse(
            "has no header: its first line is empty".into(),
            format!("{example}; without the empty lines before it: {skip}"),
        );
    }
    let rows = sample_rows(rest, is_all, dialect);
    check_comment(header, &rows, declared, name)?;
    if !declared.delimiter {
        check_separator(header, &rows, dialect)?;
    }
    Ok(())
}

/// The bytes after the comments at the beginning.
fn after_comments(mut seen: &[u8], dialect: Dialect) -> &[u8] {
    while dialect.is_comment(seen) {
        seen = memchr::memchr(b'\n', seen).map_or(&[], |at| &seen[at + 1..]);
    }
    seen
}

fn check_format(seen: &[u8], name: Name<'_>) -> Result<(), NotCsv> {
    let Some((magic, what, command)) = FORMATS.iter().find(|(magic, ..)| seen.starts_with(magic)) else {
        return Ok(());
    };
    let after = &seen[magic.len()..];
    // These could also begin a header.
    let is_text = match *magic {
        b"BZh" => {
            !(after.len() >= 7
                && after[0].is_ascii_digit()
                && [b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"]
                    .contains(&after[1..7].first_chunk().expect("they are six")))
        }
        b"PAR1" | b"FEA1" => {
            after.first().is_none_or(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
        }
        _ => false,
    };
    if is_text {
        return Ok(());
    }
    let is_workbook = magic.starts_with(b"PK")
        && [&b"xl/"[..], b"[Content_Types].xml"]
            .iter()
            .any(|part| memchr::memmem::find(seen, part).is_some());
    let (what, remedy) = match (is_workbook, command.is_empty()) {
        (true, _) => ("an Excel workbook".to_owned(), "save it as a CSV, in UTF-8".to_owned()),
        (false, true) => ((*what).to_owned(), "give a CSV, in UTF-8".to_owned()),
        (false, false) => ((*what).to_owned(), format!("give it as a CSV: {}", name.through(command))),
    };
    Err(NotCsv { what: format!("is {what}"), remedy })
}

/// Refuses UTF-16 and UTF-32, with or without a mark.
fn check_encoding(seen: &[u8], delimiter: u8, name: Name<'_>) -> Result<(), NotCsv> {
    let marked = [
        (&b"\xff\xfe\0\0"[..], "UTF-32"),
        (b"\0\0\xfe\xff", "UTF-32"),
        (b"\xff\xfe", "UTF-16LE"),
        (b"\xfe\xff", "UTF-16BE"),
    ];
    let found = marked.iter().find(|(mark, _)| seen.starts_with(mark)).map(|(_, encoding)| *encoding);
    let beginning = &seen[..seen.len().min(1000)];
    let found = found.or_else(|| by_zeros(beginning)).or_else(|| by_separators(beginning, delimiter));
    let Some(encoding) = found else { return Ok(()) };
    let remedy = if encoding.starts_with("UTF-16") {
        format!("pass --encoding {encoding}")
    } else {
        format!("convert it: {}", name.through(&format!("iconv -f {encoding} -t UTF-8")))
    };
    Err(NotCsv { what: format!("is {encoding}, and not UTF-8"), remedy })
}

/// The encoding of a text with mostly ASCII characters, by the positions of its zero bytes.
fn by_zeros(seen: &[u8]) -> Option<&'static str> {
    let zeros = |step: usize, at: usize| {
        let bytes = seen.iter().skip(at).step_by(step);
        (2 * bytes.clone().filter(|&&byte| byte == 0).count()) > bytes.count()
    };
    if seen.len() < 4 || !seen.contains(&0) {
        return None;
    }
    match std::array::from_fn(|at| zeros(4, at)) {
        [false, true, true, true] => Some("UTF-32LE"),
        [true, true, true, false] => Some("UTF-32BE"),
        [false, true, false, true] => Some("UTF-16LE"),
        [true, false, true, false] => Some("UTF-16BE"),
        _ => None,
    }
}

/// The encoding of a text with few ASCII characters, by the zero bytes beside its delimiters and line ends.
fn by_separators(seen: &[u8], delimiter: u8) -> Option<&'static str> {
    let ends: Vec<_> = (0..seen.len()).filter(|&at| seen[at] == delimiter || seen[at] == b'\n').collect();
    let most = |zero: &dyn Fn(usize) -> Option<usize>| {
        let wide = ends.iter().filter(|&&at| zero(at).is_some_and(|at| seen.get(at) == Some(&0)));
        2 * wide.count() > ends.len()
    };
    let (after, before) = (|at| (at % 2 == 0).then_some(at + 1), |at: usize| (at % 2 == 1).then(|| at - 1));
    match (most(&after), most(&before)) {
        (true, false) => Some("UTF-16LE"),
        (false, true) => Some("UTF-16BE"),
        _ => None,
    }
}

fn check_markup(seen: &[u8]) -> Result<(), NotCsv> {
    let text = seen.trim_ascii_start();
    let begins =
        |tag: &str| text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()));
    let inside = text.get(1..).unwrap_or_default().trim_ascii_start();
    let is_tag = |tag: &str| {
        begins(tag)
            && text.get(tag.len()).is_none_or(|byte| byte.is_ascii_whitespace() || b">/".contains(byte))
    };
    let what = if ["<!doctype", "<html", "<head", "<body"].into_iter().any(is_tag) {
        "an HTML page, perhaps an error page of the server"
    } else if begins("<?xml") {
        "XML"
    } else if (text.starts_with(b"{") && (inside.starts_with(b"\"") || inside.starts_with(b"}")))
        || (text.starts_with(b"[") && (inside.starts_with(b"{") || inside.starts_with(b"[")))
    {
        "JSON"
    } else {
        return Ok(());
    };
    Err(NotCsv { what: format!("is {what}"), remedy: "give a CSV, in UTF-8".into() })
}

/// The first complete rows, as lines; empty lines and comments are left out.
fn sample_rows(rest: &[u8], is_all: bool, dialect: Dialect) -> Vec<&[u8]> {
    let lines = rest.split_inclusive(|&byte| byte == b'\n').filter(|line| is_all || line.ends_with(b"\n"));
    let lines = lines.filter(|line| !dialect.is_comment(line));
    let bare =
        |line: &'_ [u8]| line.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map(|last| last + 1);
    let lines = lines.filter_map(|line| bare(line).map(|end| &line[..end]));
    lines.take(SAMPLE_ROWS).collect()
}

/// Refuses a first line that is a comment, and not a header whose first name begins with a hash; also Excel's line with the
/// separator.
fn check_comment(header: &[u8], rows: &[&[u8]], declared: Declared, name: Name<'_>) -> Result<(), NotCsv> {
    let Dialect { delimiter, quote, .. } = declared.dialect;
    let refuse = |kind: &str, remedy: String| {
        Err(NotCsv { what: format!("has no header: its first line ({}) is {kind}", shown(header)), remedy })
    };
    if header.len() == 5 && header[..4].eq_ignore_ascii_case(b"sep=") {
        // With another delimiter, it may be a header of one column.
        if declared.delimiter && header[4] != delimiter {
            return Ok(());
        }
        let option = SEPARATORS.iter().find(|(byte, ..)| *byte == header[4]).map(|(.., option)| *option);
        let option = option.map(|option| format!(" --delimiter {option}")).unwrap_or_default();
        let remedy = format!("give it without that line: {}{option}", name.through("tail -n +2"));
        return refuse("an instruction for Excel", remedy);
    }
    if declared.comment || !header.starts_with(b"#") {
        return Ok(());
    }
    let count = |line: &[u8]| count_separated(line, delimiter, quote);
    let columns = count(header);
    let is_header = columns > 1
        && header.get(1).is_some_and(|byte| !byte.is_ascii_whitespace() && *byte != b'#')
        && 2 * rows.iter().filter(|row| count(row) == columns).count() >= rows.len();
    if is_header {
        return Ok(());
    }
    refuse("a comment", "pass --comment '#'; or, if it is the header, pass --comment none".to_owned())
}

/// Refuses a header of one column that contains another separator, if rows contain it as often.
fn check_separator(header: &[u8], rows: &[&[u8]], dialect: Dialect) -> Result<(), NotCsv> {
    let count = |line: &[u8], separator: u8| count_separated(line, separator, dialect.quote);
    if count(header, dialect.delimiter) != 1 {
        return Ok(());
    }
    let found = other_separators(dialect.delimiter).find(|(byte, ..)| {
        let columns = count(header, *byte);
        let alike = rows.iter().filter(|row| count(row, *byte) == columns).count();
        match columns {
            0 | 1 => false,
            // A single separator may be part of the name.
            2 => !rows.is_empty() && alike == rows.len(),
            _ => 2 * alike >= rows.len(),
        }
    });
    let Some((byte, plural, option)) = found else { return Ok(()) };
    Err(NotCsv {
        what: format!(
            "seems to have {plural} between its values, and not commas: its header ({}) is one column with {}",
            shown(header),
            counted(count(header, *byte) - 1, plural)
        ),
        remedy: format!("pass --delimiter {option}; or, if it is one column, pass --delimiter ,"),
    })
}

/// A number of things whose name ends with an s.
fn counted(number: usize, plural: &str) -> String {
    format!("{number} {}", if number == 1 { plural.trim_end_matches('s') } else { plural })
}

/// The beginning of a line, for a message.
fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// Warnings about a header that is unusual, but may be right. The header is one of the standard dialect, as the reader
/// returns it.
pub fn hints(header: &[u8], declared: Declared) -> Vec<String> {
    let Ok(names) = crate::split(header) else { return Vec::new() };
    let mut hints = Vec::new();
    let is_number =
        |name: &Vec<u8>| std::str::from_utf8(name).is_ok_and(|name| name.trim().parse::<f64>().is_ok());
    if check_header(header).is_ok() && names.iter().all(is_number) {
        hints.push(format!(
            "the names in the header ({}) are all numbers; is the first line a row?",
            shown(header)
        ));
    }
    let mut sorted = names.clone();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        hints.push(format!("the header has the name {} more than once", shown(&twice[0])));
    }
    if let [name] = &names[..]
        && declared.delimiter
        && let Some((byte, plural, option)) =
            other_separators(declared.dialect.delimiter).find(|(byte, ..)| name.contains(byte))
    {
        let times = name.iter().filter(|&other| other == byte).count();
        hints.push(format!(
            "the header ({}) is one column with {}; should it be --delimiter {option}?",
            shown(name),
            counted(times, plural)
        ));
    }
    hints
}

#[cfg(test)]
mod tests;
