//! The checkpoint: a small file that says how much of the results and of the rejects counts.
//!
//! It has two slots, written in turn, each with a sequence number and a checksum. A slot that is torn by a
//! crash is found by its checksum, and the other one, from just before, is still there. So one sync of
//! one file makes a checkpoint durable, where replacing a file by rename takes two (file and folder).

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Slot {
    sequence: u64,
    #[serde(flatten)]
    position: Position,
}

/// The open checkpoint file.
#[derive(Debug)]
pub struct Checkpoint {
    file: File,
    sequence: u64,
}

impl Checkpoint {
    /// Makes a new file, with this position durable in it.
    ///
    /// # Errors
    /// Names the file.
    pub fn create(path: &Path, position: &Position) -> anyhow::Result<Self> {
        let context = || format!("writing the checkpoint {}", path.display());
        let file = File::create(path).with_context(context)?;
        let mut checkpoint = Self { file, sequence: 0 };
        checkpoint.save(position).with_context(context)?;
        wire::program::sync_folder(path).with_context(context)?;
        Ok(checkpoint)
    }

    /// Opens a file, and gives the last position in it.
    ///
    /// # Errors
    /// A file that cannot be read, or without a whole slot.
    pub fn open(path: &Path) -> anyhow::Result<(Self, Position)> {
        let bytes =
            std::fs::read(path).with_context(|| format!("reading the checkpoint {}", path.display()))?;
        let last = bytes.chunks(SLOT).filter_map(decode).max_by_key(|slot| slot.sequence);
        let Some(last) = last else {
            bail!(
                "the checkpoint {} is damaged: neither of its two slots is whole; to start the job from its \
                 beginning, remove it together with the results",
                path.display()
            );
        };
        let file = OpenOptions::new()
            .write(true)
            .open(path)
            .with_context(|| format!("opening the checkpoint {}", path.display()))?;
        Ok((Self { file, sequence: last.sequence + 1 }, last.position))
    }

    /// Makes a position durable. What it counts must be durable already.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&mut self, position: &Position) -> std::io::Result<()> {
        let slot = encode(&Slot { sequence: self.sequence, position: *position });
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
    // Six numbers of at most 20 digits and their names: always shorter than a slot.
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
    Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn position(next: u64) -> Position {
        Position { next, next_row: next * 100, ..Position::default() }
    }

    #[test]
    fn the_last_position_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        let mut checkpoint = Checkpoint::create(&path, &position(0)).unwrap();
        for next in 1..6 {
            checkpoint.save(&position(next)).unwrap();
            let (mut again, last) = Checkpoint::open(&path).unwrap();
            assert_eq!(last, position(next));
            again.save(&position(next + 100)).unwrap();
            assert_eq!(Checkpoint::open(&path).unwrap().1, position(next + 100));
            again.save(&position(next)).unwrap();
            checkpoint = again;
        }
    }

    proptest! {
        /// However a write of the newest slot is torn, the position before it (or the newest itself) is found.
        #[test]
        fn a_torn_slot_goes_back_by_one(next in 1u64..1000, cut in 0..SLOT, noise: u8) {
            let older = encode(&Slot { sequence: 8, position: position(next) });
            let newer = encode(&Slot { sequence: 9, position: position(next + 1) });
            let mut torn = newer;
            torn[cut..].fill(noise);
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("checkpoint");
            std::fs::write(&path, [older, torn].concat()).unwrap();
            let found = Checkpoint::open(&path).unwrap().1;
            prop_assert!(found == position(next) || (found == position(next + 1) && decode(&torn).is_some()));
        }
    }

    #[test]
    fn two_damaged_slots_are_an_error_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        std::fs::write(&path, vec![b'x'; 2 * SLOT]).unwrap();
        assert!(Checkpoint::open(&path).unwrap_err().to_string().contains("is damaged"));
    }

    #[test]
    fn the_largest_slot_fits() {
        let m = u64::MAX;
        let position = Position { next: m, next_row: m, rejects: m, result_bytes: m, reject_bytes: m };
        assert_eq!(decode(&encode(&Slot { sequence: m, position })), Some(Slot { sequence: m, position }));
    }
}
