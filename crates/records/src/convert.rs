//! Converts records of other dialects to the standard dialect.

use crate::Dialect;
use crate::values::{Malformed, unquote, write_value};

/// Is never part of a value that is not quoted.
const LINE_END: u8 = b'\n';

/// Converts one record after the other, in the same buffers.
#[derive(Debug)]
pub(crate) struct Converter {
    dialect: Dialect,
    /// A record without these bytes needs only other delimiters. A byte that need not be looked for is a line end.
    special: [u8; 3],
    record: Vec<u8>,
    /// A value that was quoted.
    value: Vec<u8>,
}

impl Converter {
    pub(crate) fn new(dialect: Dialect) -> Self {
        let unless_delimiter = |byte: u8| if byte == dialect.delimiter { LINE_END } else { byte };
        let special = [b',', b'"', dialect.quote.unwrap_or(LINE_END)].map(unless_delimiter);
        Self { dialect, special, record: Vec::new(), value: Vec::new() }
    }

    /// The record in the standard dialect. Values are quoted only where they must be; an empty line stays one.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub(crate) fn convert(&mut self, record: &[u8]) -> Result<&[u8], Malformed> {
        self.record.clear();
        let [first, second, third] = self.special;
        if memchr::memchr3(first, second, third, record).is_some() {
            self.convert_values(record)?;
            return Ok(&self.record);
        }
        let delimiter = self.dialect.delimiter;
        self.record.extend(record.iter().map(|&byte| if byte == delimiter { b',' } else { byte }));
        Ok(&self.record)
    }

    fn convert_values(&mut self, record: &[u8]) -> Result<(), Malformed> {
        let Self { dialect: Dialect { delimiter, quote, .. }, record: out, value, .. } = self;
        let mut rest = record;
        loop {
            let quoted = quote.and_then(|quote| Some((quote, rest.strip_prefix(&[quote])?)));
            if let Some((quote, text)) = quoted {
                value.clear();
                rest = unquote(text, quote, &mut |part| value.extend_from_slice(part))?;
            }
            let end = memchr::memchr2(*delimiter, LINE_END, rest);
            let text = &rest[..end.unwrap_or(rest.len())];
            if quoted.is_some() {
                // The text after the closing quote belongs to the value.
                value.extend_from_slice(text);
                write_value(value, out);
            } else if memchr::memchr2(b',', b'"', text).is_some() {
                write_value(text, out);
            } else {
                // A carriage return outside quotes stays outside, since it tells that a header has wrong line ends.
                out.extend_from_slice(text);
            }
            match end {
                None => break,
                Some(at) if rest[at] == LINE_END => return Err(Malformed::LineEnd),
                Some(at) => rest = &rest[at + 1..],
            }
            out.push(b',');
        }
        if out.is_empty() {
            // A single empty value, which is not an empty line.
            out.extend_from_slice(b"\"\"");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_become_those_of_the_standard_dialect() {
        let convert = |delimiter, quote, record: &str| {
            let mut converter = Converter::new(Dialect { delimiter, quote, comment: None });
            let converted = converter.convert(record.as_bytes());
            converted.map(|record| String::from_utf8(record.to_vec()).unwrap())
        };
        let standard = |text: &str| Ok(text.to_owned());
        let double = Some(b'"');
        assert_eq!(convert(b';', double, "1;a;2"), standard("1,a,2"));
        assert_eq!(convert(b';', double, "1;1,5;5\" pipe"), standard("1,\"1,5\",\"5\"\" pipe\""));
        assert_eq!(convert(b';', double, "\"a;b\";\"say \"\"hi\"\"\"x;\"c\nd\""), {
            standard("a;b,\"say \"\"hi\"\"x\",\"c\nd\"")
        });
        assert_eq!(convert(b'\t', Some(b'\''), "'it''s'\t''\t\""), standard("it's,,\"\"\"\""));
        assert_eq!(convert(b',', Some(b'\''), "'a,b',\"c"), standard("\"a,b\",\"\"\"c\""));
        assert_eq!(convert(b'|', None, "\"a|b\""), standard("\"\"\"a\",\"b\"\"\""));
        assert_eq!(convert(b'"', None, "a\"b,c"), standard("a,\"b,c\""));
        assert_eq!(convert(b' ', double, "a  b"), standard("a,,b"));
        assert_eq!(convert(b';', double, "a\rb;\"c\rd\""), standard("a\rb,\"c\rd\""));
        // One column: an empty value is quoted, and an empty line is no value.
        assert_eq!(convert(b';', double, "\"\""), standard("\"\""));
        assert_eq!(convert(b';', double, ""), standard(""));
        assert_eq!(convert(b';', double, "1;\"open"), Err(Malformed::OpenQuote));
        assert_eq!(convert(b';', double, "\"a\"\nb"), Err(Malformed::LineEnd));
    }
}
