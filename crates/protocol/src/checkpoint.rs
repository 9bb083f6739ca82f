//! The receiver's checkpoint file: how much of the results and rejects files is durable, and the contents of that part.
//!
//! The file has two slots, which are written in turn. A checksum detects a torn slot; the other slot, written just before, is
//! then intact. The part that the newest intact slot counts is durable and consists of complete batches, so it can be read while
//! the receiver continues to write.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::results::Identity;

/// Bytes of a slot: a disk sector and a file system block, so that writing one slot cannot damage the other.
pub const SLOT: usize = 4096;

/// How much of the job is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The first batch that is not counted here.
    pub next: u64,
    /// The first row of that batch.
    pub next_row: u64,
    /// Rejected rows before `next_row`.
    pub rejects: u64,
    /// Length of the results in bytes.
    pub result_bytes: u64,
    /// The [short](crate::hash::short) hash of these bytes, checked when the file is read again.
    #[serde(with = "hexadecimal")]
    pub results_sha256: u64,
    /// Length of the rejects file in bytes.
    pub reject_bytes: u64,
    /// The short hash of these bytes.
    #[serde(with = "hexadecimal")]
    pub rejects_sha256: u64,
    /// The number of columns of the results; 0 while there are no results. Otherwise the schema file exists.
    #[serde(default)]
    pub columns: u32,
    /// The schema file has the job's terms.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub typed: bool,
    /// Identifies the job, once its source has seen the first row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// When the first batch arrived, in milliseconds since 1970; 0 before that.
    #[serde(default)]
    pub started: u64,
}

/// The content of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Counts the checkpoints of a job; the slot with the higher number is newer.
    pub sequence: u64,
    /// The results' file name, as the receiver shortens it.
    pub results: String,
    /// The number of receiver processes that this job has had, including this one.
    #[serde(default)]
    pub life: u64,
    #[serde(flatten)]
    pub position: Position,
    /// The job is finished, and the initializer has been told so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub told: bool,
}

/// The intact slots of a file, newest first.
pub fn slots(file: &[u8]) -> Vec<Slot> {
    let mut slots: Vec<_> = file.chunks(SLOT).take(2).filter_map(decode).collect();
    slots.sort_by_key(|slot| Reverse(slot.sequence));
    slots
}

/// Hashes in hexadecimal: the first 16 digits that `sha256sum` prints.
mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(hash: &u64, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&format_args!("{hash:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        u64::from_str_radix(&String::deserialize(from)?, 16).map_err(D::Error::custom)
    }
}

/// Encodes a slot as one readable line: JSON, a space, a checksum, and spaces up to the end.
pub fn encode(slot: &Slot) -> [u8; SLOT] {
    let json = serde_json::to_string(slot).unwrap_or_default();
    let line = format!("{json} {}", checksum(json.as_bytes()));
    let mut bytes = [b' '; SLOT];
    // A dozen numbers of at most 20 digits with names, and a file name, always fit in a slot.
    bytes[..line.len()].copy_from_slice(line.as_bytes());
    bytes[SLOT - 1] = b'\n';
    bytes
}

/// Decodes a slot; `None` if it is torn or empty.
pub fn decode(bytes: &[u8]) -> Option<Slot> {
    let (json, sum) = std::str::from_utf8(bytes).ok()?.trim_end().rsplit_once(' ')?;
    if sum != checksum(json.as_bytes()) {
        return None;
    }
    serde_json::from_str(json).ok()
}

fn checksum(bytes: &[u8]) -> String {
    crate::hash::short_hex(bytes)
}
