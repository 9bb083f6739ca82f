//! How an input is written: what separates values, what quotes them, and which lines are comments.

/// A dialect of CSV. The three characters differ from each other; none of them is a line end or NUL. Other dialects are read
/// without panics, but their rows mean nothing.
///
/// Each delimiter separates two values: where it is a space, several spaces have empty values between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    pub delimiter: u8,
    /// `None` if quotes are ordinary characters, so that each line is a row.
    pub quote: Option<u8>,
    /// Lines that begin with this byte are skipped, unless they are inside a quoted value. Elsewhere it is an ordinary character.
    pub comment: Option<u8>,
}

/// The standard dialect: RFC 4180, without comments.
impl Default for Dialect {
    fn default() -> Self {
        Self { delimiter: b',', quote: Some(b'"'), comment: None }
    }
}

/// Why a dialect cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDialect {
    #[error(
        "setting the delimiter to {0:?}: it is not a single ASCII character, or it is a letter, a digit, a line end or NUL; \
         give one such as ';', or the word tab"
    )]
    Delimiter(String),
    #[error(
        "setting the quote to {0:?}: it is not a single ASCII punctuation character; give one such as \"'\", or the word none"
    )]
    Quote(String),
    #[error(
        "setting the comment character to {0:?}: it is not a single ASCII punctuation character; give one such as '#', or \
         the word none"
    )]
    Comment(String),
    #[error(
        "setting the {first} and the {second} to {character:?}: one character cannot be both; change one of them"
    )]
    Same { first: &'static str, second: &'static str, character: char },
}

impl Dialect {
    /// The dialect of a user's options; an option that is not given keeps the standard. The delimiter may be the word `tab` or
    /// the two characters `\t`, the quote and the comment character the word `none`.
    ///
    /// A letter or a digit would split words and numbers, or skip rows as comments.
    ///
    /// # Errors
    /// See [`BadDialect`].
    pub fn parse(
        delimiter: Option<&str>,
        quote: Option<&str>,
        comment: Option<&str>,
    ) -> Result<Self, BadDialect> {
        let mut dialect = Self::default();
        if let Some(text) = delimiter {
            let is_right = |byte: &u8| {
                byte.is_ascii() && !byte.is_ascii_alphanumeric() && !matches!(byte, b'\r' | b'\n' | 0)
            };
            let byte =
                if matches!(text, "tab" | r"\t") { Some(b'\t') } else { single(text).filter(is_right) };
            dialect.delimiter = byte.ok_or_else(|| BadDialect::Delimiter(text.to_owned()))?;
        }
        if let Some(text) = quote {
            dialect.quote = punctuation(text).ok_or_else(|| BadDialect::Quote(text.to_owned()))?;
        }
        if let Some(text) = comment {
            dialect.comment = punctuation(text).ok_or_else(|| BadDialect::Comment(text.to_owned()))?;
        }
        dialect.check_differ()?;
        Ok(dialect)
    }

    fn check_differ(&self) -> Result<(), BadDialect> {
        let delimiter = ("delimiter", Some(self.delimiter));
        let (quote, comment) = (("quote", self.quote), ("comment character", self.comment));
        for ((first, one), (second, other)) in [(delimiter, quote), (delimiter, comment), (quote, comment)] {
            if let Some(byte) = one
                && one == other
            {
                return Err(BadDialect::Same { first, second, character: byte.into() });
            }
        }
        Ok(())
    }

    /// Whether this is the standard dialect, without comments.
    pub fn is_standard(&self) -> bool {
        *self == Self::default()
    }

    /// Whether records are converted to the standard dialect. They are not if only the comments differ.
    pub fn converts(&self) -> bool {
        !Self { comment: None, ..*self }.is_standard()
    }

    /// Whether a line is a comment, if it is not inside a quoted value.
    pub(crate) fn is_comment(&self, line: &[u8]) -> bool {
        self.comment.is_some_and(|comment| line.first() == Some(&comment))
    }
}

fn single(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [byte] => Some(*byte),
        _ => None,
    }
}

/// A punctuation character, or `Some(None)` for the word `none`.
fn punctuation(text: &str) -> Option<Option<u8>> {
    if text == "none" { Some(None) } else { single(text).filter(u8::is_ascii_punctuation).map(Some) }
}

/// What the user has declared of an input. A declaration overrules a guess from what the input looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Declared {
    pub dialect: Dialect,
    /// The user has given the delimiter, even if it is a comma.
    pub delimiter: bool,
    /// The user has given the comment character, or said that there is none.
    pub comment: bool,
}

impl Declared {
    /// What these options declare; they are those of [`Dialect::parse`].
    ///
    /// # Errors
    /// See [`BadDialect`].
    pub fn parse(
        delimiter: Option<&str>,
        quote: Option<&str>,
        comment: Option<&str>,
    ) -> Result<Self, BadDialect> {
        let dialect = Dialect::parse(delimiter, quote, comment)?;
        Ok(Self { dialect, delimiter: delimiter.is_some(), comment: comment.is_some() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_name_a_dialect() {
        let parse = |delimiter, quote, comment| Dialect::parse(delimiter, quote, comment).unwrap();
        assert!(parse(None, None, None).is_standard());
        assert!(parse(Some(","), Some("\""), Some("none")).is_standard());
        for tab in ["tab", r"\t", "\t"] {
            assert_eq!(parse(Some(tab), None, None).delimiter, b'\t');
        }
        let all = Dialect { delimiter: b';', quote: Some(b'\''), comment: Some(b'#') };
        assert_eq!(parse(Some(";"), Some("'"), Some("#")), all);
        assert!(all.converts());
        assert_eq!(parse(Some("\""), Some("none"), None).quote, None);
        let commented = parse(None, None, Some("#"));
        assert!(!commented.is_standard() && !commented.converts());
        assert!(parse(None, Some("none"), None).converts());
    }

    #[test]
    fn a_declaration_may_name_the_standard() {
        assert_eq!(Declared::parse(None, Some("\""), None), Ok(Declared::default()));
        let declared = Declared::parse(Some(","), None, Some("none")).unwrap();
        assert_eq!(declared, Declared { delimiter: true, comment: true, ..Declared::default() });
    }

    #[test]
    fn characters_that_cannot_be_read_are_refused_with_a_remedy() {
        let error =
            |delimiter, quote, comment| Dialect::parse(delimiter, quote, comment).unwrap_err().to_string();
        for bad in ["", ";;", "a", "0", "\n", "\r", "\0", "§", "none"] {
            let said = error(Some(bad), None, None);
            assert!(said.starts_with(&format!("setting the delimiter to {bad:?}: it is not")), "{said}");
        }
        for bad in ["", "''", "a", "0", "\n", " ", "\t", "»"] {
            assert!(error(None, Some(bad), None).ends_with("give one such as \"'\", or the word none"));
            assert!(error(None, None, Some(bad)).ends_with("give one such as '#', or the word none"));
        }
        assert_eq!(
            error(Some("\""), None, None),
            "setting the delimiter and the quote to '\"': one character cannot be both; change one of them"
        );
        assert!(error(None, None, Some(",")).contains("the delimiter and the comment character"));
        assert!(error(None, None, Some("\"")).contains("the quote and the comment character"));
    }
}
