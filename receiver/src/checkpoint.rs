//! The checkpoint: a small file that says how much of the results and of the rejects counts.
//!
//! It has two slots, written in turn, each with a sequence number and a checksum. A slot that is torn by a
//! crash is found by its checksum, and the other one, from just before, is still there. So one sync of
//! one file makes a checkpoint durable, where replacing a file by rename takes two (file and folder).

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use wire::results::Identity;

const SLOT: usize = 512;

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
    /// Length of the rejects file in bytes.
    pub reject_bytes: u64,
    /// What job this is, as soon as its source knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Slot {
    sequence: u64,
    /// The results' file name, as [`name_of`] shortens it.
    results: String,
    #[serde(flatten)]
    position: Position,
}

/// What a checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// How far the job is.
    pub position: Position,
    /// The name of its results, as [`name_of`] has it.
    pub results_name: String,
}

/// The open checkpoint file; locked, so that no other receiver has it.
#[derive(Debug)]
pub struct Checkpoint {
    file: File,
    sequence: u64,
    results_name: String,
}

/// The most characters of a file name that a slot has room for.
const LONGEST_NAME: usize = 100;

/// The name of the results, as it stands in a checkpoint: the last characters of it.
pub fn name_of(results: &Path) -> String {
    let name = results.file_name().unwrap_or_default().to_string_lossy();
    let usual = |c: char| if c.is_ascii_graphic() && c != '"' && c != '\\' { c } else { '_' };
    let name: Vec<char> = name.chars().map(usual).collect();
    name[name.len().saturating_sub(LONGEST_NAME)..].iter().collect()
}

impl Checkpoint {
    /// Opens the file, or makes it, and keeps others from it; gives what it says, if it says something yet. (A receiver that
    /// died just when it had made it leaves an empty one.)
    ///
    /// # Errors
    /// A file that cannot be read, that another receiver has, or that has content and no whole slot.
    pub fn lock(path: &Path) -> anyhow::Result<(Self, Option<Saved>)> {
        let context = || format!("opening the checkpoint {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(context)?;
        if file.try_lock().is_err() {
            bail!(
                "another receiver writes these results ({} is locked); wait for it, or choose another --output",
                path.display()
            );
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(|| format!("reading the checkpoint {}", path.display()))?;
        let last = bytes.chunks(SLOT).filter_map(decode).max_by_key(|slot| slot.sequence);
        let Some(last) = last else {
            if bytes.is_empty() {
                return Ok((Self { file, sequence: 0, results_name: String::new() }, None));
            }
            bail!(
                "the checkpoint {} is damaged: neither of its two slots is whole; to start the job from its \
                 beginning, remove it together with the results",
                path.display()
            );
        };
        let saved = Saved { position: last.position, results_name: last.results.clone() };
        Ok((Self { file, sequence: last.sequence + 1, results_name: last.results }, Some(saved)))
    }

    /// Makes the first position of a job durable.
    ///
    /// # Errors
    /// Names the file.
    pub fn begin(&mut self, results: &Path, position: &Position) -> anyhow::Result<()> {
        self.results_name = name_of(results);
        self.save(position).context("writing the checkpoint")?;
        wire::program::sync_folder(results).context("syncing the folder of the results")
    }

    /// Makes a position durable. What it counts must be durable already.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&mut self, position: &Position) -> std::io::Result<()> {
        let slot = Slot { sequence: self.sequence, results: self.results_name.clone(), position: *position };
        let slot = encode(&slot);
        self.file.seek(SeekFrom::Start(self.sequence % 2 * SLOT as u64))?;
        self.file.write_all(&slot)?;
        self.file.sync_data()?;
        self.sequence += 1;
        Ok(())
    }
}

/// A slot is a line, so that a person can read it: JSON, a space, a checksum; filled up with spaces.
fn encode(slot: &Slot) -> [u8; SLOT] {
    let json = serde_json::to_string(slot).unwrap_or_default();
    let line = format!("{json} {}", checksum(json.as_bytes()));
    let mut bytes = [b' '; SLOT];
    // Eight numbers of at most 20 digits, their names, and a file name: always shorter than a slot.
    bytes[..line.len()].copy_from_slice(line.as_bytes());
    bytes[SLOT - 1] = b'\n';
    bytes
}

fn decode(bytes: &[u8]) -> Option<Slot> {
    let (json, sum) = std::str::from_utf8(bytes).ok()?.trim_end().rsplit_once(' ')?;
    if sum != checksum(json.as_bytes()) {
        return None;
    }
    serde_json::from_str(json).ok()
}

fn checksum(bytes: &[u8]) -> String {
    wire::hash::short_hex(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn position(next: u64) -> Position {
        Position { next, next_row: next * 100, ..Position::default() }
    }

    fn saved(path: &Path) -> Position {
        Checkpoint::lock(path).unwrap().1.unwrap().position
    }

    #[test]
    fn the_last_position_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        // Also from a receiver that died before it said anything.
        assert_eq!(Checkpoint::lock(&path).unwrap().1, None);
        let mut checkpoint = Checkpoint::lock(&path).unwrap().0;
        checkpoint.begin(&dir.path().join("results.log"), &position(0)).unwrap();
        for next in 1..6 {
            checkpoint.save(&position(next)).unwrap();
            drop(checkpoint);
            let (mut again, last) = Checkpoint::lock(&path).unwrap();
            let last = last.unwrap();
            assert_eq!((last.position, last.results_name.as_str()), (position(next), "results.log"));
            again.save(&position(next + 100)).unwrap();
            drop(again);
            assert_eq!(saved(&path), position(next + 100));
            checkpoint = Checkpoint::lock(&path).unwrap().0;
        }
        assert!(Checkpoint::lock(&path).unwrap_err().to_string().contains("another receiver writes"));
    }

    fn slot(sequence: u64, position: Position) -> Slot {
        Slot { sequence, results: "results.log".into(), position }
    }

    proptest! {
        /// However a write of the newest slot is torn, the position before it (or the newest itself) is found.
        #[test]
        fn a_torn_slot_goes_back_by_one(next in 1u64..1000, cut in 0..SLOT, noise: u8) {
            let older = encode(&slot(8, position(next)));
            let newer = encode(&slot(9, position(next + 1)));
            let mut torn = newer;
            torn[cut..].fill(noise);
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("checkpoint");
            std::fs::write(&path, [older, torn].concat()).unwrap();
            let found = saved(&path);
            prop_assert!(found == position(next) || (found == position(next + 1) && decode(&torn).is_some()));
        }
    }

    #[test]
    fn two_damaged_slots_are_an_error_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        std::fs::write(&path, vec![b'x'; 2 * SLOT]).unwrap();
        assert!(Checkpoint::lock(&path).unwrap_err().to_string().contains("is damaged"));
    }

    #[test]
    fn the_largest_slot_fits() {
        let m = u64::MAX;
        let position = Position {
            next: m,
            next_row: m,
            rejects: m,
            result_bytes: m,
            reject_bytes: m,
            identity: Some(Identity { settings: m, header: m }),
        };
        let slot = Slot { sequence: m, results: name_of(Path::new(&"é".repeat(300))), position };
        assert_eq!(decode(&encode(&slot)), Some(slot));
    }
}
