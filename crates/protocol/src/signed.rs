//! Requests to S3 that the user's machine has signed, so that no other machine needs rights there.
//!
//! They are in a file. The user's machine replaces the file before they end, as long as it has credentials.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// The most parts that S3 lets an object have.
pub const MOST_PARTS: u16 = 10_000;
/// The length of the first parts; the least that S3 accepts is 5 MiB.
const FIRST_PART: u64 = 8 << 20;
/// After so many parts, parts are twice as long.
const PARTS_OF_A_LENGTH: u16 = 1_000;

/// Signed requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// When the signatures end, in seconds since 1970.
    pub until: u64,
    /// For each object to read, by its address (`s3://bucket/key`), the URL of a GET.
    pub inputs: BTreeMap<String, String>,
    /// Objects to write, in the order in which they are completed.
    pub uploads: Vec<Upload>,
}

/// An object to write in parts. It is not visible before it is completed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// What it is.
    pub open: Open,
    /// The URL of a PUT of a part, with [`PART`] and [`SIGNATURE`] in place of these.
    pub part: String,
    /// The signature of each part, from the first on.
    pub signatures: Vec<String>,
    /// The URL of the POST that completes it.
    pub complete: String,
    /// The URL of a HEAD of the object.
    pub head: String,
}

/// An upload that has begun, and was not yet completed or aborted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The object's address, as `s3://bucket/key`.
    pub address: String,
    /// S3's name for the upload.
    pub id: String,
    /// What the finished object has as its metadata [`OF_JOB`], so that it is known from others at this address.
    pub job: String,
}

/// The place of the part's number in an [`Upload`]'s URL.
pub const PART: &str = "{part}";
/// The place of the signature there.
pub const SIGNATURE: &str = "{signature}";
/// The header with the job that has written an object.
pub const OF_JOB: &str = "x-amz-meta-job";

impl Signed {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let reading = || format!("reading the signed requests in {}", path.display());
        let json = std::fs::read(path).with_context(reading)?;
        serde_json::from_slice(&json).with_context(reading)
    }

    /// When the signatures end.
    pub fn end(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.until)
    }
}

impl Upload {
    /// The URL for the part with this number, from 1; `None` if there is none.
    pub fn part(&self, number: u16) -> Option<String> {
        let signature = self.signatures.get(usize::from(number.checked_sub(1)?))?;
        Some(self.part.replace(PART, &number.to_string()).replace(SIGNATURE, signature))
    }
}

/// The length of the part with this number, from 1, unless it is the last one. Short objects have short parts, and the longest
/// have few enough: together they are 8 TiB.
pub fn part_length(number: u16) -> u64 {
    FIRST_PART << (number.saturating_sub(1) / PARTS_OF_A_LENGTH).min(9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_within_the_limits_of_s3_and_hold_its_largest_object() {
        assert_eq!([1, 1000, 1001, 10_000].map(part_length), [8 << 20, 8 << 20, 16 << 20, 4 << 30]);
        let all: u64 = (1..=MOST_PARTS).map(part_length).sum();
        assert!(all > 5 << 40 && (1..=MOST_PARTS).all(|part| part_length(part) <= 5 << 30));
    }

    #[test]
    fn a_url_has_its_part_and_signature() {
        let open = Open { address: String::new(), id: String::new(), job: String::new() };
        let upload = Upload {
            open,
            part: "http://h/k?partNumber={part}&X-Amz-Signature={signature}".to_owned(),
            signatures: vec!["a".to_owned(), "b".to_owned()],
            complete: String::new(),
            head: String::new(),
        };
        assert_eq!(upload.part(2).unwrap(), "http://h/k?partNumber=2&X-Amz-Signature=b");
        assert_eq!((upload.part(0), upload.part(3)), (None, None));
    }
}
