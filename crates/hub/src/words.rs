//! Numbers and durations as text, in the page's format.

use std::time::Duration;

/// `41.0 ms`.
pub fn duration(duration: Duration) -> String {
    let text = format!("{duration:.1?}");
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    format!("{} {}", &text[..unit], &text[unit..])
}

/// `1,234,567`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        let texts = [0, 999, 1000, 1_234_567].map(count);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_unit_is_separated() {
        assert_eq!(duration(Duration::from_micros(41_000)), "41.0 ms");
        assert_eq!(duration(Duration::from_secs(90)), "90.0 s");
    }
}
