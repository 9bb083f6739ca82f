//! The phone numbers that alarms notify.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, ensure};

/// Reads the phone numbers; none if the file does not exist.
///
/// # Errors
/// The file is not a JSON list, or has a number that is not in E.164 form.
pub(crate) fn on_call(path: &Path) -> anyhow::Result<BTreeSet<String>> {
    let Some(text) = files::read_if_there(path)? else { return Ok(BTreeSet::new()) };
    let numbers: BTreeSet<String> = serde_json::from_slice(&text).with_context(|| {
        format!("parsing {}, which should be a JSON list of phone numbers as strings", path.display())
    })?;
    for number in &numbers {
        let digits = number.strip_prefix('+').unwrap_or_default();
        let is_valid = (2..=15).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit())
            && !digits.starts_with('0');
        ensure!(
            is_valid,
            "{number:?} in {} is not a phone number in E.164 form, such as \"+14155550100\"",
            path.display()
        );
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ONCALL.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            on_call(&path)
        };
        assert!(on_call(&folder.path().join("no")).unwrap().is_empty());
        assert_eq!(read("[\"+14155550100\", \"+4930123456\"]").unwrap().len(), 2);
        for wrong in
            ["{}", "[1]", "[\"14155550100\"]", "[\"+0123456\"]", "[\"+1 415\"]", "[\"+1234567890123456\"]"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
