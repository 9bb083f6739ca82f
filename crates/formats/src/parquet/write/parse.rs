//! Values of each kind, in the one form that reads back as the same text or number.

/// An integer as it is printed: a minus if it is negative, and digits without leading zeros.
pub(super) fn int64(value: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match value {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !is_negative => return Some(0),
        [] | [b'0', ..] => return None,
        _ if digits.len() > 19 => return None,
        _ => {}
    }
    let mut magnitude = 0u64;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // 19 digits have less than 64 bits.
        magnitude = magnitude * 10 + u64::from(digit);
    }
    if is_negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// A number in Python's form. Its digits need not be the fewest, but it must be finite unless it is `inf`.
pub(super) fn float64(value: &[u8]) -> Option<f64> {
    match value {
        b"nan" | b"NaN" => return Some(f64::NAN),
        b"inf" => return Some(f64::INFINITY),
        b"-inf" => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    let unsigned = value.strip_prefix(b"-").unwrap_or(value);
    // Neither blanks, a plus nor words; and digits on both sides of a point.
    let [first, .., last] = unsigned else {
        return unsigned.first()?.is_ascii_digit().then(|| columns::parse::float64(value)).flatten();
    };
    if !first.is_ascii_digit() || !last.is_ascii_digit() || has_bare_point(unsigned) {
        return None;
    }
    columns::parse::float64(value).filter(|number| number.is_finite())
}

/// Whether no digit follows a point.
fn has_bare_point(text: &[u8]) -> bool {
    let point = text.iter().position(|&byte| byte == b'.');
    point.is_some_and(|at| text.get(at + 1).is_none_or(|byte| !byte.is_ascii_digit()))
}

/// `True` or `False`.
pub(super) fn boolean(value: &[u8]) -> Option<bool> {
    match value {
        b"True" => Some(true),
        b"False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers_have_one_form() {
        assert_eq!(int64(b"0"), Some(0));
        assert_eq!(int64(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(int64(b"9223372036854775807"), Some(i64::MAX));
        for text in ["-0", "007", "+1", " 1", "1 ", "1.0", "1e3", "-", "", "9223372036854775808", "\u{663}"] {
            assert_eq!(int64(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(int64(b"-9223372036854775809"), None);
        assert_eq!(int64(b"99999999999999999999999"), None);
    }

    #[test]
    fn floats_are_as_python_prints_them() {
        for (text, number) in
            [("1.5", 1.5), ("-0.0", -0.0), ("5", 5.0), ("1e-05", 1e-5), ("1.5e+300", 1.5e300)]
        {
            assert_eq!(float64(text.as_bytes()).map(f64::to_bits), Some(f64::to_bits(number)), "{text:?}");
        }
        assert_eq!(float64(b"-inf"), Some(f64::NEG_INFINITY));
        assert!(float64(b"nan").unwrap().is_nan());
        for text in [
            "+1.5", " 1.5", "1.5 ", "1.", ".5", "-.5", "1.e5", "INF", "Infinity", "1e400", "-1e400", "0x1",
            "1_0", "-", "",
        ] {
            assert_eq!(float64(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn printed_numbers_read_back(bits: u64, whole: i64) {
            let number = f64::from_bits(bits);
            let mut text = Vec::new();
            columns::print::float64(number, &mut text);
            if !number.is_nan() {
                prop_assert_eq!(float64(&text).map(f64::to_bits), Some(bits));
            }
            prop_assert_eq!(int64(whole.to_string().as_bytes()), Some(whole));
        }

        #[test]
        fn an_integer_prints_as_its_text(text in "-?[0-9]{1,20}") {
            if let Some(number) = int64(text.as_bytes()) {
                prop_assert_eq!(number.to_string(), text);
            }
        }
    }
}
