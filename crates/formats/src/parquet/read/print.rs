//! Values as text. Those that return `bool` return `false` if the bytes are no such value.

use ::parquet::data_type::Int96;
use half::f16;
use num_bigint::{BigInt, Sign};

use super::form::Unit;

const SECONDS_OF_DAY: i64 = 86_400;
const NANOS_OF_DAY: i64 = SECONDS_OF_DAY * 1_000_000_000;
/// The Julian day of 1970-01-01.
const JULIAN_1970: i64 = 2_440_588;

/// Appends a text; an empty one in quotes, so that it differs from a missing one.
pub(super) fn text(value: &[u8], out: &mut Vec<u8>) -> bool {
    if value.is_empty() {
        out.extend_from_slice(b"\"\"");
        return true;
    }
    if std::str::from_utf8(value).is_err() {
        return false;
    }
    records::write_value(value, out);
    true
}

/// Appends the date this many days after 1970-01-01.
pub(super) fn date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = records::identity::date(days);
    if year < 0 {
        out.push(b'-');
    }
    padded(year.unsigned_abs(), 4, out);
    out.push(b'-');
    padded(month.unsigned_abs(), 2, out);
    out.push(b'-');
    padded(day.unsigned_abs(), 2, out);
}

/// Appends a time of day; one outside the day is that of another day. As in Python, a fraction has six digits; it has nine if
/// they are needed.
pub(super) fn time(value: i64, unit: Unit, out: &mut Vec<u8>) {
    let (seconds, fraction) = split(value, unit);
    let (fraction, unit) = match unit {
        Unit::Milli => (fraction * 1000, Unit::Micro),
        Unit::Nano if fraction % 1000 == 0 => (fraction / 1000, Unit::Micro),
        _ => (fraction, unit),
    };
    time_of_day(seconds.rem_euclid(SECONDS_OF_DAY), fraction, unit, out);
}

/// Whole seconds, and the rest in the unit.
fn split(value: i64, unit: Unit) -> (i64, i64) {
    let per_second = 10i64.pow(unit.digits() as u32);
    (value.div_euclid(per_second), value.rem_euclid(per_second))
}

/// Appends the date and time this long after 1970.
pub(super) fn timestamp(value: i64, unit: Unit, utc: bool, out: &mut Vec<u8>) {
    let (seconds, fraction) = split(value, unit);
    date(seconds.div_euclid(SECONDS_OF_DAY), out);
    out.push(b' ');
    time_of_day(seconds.rem_euclid(SECONDS_OF_DAY), fraction, unit, out);
    if utc {
        out.extend_from_slice(b"+00:00");
    }
}

/// Appends a timestamp of the nanoseconds of a day and the number of the day.
pub(super) fn int96(value: &Int96, out: &mut Vec<u8>) {
    let &[low, high, day] = value.data() else { return };
    let nanos = (u64::from(high) << 32 | u64::from(low)).cast_signed();
    let day = i64::from(day.cast_signed()) - JULIAN_1970 + nanos.div_euclid(NANOS_OF_DAY);
    let (seconds, fraction) = split(nanos.rem_euclid(NANOS_OF_DAY), Unit::Nano);
    date(day, out);
    out.push(b' ');
    time_of_day(seconds, fraction, Unit::Nano, out);
}

fn time_of_day(seconds: i64, fraction: i64, unit: Unit, out: &mut Vec<u8>) {
    let seconds = seconds.unsigned_abs();
    padded(seconds / 3600, 2, out);
    out.push(b':');
    padded(seconds / 60 % 60, 2, out);
    out.push(b':');
    padded(seconds % 60, 2, out);
    if fraction != 0 {
        out.push(b'.');
        padded(fraction.unsigned_abs(), unit.digits(), out);
    }
}

/// Appends a number with at least this many digits.
fn padded(number: u64, digits: usize, out: &mut Vec<u8>) {
    if digits == 2 && number < 100 {
        out.extend_from_slice(&[b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]);
        return;
    }
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(number);
    out.resize(out.len() + digits.saturating_sub(text.len()), b'0');
    out.extend_from_slice(text.as_bytes());
}

/// Appends a decimal with this many digits after the point.
pub(super) fn decimal(unscaled: i128, scale: usize, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    with_point(unscaled < 0, buffer.format(unscaled.unsigned_abs()), scale, out);
}

/// Appends a decimal whose number is in two's complement, the highest byte first.
pub(super) fn decimal_bytes(bytes: &[u8], scale: usize, out: &mut Vec<u8>) -> bool {
    let Some(first) = bytes.first() else { return false };
    let sign = if first >> 7 == 1 { 0xff } else { 0 };
    match 16usize.checked_sub(bytes.len()) {
        Some(missing) => {
            let mut all = [sign; 16];
            all[missing..].copy_from_slice(bytes);
            decimal(i128::from_be_bytes(all), scale, out);
        }
        None => {
            let number = BigInt::from_signed_bytes_be(bytes);
            with_point(number.sign() == Sign::Minus, &number.magnitude().to_string(), scale, out);
        }
    }
    true
}

fn with_point(is_negative: bool, digits: &str, scale: usize, out: &mut Vec<u8>) {
    if is_negative {
        out.push(b'-');
    }
    match digits.len().checked_sub(scale) {
        Some(whole @ 1..) => {
            let (whole, fraction) = digits.split_at(whole);
            out.extend_from_slice(whole.as_bytes());
            if scale > 0 {
                out.push(b'.');
                out.extend_from_slice(fraction.as_bytes());
            }
        }
        _ => {
            out.extend_from_slice(b"0.");
            out.resize(out.len() + scale - digits.len(), b'0');
            out.extend_from_slice(digits.as_bytes());
        }
    }
}

/// Appends 16 bytes as hexadecimal digits with hyphens.
pub(super) fn uuid(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if bytes.len() != 16 {
        return false;
    }
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
    true
}

/// Appends a number of 16 bits with as few digits as tell it from all others, as NumPy does.
pub(super) fn float16(bytes: &[u8], out: &mut Vec<u8>) -> bool {
    let &[low, high] = bytes else { return false };
    let number = f16::from_le_bytes([low, high]);
    let exact = f64::from(number);
    // Five digits tell all numbers of 16 bits apart.
    let shortest = (0..5).map(|digits| format!("{exact:.digits$e}").parse().unwrap_or(exact));
    let shortest = shortest.into_iter().find(|&short| f16::from_f64(short) == number).unwrap_or(exact);
    columns::print::float64(shortest, out);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(print: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        print(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn dates_and_times_have_one_form() {
        let day = |days| printed(|out| date(days, out));
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(-1), "1969-12-31");
        assert_eq!(day(19_753), "2024-01-31");
        assert_eq!(day(11_016), "2000-02-29");
        assert_eq!(day(-719_528), "0000-01-01");
        assert_eq!(day(-719_529), "-0001-12-31");
        assert_eq!(day(2_932_897), "10000-01-01");
        let at = |value, unit, utc| printed(|out| timestamp(value, unit, utc, out));
        assert_eq!(at(0, Unit::Milli, false), "1970-01-01 00:00:00");
        assert_eq!(at(-1, Unit::Milli, true), "1969-12-31 23:59:59.999+00:00");
        assert_eq!(at(1_706_704_496_000_007, Unit::Micro, false), "2024-01-31 12:34:56.000007");
        assert_eq!(at(1, Unit::Nano, false), "1970-01-01 00:00:00.000000001");
        for value in [i64::MIN, i64::MAX] {
            for unit in [Unit::Milli, Unit::Micro, Unit::Nano] {
                assert!(at(value, unit, false).len() > 18, "{value}");
                printed(|out| time(value, unit, out));
            }
            for part in [0, u32::MAX, 1 << 31] {
                let mut int = Int96::new();
                int.set_data(part, part, part);
                printed(|out| int96(&int, out));
            }
        }
        assert_eq!(printed(|out| time(45_296_500, Unit::Milli, out)), "12:34:56.500000");
        assert_eq!(printed(|out| time(500_000, Unit::Micro, out)), "00:00:00.500000");
        assert_eq!(printed(|out| time(500_000, Unit::Nano, out)), "00:00:00.000500");
        assert_eq!(printed(|out| time(500_001, Unit::Nano, out)), "00:00:00.000500001");
        assert_eq!(printed(|out| time(45_296_000_000_000, Unit::Nano, out)), "12:34:56");
        let mut int = Int96::new();
        int.set_data(500, 0, 2_440_589);
        assert_eq!(printed(|out| int96(&int, out)), "1970-01-02 00:00:00.000000500");
    }

    #[test]
    fn decimals_have_all_digits_of_their_scale() {
        for (number, scale, text) in [
            (0, 0, "0"),
            (0, 2, "0.00"),
            (-5, 2, "-0.05"),
            (12_345, 2, "123.45"),
            (100, 2, "1.00"),
            (-99, 0, "-99"),
            (i128::MIN, 38, "-1.70141183460469231731687303715884105728"),
        ] {
            assert_eq!(printed(|out| decimal(number, scale, out)), text);
            let bytes = number.to_be_bytes();
            assert_eq!(printed(|out| assert!(decimal_bytes(&bytes, scale, out))), text);
            let sign = if number < 0 { 0xff } else { 0 };
            let long = [&[sign; 16], &bytes[..]].concat();
            assert_eq!(printed(|out| assert!(decimal_bytes(&long, scale, out))), text);
        }
        assert_eq!(printed(|out| assert!(decimal_bytes(&[0xff, 0x00], 1, out))), "-25.6");
        assert!(!decimal_bytes(&[], 1, &mut Vec::new()));
    }

    #[test]
    fn small_floats_have_the_fewest_digits() {
        for (number, text) in [
            (0.1, "0.1"),
            (1.0, "1.0"),
            (65504.0, "65500.0"),
            (6e-5, "6e-05"),
            (-0.333, "-0.333"),
            (0.0, "0.0"),
        ] {
            assert_eq!(printed(|out| assert!(float16(&f16::from_f64(number).to_le_bytes(), out))), text);
        }
        assert_eq!(printed(|out| assert!(float16(&f16::NAN.to_le_bytes(), out))), "");
        assert_eq!(printed(|out| assert!(float16(&f16::NEG_INFINITY.to_le_bytes(), out))), "-inf");
        for bits in 0..=u16::MAX {
            let number = f16::from_bits(bits);
            let text = printed(|out| assert!(float16(&number.to_le_bytes(), out)));
            if !number.is_nan() {
                assert_eq!(f16::from_f64(text.parse().unwrap()), number);
            }
        }
    }

    #[test]
    fn identifiers_have_hyphens() {
        let bytes: Vec<u8> = (0..16).map(|i| i * 17).collect();
        let text = printed(|out| assert!(uuid(&bytes, out)));
        assert_eq!(text, "00112233-4455-6677-8899-aabbccddeeff");
        assert!(!uuid(&bytes[1..], &mut Vec::new()));
    }
}
