//! What results repeat of the input.

/// Which of the input's columns are in the results of a model with typed columns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Copied {
    /// The record as it came.
    #[default]
    All,
    /// Its first value.
    First,
}

impl Copied {
    /// The part of a well-formed record that is copied.
    pub(super) fn of(self, record: &[u8]) -> &[u8] {
        if self == Self::All {
            return record;
        }
        let mut at = 0;
        if record.starts_with(b"\"") {
            at = 1;
            while let Some(quote) = memchr::memchr(b'"', &record[at..]) {
                at += quote + 1;
                if record.get(at) != Some(&b'"') {
                    break;
                }
                at += 1;
            }
        }
        let end = memchr::memchr(b',', &record[at..]).map_or(record.len(), |comma| at + comma);
        &record[..end]
    }
}
