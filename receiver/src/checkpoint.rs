//! The checkpoint: a small file with the number of durable bytes of results and rejects, and with checksums of these bytes.
//!
//! It has two slots, written in turn, each with a sequence number and a checksum. The checksum detects a slot that a crash
//! has torn; the other slot still has the previous position. So one sync makes a checkpoint durable, where replacing a file
//! by rename takes two (file and folder).

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
pub use protocol::checkpoint::{Position, Slot};
use protocol::checkpoint::{SLOT, encode, slots};

/// The contents of a checkpoint file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saved {
    /// The file is new, or its receiver died before writing to it.
    Nothing,
    /// Neither slot is intact.
    Damaged,
    /// The intact slots, the newest first.
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

/// How long to wait for another receiver of the same job to end, and the pause between two tries.
const LOCK_TIME: Duration = Duration::from_secs(3);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// The most characters of a file name that a slot holds.
const LONGEST_NAME: usize = 100;

/// The name of the results as a checkpoint records it: its last 100 characters, in printable ASCII.
pub fn name_of(results: &Path) -> String {
    let name = results.file_name().unwrap_or_default().to_string_lossy();
    let usual = |c: char| if c.is_ascii_graphic() && c != '"' && c != '\\' { c } else { '_' };
    let name: Vec<char> = name.chars().map(usual).collect();
    name[name.len().saturating_sub(LONGEST_NAME)..].iter().collect()
}

impl Checkpoint {
    /// Opens or creates the file, and locks it. Returns its contents.
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
        let start = Instant::now();
        // A receiver that was killed holds it until its last sync has returned.
        while file.try_lock().is_err() {
            if start.elapsed() < LOCK_TIME {
                std::thread::sleep(LOCK_PAUSE);
                continue;
            }
            bail!(
                "another receiver is writing these results ({} is locked); wait for it, or choose another --output",
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

    /// Makes the names of a new job's files durable, and then its first position.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn begin(&mut self, results: &Path, position: &Position) -> anyhow::Result<()> {
        self.results_name = name_of(results);
        files::sync_folder(results).context("syncing the folder of the results")?;
        self.save(position).context("writing the checkpoint")
    }

    /// Resumes from a slot, in the life after `life`. Writes the resumed position to the other slot, and makes it durable.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn resume_from(&mut self, slot: &Slot, life: u64) -> std::io::Result<()> {
        self.sequence = slot.sequence + 1;
        self.results_name.clone_from(&slot.results);
        self.life = life + 1;
        // A receiver that was killed may have written this slot without syncing it.
        self.file.sync_data()?;
        self.write(&slot.position, slot.told)
    }

    /// The number of this receiver among the job's receivers, counted from 1.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// Makes a position durable. The data that it counts must be durable already.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&mut self, position: &Position) -> std::io::Result<()> {
        self.write(position, false)
    }

    /// Makes durable that the initializer knows that the job is finished, at this position.
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
        let (_, Saved::Slots(slots)) = Checkpoint::lock(path).unwrap() else { panic!("no slot is intact") };
        slots[0].clone()
    }

    #[test]
    fn the_last_position_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        // The file may be left by a receiver that died before its first checkpoint.
        assert_eq!(Checkpoint::lock(&path).unwrap().1, Saved::Nothing);
        let mut checkpoint = Checkpoint::lock(&path).unwrap().0;
        checkpoint.begin(&dir.path().join("results.log"), &position(0)).unwrap();
        for next in 1..6 {
            // Each receiver writes two slots: one when it resumes, and one that it saves.
            checkpoint.save(&position(next)).unwrap();
            drop(checkpoint);
            let (mut resumed, saved) = Checkpoint::lock(&path).unwrap();
            let of_life = |slot: Slot| Slot { life: next, ..slot };
            let sequence = 2 * next - 1;
            let wanted = [slot(sequence, position(next)), slot(sequence - 1, position(next - 1))];
            assert_eq!(saved, Saved::Slots(wanted.map(of_life).to_vec()));
            resumed.resume_from(&slot(sequence, position(next)), next).unwrap();
            assert_eq!(resumed.life(), next + 1);
            checkpoint = resumed;
        }
        assert!(Checkpoint::lock(&path).unwrap_err().to_string().contains("another receiver is writing"));
        checkpoint.save_told(&position(5)).unwrap();
        drop(checkpoint);
        assert_eq!(newest(&path), Slot { told: true, life: 6, ..slot(11, position(5)) });
    }

    #[test]
    fn resuming_from_the_older_slot_keeps_that_slot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        std::fs::write(&path, [encode(&slot(8, position(8))), encode(&slot(9, position(9)))].concat())
            .unwrap();
        let mut checkpoint = Checkpoint::lock(&path).unwrap().0;
        checkpoint.resume_from(&slot(8, position(8)), 1).unwrap();
        drop(checkpoint);
        let (_, saved) = Checkpoint::lock(&path).unwrap();
        let resumed = Slot { life: 2, ..slot(9, position(8)) };
        assert_eq!(saved, Saved::Slots(vec![resumed, slot(8, position(8))]));
    }

    proptest! {
        /// Wherever the write of the newest slot is torn, the previous position (or the newest itself) is found.
        #[test]
        fn a_torn_slot_falls_back_to_the_previous_one(next in 1u64..1000, cut in 0..SLOT, noise: u8) {
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
    fn two_damaged_slots_are_reported_as_damage() {
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
            typed: true,
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
