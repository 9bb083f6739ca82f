//! Values as numbers and booleans.

/// The words that `pandas.read_csv` reads as a missing value, quoted or not.
pub fn is_missing(value: &[u8]) -> bool {
    matches!(
        value,
        b"" | b"#N/A"
            | b"#N/A N/A"
            | b"#NA"
            | b"-1.#IND"
            | b"-1.#QNAN"
            | b"-NaN"
            | b"-nan"
            | b"1.#IND"
            | b"1.#QNAN"
            | b"<NA>"
            | b"N/A"
            | b"NA"
            | b"NULL"
            | b"NaN"
            | b"None"
            | b"n/a"
            | b"nan"
            | b"null"
    )
}

/// A value's integer. Blanks may surround it.
pub fn int64(value: &[u8]) -> Option<i64> {
    Integer::of(value)?.signed().ok()
}

/// An integer in a column with missing values: NaN if it is missing. Pandas marks a missing integer with the smallest one, so
/// that one is missing, too.
pub fn nullable_int64(value: &[u8]) -> Option<f64> {
    match int64(value) {
        Some(i64::MIN) => Some(f64::NAN),
        Some(number) => Some(number as f64),
        None => is_missing(value).then_some(f64::NAN),
    }
}

/// A value's integer without a minus. Blanks may surround it.
pub fn uint64(value: &[u8]) -> Option<u64> {
    let integer = Integer::of(value)?;
    if integer.is_negative || integer.has_more { None } else { integer.magnitude }
}

/// The number closest to a value's decimal text. Blanks may surround digits, but not `inf`.
pub fn float64(value: &[u8]) -> Option<f64> {
    let Some(text) = decimal(value) else { return infinity(value) };
    let number: f64 = text.parse().ok()?;
    // As in pandas, 1e400 is no number, and -1e400 is -inf.
    (number != f64::INFINITY).then_some(number)
}

/// `true` or `false`, in letters of any case.
pub fn boolean(value: &[u8]) -> Option<bool> {
    match value.len() {
        4 => value.eq_ignore_ascii_case(b"true").then_some(true),
        5 => value.eq_ignore_ascii_case(b"false").then_some(false),
        _ => None,
    }
}

/// The beginning of a value that starts like an integer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Integer {
    pub(crate) is_negative: bool,
    /// The number that its digits make up; `None` beyond 64 bits.
    pub(crate) magnitude: Option<u64>,
    /// Whether something other than blanks follows the digits.
    pub(crate) has_more: bool,
}

/// A number of at most 18 digits before a point, and without an exponent. An integer of this form has less than 64 bits, and a
/// decimal is finite.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShortNumber {
    pub(crate) is_negative: bool,
    /// Whether it is a decimal.
    pub(crate) has_point: bool,
}

impl ShortNumber {
    /// The most digits.
    const MOST: usize = 18;

    /// `None` if the value has another form.
    pub(crate) fn of(value: &[u8]) -> Option<Self> {
        let (is_negative, digits) = match value {
            [b'-', digits @ ..] => (true, digits),
            digits => (false, digits),
        };
        let whole = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if whole == 0 || whole > Self::MOST {
            return None;
        }
        match &digits[whole..] {
            [] => Some(Self { is_negative, has_point: false }),
            [b'.', fraction @ ..] if fraction.iter().all(u8::is_ascii_digit) && !fraction.is_empty() => {
                Some(Self { is_negative, has_point: true })
            }
            _ => None,
        }
    }
}

/// Why a text is not an integer of a type. In a text with both flaws, pandas finds the overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    Overflow,
    Invalid,
}

impl Integer {
    /// `None` if the value has no digit after its sign.
    pub(crate) fn of(value: &[u8]) -> Option<Self> {
        let value = trim_start(value);
        let (is_negative, digits) = match value {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, value),
        };
        let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return None;
        }
        let (digits, rest) = digits.split_at(count);
        let digit = |byte: &u8| u64::from(byte - b'0');
        // Numbers of 19 digits have less than 64 bits.
        let magnitude = if count <= 19 {
            Some(digits.iter().fold(0, |number, byte| number * 10 + digit(byte)))
        } else {
            digits.iter().try_fold(0u64, |number, byte| number.checked_mul(10)?.checked_add(digit(byte)))
        };
        Some(Self { is_negative, magnitude, has_more: !trim_start(rest).is_empty() })
    }

    pub(crate) fn signed(self) -> Result<i64, Flaw> {
        let magnitude = self.magnitude.ok_or(Flaw::Overflow)?;
        let number = match self.is_negative {
            false => i64::try_from(magnitude).ok(),
            true => 0i64.checked_sub_unsigned(magnitude),
        };
        let number = number.ok_or(Flaw::Overflow)?;
        if self.has_more { Err(Flaw::Invalid) } else { Ok(number) }
    }
}

/// The decimal number in a value, without blanks; `None` if it has another form.
fn decimal(value: &[u8]) -> Option<&str> {
    let text = trim_start(value);
    let text = &text[..text.iter().rposition(|&byte| !is_blank(byte)).map_or(0, |last| last + 1)];
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let unsigned = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    let whole = digits(unsigned);
    let mut rest = &unsigned[whole..];
    let mut count = whole;
    if let Some(after) = rest.strip_prefix(b".") {
        let fraction = digits(after);
        count += fraction;
        rest = &after[fraction..];
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent =
            exponent.strip_prefix(b"-").or_else(|| exponent.strip_prefix(b"+")).unwrap_or(exponent);
        let length = digits(exponent);
        rest = &exponent[length..];
        if length == 0 {
            return None;
        }
    }
    // These are ASCII characters.
    if count > 0 && rest.is_empty() { std::str::from_utf8(text).ok() } else { None }
}

fn infinity(value: &[u8]) -> Option<f64> {
    let (sign, word) = match value {
        [b'-', word @ ..] => (-1.0, word),
        [b'+', word @ ..] => (1.0, word),
        word => (1.0, word),
    };
    let is_infinity = word.eq_ignore_ascii_case(b"inf") || word.eq_ignore_ascii_case(b"infinity");
    is_infinity.then_some(sign * f64::INFINITY)
}

pub(crate) fn trim_start(value: &[u8]) -> &[u8] {
    let blanks = value.iter().take_while(|&&byte| is_blank(byte)).count();
    &value[blanks..]
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_may_have_blanks_signs_and_leading_zeros() {
        for (text, number) in [("7", 7), (" 7", 7), ("\t7 ", 7), ("+7", 7), ("-07", -7), ("-0", 0)] {
            assert_eq!(int64(text.as_bytes()), Some(number), "{text:?}");
            assert_eq!(float64(text.as_bytes()), Some(number as f64), "{text:?}");
        }
        for text in [
            "", " ", "+", "-", "--1", "- 1", "1_0", "0x1", "1 2", "1\u{a0}", "\u{663}", "1e", "1e+", ".",
            "e5", ".e5",
        ] {
            assert_eq!(int64(text.as_bytes()), None, "{text:?}");
            assert_eq!(float64(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn integers_end_at_the_limits_of_their_types() {
        assert_eq!(int64(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(int64(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(int64(b"9223372036854775808"), None);
        assert_eq!(int64(b"-9223372036854775809"), None);
        assert_eq!(uint64(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(uint64(b"18446744073709551616"), None);
        assert_eq!(uint64(b"-1"), None);
        assert_eq!(uint64(b"000000000000000000000000000001"), Some(1));
    }

    #[test]
    fn decimals_are_as_in_pandas() {
        let number = |text: &str| float64(text.as_bytes());
        assert_eq!(number("1."), Some(1.0));
        assert_eq!(number(".5 "), Some(0.5));
        assert_eq!(number("1.e+05"), Some(1e5));
        assert_eq!(number("1e-400"), Some(0.0));
        assert_eq!(number("5e-324"), Some(5e-324));
        assert_eq!(number("1e400"), None);
        assert_eq!(number("-1e400"), Some(f64::NEG_INFINITY));
        for text in ["inf", "+inf", "INF", "Infinity", "+infinity"] {
            assert_eq!(number(text), Some(f64::INFINITY), "{text:?}");
        }
        assert_eq!(number("-Inf"), Some(f64::NEG_INFINITY));
        for text in [" inf", "infinit", "nan", "+nan"] {
            assert_eq!(number(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn printed_numbers_read_back_the_same(number: f64, whole: i64, natural: u64) {
            prop_assert_eq!(float64(format!("{number:e}").as_bytes()), (!number.is_nan()).then_some(number));
            prop_assert_eq!(int64(whole.to_string().as_bytes()), Some(whole));
            prop_assert_eq!(uint64(natural.to_string().as_bytes()), Some(natural));
        }

        #[test]
        fn no_text_is_a_panic(text in "[-+ 0-9.eEa]{0,40}") {
            let text = text.as_bytes();
            let _ = (int64(text), nullable_int64(text), uint64(text), float64(text), boolean(text), is_missing(text));
        }
    }
}
