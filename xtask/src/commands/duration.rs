//! Durations, as users type them.

use std::time::Duration;

/// Parses a number with a unit, such as 90m.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let seconds = match &text[digits..] {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err("give a number followed by s, m, h or d, such as 90m".to_owned()),
    };
    let number: u32 = text[..digits].parse().map_err(|error| format!("{error}"))?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

/// Parses a number of seconds, which needs no unit; at least one.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let seconds = match text.parse() {
        Ok(seconds) => seconds,
        Err(_) => duration(text)?.as_secs(),
    };
    if (1..=process::LONGEST_WAIT).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(format!("give 1 to {} seconds", process::LONGEST_WAIT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_needs_a_number_and_a_unit() {
        assert_eq!(duration("90m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("4h"), Ok(Duration::from_secs(14400)));
        for wrong in ["", "4", "h", "-1h", "4 h", "99999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seconds_need_no_unit() {
        assert_eq!(["3", "3s", "2m"].map(seconds), [Ok(3), Ok(3), Ok(120)]);
        for wrong in ["", "0", "0s", "-1", "1.5", "99999999999"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
