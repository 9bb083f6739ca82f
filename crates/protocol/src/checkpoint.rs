//! What a receiver's checkpoint file says: how much of the results and of the rejects counts, and what is in that much.
//!
//! The file has two slots, which are written in turn. A slot that is torn is found by its checksum, and the other one, from
//! just before, is whole. What the newest whole slot counts is durable, and is complete batches: a reader may have it while the
//! receiver writes on.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::results::Identity;

/// A slot's length: a disk's sector and a file system's block, so that writing one slot cannot harm the other.
pub const SLOT: usize = 4096;

/// How far the receiver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The first batch that is not counted here.
    pub next: u64,
    /// Its first row.
    pub next_row: u64,
    /// Rows among these that were rejected.
    pub rejects: u64,
    /// Length of the results in bytes.
    pub result_bytes: u64,
    /// Their hash, as [`hash::short`](crate::hash::short) has it: what is read again must be what was written.
    #[serde(with = "hexadecimal")]
    pub results_sha256: u64,
    /// Length of the rejects file in bytes.
    pub reject_bytes: u64,
    /// The hash of that.
    #[serde(with = "hexadecimal")]
    pub rejects_sha256: u64,
    /// How many columns the results have; 0 while there are none. If there are, the schema's file is there.
    #[serde(default)]
    pub columns: u32,
    /// What job this is, as soon as its source knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// When its first batch came, in milliseconds since 1970; 0 if none has.
    #[serde(default)]
    pub started: u64,
}

/// What a slot says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Counts the checkpoints of a job: of two slots, the one with more is the newer.
    pub sequence: u64,
    /// The results' file name, as the receiver shortens it.
    pub results: String,
    /// How many receivers have had this job, this one included.
    #[serde(default)]
    pub life: u64,
    /// How far the job is.
    #[serde(flatten)]
    pub position: Position,
    /// The job is finished, and the initializer has been told so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub told: bool,
}

/// The whole slots of a file, the newest first.
pub fn slots(file: &[u8]) -> Vec<Slot> {
    let mut slots: Vec<_> = file.chunks(SLOT).take(2).filter_map(decode).collect();
    slots.sort_by_key(|slot| Reverse(slot.sequence));
    slots
}

/// Hashes as people know them, and as `sha256sum` begins them.
mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(hash: &u64, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&format_args!("{hash:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        u64::from_str_radix(&String::deserialize(from)?, 16).map_err(D::Error::custom)
    }
}

/// A slot is a line, so that a person can read it: JSON, a space, a checksum; filled up with spaces.
pub fn encode(slot: &Slot) -> [u8; SLOT] {
    let json = serde_json::to_string(slot).unwrap_or_default();
    let line = format!("{json} {}", checksum(json.as_bytes()));
    let mut bytes = [b' '; SLOT];
    // A dozen numbers of at most 20 digits, their names, and a file name: always shorter than a slot.
    bytes[..line.len()].copy_from_slice(line.as_bytes());
    bytes[SLOT - 1] = b'\n';
    bytes
}

/// Understands a slot; `None` if it is torn, or none.
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
