//! Numbers as Python prints them: the shortest digits that read back the same, with an exponent below 10⁻⁴ and from 10¹⁶ on.

/// Appends a number as Python's `repr` prints it, and NaN as nothing.
pub fn float64(number: f64, out: &mut Vec<u8>) {
    let size = number.abs();
    if (1e-4..1e15).contains(&size) {
        // Most numbers: here both forms are the same.
        out.extend_from_slice(zmij::Buffer::new().format_finite(number).as_bytes());
    } else if number.is_finite() {
        shortest(zmij::Buffer::new().format_finite(number), out);
    } else {
        special(number, out);
    }
}

/// Appends a number with the digits that NumPy prints for `float32`, and NaN as nothing.
pub fn float32(number: f32, out: &mut Vec<u8>) {
    if number.is_finite() {
        shortest(zmij::Buffer::new().format_finite(number), out);
    } else {
        special(f64::from(number), out);
    }
}

/// Appends an integer.
pub fn integer(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends `True` or `False`.
pub fn boolean(value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if value { b"True" } else { b"False" });
}

fn special(number: f64, out: &mut Vec<u8>) {
    if number.is_infinite() {
        out.extend_from_slice(if number > 0.0 { b"inf" } else { b"-inf" });
    }
}

/// Appends a number in Python's form. `text` has an exponent at other limits than in Python.
fn shortest(text: &str, out: &mut Vec<u8>) {
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |text| ("-", text));
    out.extend_from_slice(sign.as_bytes());
    let (digits, exponent) = match (text.split_once('e'), text.strip_prefix("0.0000")) {
        (Some((digits, exponent)), _) => (digits.replace('.', ""), exponent.parse().unwrap_or(0)),
        (None, Some(fraction)) => {
            let digits = fraction.trim_start_matches('0');
            (digits.to_owned(), digits.len() as i32 - fraction.len() as i32 - 5)
        }
        (None, None) => return out.extend_from_slice(text.as_bytes()),
    };
    if (0..16).contains(&exponent) {
        let whole = exponent as usize + 1;
        let (before, after) = digits.split_at(whole.min(digits.len()));
        let after = if after.is_empty() { "0" } else { after };
        out.extend_from_slice(format!("{before:0<whole$}.{after}").as_bytes());
        return;
    }
    let (first, others) = digits.split_at(1);
    let point = if others.is_empty() { "" } else { "." };
    let sign = if exponent < 0 { '-' } else { '+' };
    let exponent = exponent.unsigned_abs();
    out.extend_from_slice(format!("{first}{point}{others}e{sign}{exponent:02}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn printed(print: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        print(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn long(number: f64) -> String {
        printed(|out| float64(number, out))
    }

    /// The digits that Rust finds, in Python's form.
    fn defined(scientific: &str, decimal: &str) -> String {
        let (digits, exponent) = scientific.split_once('e').unwrap();
        let exponent: i32 = exponent.parse().unwrap();
        if (-4..16).contains(&exponent) {
            return if decimal.contains('.') { decimal.to_owned() } else { format!("{decimal}.0") };
        }
        format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    }

    /// A text's form: of two numbers that are equally short and equally close, Python takes the even one, and Rust does not.
    fn form(text: &str) -> String {
        text.replace(|character: char| character.is_ascii_digit(), "0")
    }

    #[test]
    fn numbers_look_as_in_python() {
        for (number, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.000_099_9, "9.99e-05"),
            (0.00001, "1e-05"),
            (-0.000_001, "-1e-06"),
            (1e-300, "1e-300"),
            (1e15, "1000000000000000.0"),
            (9_999_999_999_999_998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, ""),
        ] {
            assert_eq!(long(number), text);
        }
        for (number, text) in [
            (0.1, "0.1"),
            (1e-5, "1e-05"),
            (0.000_12, "0.00012"),
            (16_777_216.0, "16777216.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (f32::MAX, "3.4028235e+38"),
        ] {
            assert_eq!(printed(|out| float32(number, out)), text);
        }
        assert_eq!(printed(|out| float32(f32::NAN, out)), "");
        assert_eq!(printed(|out| integer(i64::MIN, out)), i64::MIN.to_string());
        assert_eq!(printed(|out| boolean(true, out)) + &printed(|out| boolean(false, out)), "TrueFalse");
    }

    proptest! {
        #[test]
        fn numbers_have_the_shortest_digits(bits: u64, scale in -8i32..20) {
            let numbers = [f64::from_bits(bits), bits as f64 * 10f64.powi(-scale), bits as f64 / 2f64.powi(53) / 1e5];
            for number in numbers.into_iter().filter(|number| number.is_finite()) {
                let text = long(number);
                prop_assert_eq!(text.parse::<f64>().unwrap(), number);
                prop_assert_eq!(text.starts_with('-'), number.is_sign_negative());
                prop_assert_eq!(form(&text), form(&defined(&format!("{number:e}"), &number.to_string())));
                let short = number as f32;
                if short.is_finite() {
                    let text = printed(|out| float32(short, out));
                    prop_assert_eq!(text.parse::<f32>().unwrap(), short);
                    prop_assert_eq!(form(&text), form(&defined(&format!("{short:e}"), &short.to_string())));
                }
            }
        }
    }
}
