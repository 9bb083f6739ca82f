//! The checkpoint: a small file that says how many bytes of results and rejects are durable, and their checksums.
//!
//! It has two slots, written in turn, each with a sequence number and a checksum. The checksum detects a slot that a crash has torn,
//! and the other slot still has the position before. So one sync of one file makes a checkpoint durable, where replacing a file
//! by rename takes two (file and folder).

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, bail};
pub use protocol::checkpoint::{Position, Slot};
use protocol::checkpoint::{SLOT, encode, slots};

/// What a checkpoint file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saved {
    /// Nothing: it is new, or its receiver died before writing it.
    Nothing,
    /// Neither slot is whole.
    Damaged,
    /// The whole slots, the newest first.
    Slots(Vec<Slot>),
}

/// The open checkpoint file, locked against other receivers.
#[derive(Debug)]
pub struct Checkpoint {
    file: File,
    sequence: u64,
    results_name: String,
    life: u64,
}

/// How many characters of a file name a slot has room for.
const LONGEST_NAME: usize = 100;

/// The name of the results in a checkpoint: its last characters.
pub fn name_of(results: &Path) -> String {
    let name = results.file_name().unwrap_or_default().to_string_lossy();
    let usual = |c: char| if c.is_ascii_graphic() && c != '"' && c != '\\' { c } else { '_' };
    let name: Vec<char> = name.chars().map(usual).collect();
    name[name.len().saturating_sub(LONGEST_NAME)..].iter().collect()
}

impl Checkpoint {
    /// Opens or creates the file, and locks it; returns what it says.
    ///
    /// # Errors
    /// When the file cannot be read, or another receiver has locked it.
    pub fn lock(path: &Path) -> anyhow::Result<(Self, Saved)> {
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
        let slots = slots(&bytes);
        let saved = match slots.len() {
            0 if bytes.is_empty() => Saved::Nothing,
            0 => Saved::Damaged,
            _ => Saved::Slots(slots),
        };
        Ok((Self { file, sequence: 0, results_name: String::new(), life: 1 }, saved))
    }

    /// Makes the first position of a job durable, after the names of the job's files.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn begin(&mut self, results: &Path, position: &Position) -> anyhow::Result<()> {
        self.results_name = name_of(results);
        files::sync_folder(results).context("syncing the folder of the results")?;
        self.save(position).context("writing the checkpoint")
    }

    /// Continues from a slot, in the next life; writes that to the other slot, and makes it durable.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn go_on_from(&mut self, slot: &Slot, life: u64) -> std::io::Result<()> {
        self.sequence = slot.sequence + 1;
        self.results_name.clone_from(&slot.results);
        self.life = life + 1;
        // A receiver that was killed may have written this slot without syncing it. From now on, it must be durable.
        self.file.sync_data()?;
        self.write(&slot.position, slot.told)
    }

    /// Which of the job's receivers this one is, counted from 1.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// Makes a position durable. What it counts must be durable already.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&mut self, position: &Position) -> std::io::Result<()> {
        self.write(position, false)
    }

    /// Makes durable that the initializer was told that the job is finished, at this position.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save_told(&mut self, position: &Position) -> std::io::Result<()> {
        self.write(position, true)
    }

    fn write(&mut self, position: &Position, told: bool) -> std::io::Result<()> {
        let Self { sequence, life, .. } = *self;
        let results = self.results_name.clone();
        let slot = encode(&Slot { sequence, results, life, position: *position, told });
        self.file.seek(SeekFrom::Start(sequence % 2 * SLOT as u64))?;
        self.file.write_all(&slot)?;
        self.file.sync_data()?;
        self.sequence += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::checkpoint::decode;
    use protocol::results::Identity;

    fn position(next: u64) -> Position {
        Position { next, next_row: next * 100, ..Position::default() }
    }

    fn slot(sequence: u64, position: Position) -> Slot {
        Slot { sequence, results: "results.log".into(), life: 1, position, told: false }
    }

    fn newest(path: &Path) -> Slot {
        let (_, Saved::Slots(slots)) = Checkpoint::lock(path).unwrap() else { panic!("no slot is whole") };
        slots[0].clone()
    }

    #[test]
    fn the_last_position_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        // Also after a receiver that died before its first checkpoint.
        assert_eq!(Checkpoint::lock(&path).unwrap().1, Saved::Nothing);
        let mut checkpoint = Checkpoint::lock(&path).unwrap().0;
        checkpoint.begin(&dir.path().join("results.log"), &position(0)).unwrap();
        for next in 1..6 {
            // One for this receiver's life, and one that it has saved.
            checkpoint.save(&position(next)).unwrap();
            drop(checkpoint);
            let (mut again, saved) = Checkpoint::lock(&path).unwrap();
            let of_life = |slot: Slot| Slot { life: next, ..slot };
            let sequence = 2 * next - 1;
            let wanted = [slot(sequence, position(next)), slot(sequence - 1, position(next - 1))];
            assert_eq!(saved, Saved::Slots(wanted.map(of_life).to_vec()));
            again.go_on_from(&slot(sequence, position(next)), next).unwrap();
            assert_eq!(again.life(), next + 1);
            checkpoint = again;
        }
        assert!(Checkpoint::lock(&path).unwrap_err().to_string().contains("another receiver writes"));
        checkpoint.save_told(&position(5)).unwrap();
        drop(checkpoint);
        assert_eq!(newest(&path), Slot { told: true, life: 6, ..slot(11, position(5)) });
    }

    #[test]
    fn who_goes_on_from_the_older_slot_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        std::fs::write(&path, [encode(&slot(8, position(8))), encode(&slot(9, position(9)))].concat())
            .unwrap();
        let mut checkpoint = Checkpoint::lock(&path).unwrap().0;
        checkpoint.go_on_from(&slot(8, position(8)), 1).unwrap();
        drop(checkpoint);
        let (_, saved) = Checkpoint::lock(&path).unwrap();
        let again = Slot { life: 2, ..slot(9, position(8)) };
        assert_eq!(saved, Saved::Slots(vec![again, slot(8, position(8))]));
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
            let found = newest(&path).position;
            prop_assert!(found == position(next) || (found == position(next + 1) && decode(&torn).is_some()));
        }
    }

    #[test]
    fn two_damaged_slots_are_not_taken_for_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        std::fs::write(&path, vec![b'x'; 2 * SLOT]).unwrap();
        assert_eq!(Checkpoint::lock(&path).unwrap().1, Saved::Damaged);
    }

    #[test]
    fn the_largest_slot_fits() {
        let m = u64::MAX;
        let position = Position {
            next: m,
            next_row: m,
            rejects: m,
            result_bytes: m,
            results_sha256: m,
            reject_bytes: m,
            rejects_sha256: m,
            identity: Some(Identity { settings: m, header: m }),
            columns: u32::MAX,
            started: m,
        };
        let slot = Slot {
            sequence: m,
            results: name_of(Path::new(&"é".repeat(300))),
            life: m,
            position,
            told: true,
        };
        assert_eq!(decode(&encode(&slot)), Some(slot));
    }
}
