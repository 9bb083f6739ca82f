//! Puts batches in the order of their numbers. Pure: uses no sockets, files or clocks.

use std::collections::BTreeMap;

use anyhow::ensure;
use protocol::results::{LONGEST_WINDOW, ResultBatch};

use crate::spill::{Spill, Stub};

/// A batch in the buffer, in memory or on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    InMemory(ResultBatch),
    Spilled(Stub),
}

impl Held {
    fn batch(&self) -> &ResultBatch {
        match self {
            Self::InMemory(batch) => batch,
            Self::Spilled(stub) => &stub.batch,
        }
    }

    /// The batch's size in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::InMemory(batch) => batch.size(),
            Self::Spilled(stub) => stub.size(),
        }
    }
}

/// Returns batches in order, in whatever order they arrive.
#[derive(Debug, Default)]
pub struct ReorderBuffer {
    next: u64,
    next_row: u64,
    early: BTreeMap<u64, Held>,
    /// Bytes of all batches in `early`.
    held: usize,
    /// Bytes of those in memory.
    in_memory: usize,
}

impl ReorderBuffer {
    /// Expects batch `next` first, which begins with row `next_row`.
    pub fn new(next: u64, next_row: u64) -> Self {
        Self { next, next_row, ..Self::default() }
    }

    /// Whether a batch of this number is new. A duplicate of a held or returned batch is not needed, since the same rows
    /// have the same results.
    ///
    /// # Errors
    /// When the number is beyond the longest window.
    pub fn wants(&self, number: u64) -> anyhow::Result<bool> {
        ensure!(
            number < self.next + u64::from(LONGEST_WINDOW),
            "batch {number} came while batch {} was next; no window is that long",
            self.next
        );
        Ok(number >= self.next && !self.early.contains_key(&number))
    }

    pub fn is_next(&self, number: u64) -> bool {
        number == self.next
    }

    /// Adds a batch that is [wanted](ReorderBuffer::wants).
    pub fn insert(&mut self, batch: Held) {
        let (number, size) = (batch.batch().number, batch.size());
        self.held += size;
        self.in_memory += if matches!(batch, Held::InMemory(_)) { size } else { 0 };
        if let Some(before) = self.early.insert(number, batch) {
            self.forget(&before);
        }
    }

    fn forget(&mut self, batch: &Held) {
        self.held -= batch.size();
        self.in_memory -= if matches!(batch, Held::InMemory(_)) { batch.size() } else { 0 };
    }

    /// Bytes of all held batches.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Bytes of the held batches in memory.
    pub fn in_memory(&self) -> usize {
        self.in_memory
    }

    /// Returns the next batch, if it has arrived.
    ///
    /// # Errors
    /// When it does not begin with the row after the last returned one.
    pub fn take(&mut self) -> anyhow::Result<Option<Held>> {
        let Some(entry) = self.early.first_entry().filter(|e| *e.key() == self.next) else { return Ok(None) };
        let held = entry.remove();
        self.forget(&held);
        let batch = held.batch();
        ensure!(
            batch.first_row == self.next_row,
            "batch {} begins with row {}, but row {} is next",
            batch.number,
            batch.first_row,
            self.next_row
        );
        self.next += 1;
        self.next_row += u64::from(batch.rows);
        Ok(Some(held))
    }

    /// Drops all held batches. Returns how many of them were on disk.
    pub fn forget_early(&mut self) -> usize {
        let spilled = self.early.values().filter(|batch| matches!(batch, Held::Spilled(_))).count();
        self.early.clear();
        (self.held, self.in_memory) = (0, 0);
        spilled
    }
}

/// Returns the batches of the newest generation in order, and spills early ones to disk.
#[derive(Debug)]
pub struct Sequencer {
    buffer: ReorderBuffer,
    generation: u64,
    /// The most bytes of early batches in memory.
    most_in_memory: usize,
}

impl Sequencer {
    /// Starts before the first generation. Keeps at most `most_in_memory` bytes of early batches in memory.
    pub fn new(buffer: ReorderBuffer, most_in_memory: usize) -> Self {
        Self { buffer, generation: 0, most_in_memory }
    }

    /// Adds a batch, unless its generation is over or it is a duplicate.
    ///
    /// # Errors
    /// When its number is beyond the longest window, or the disk is full.
    pub fn offer(
        &mut self,
        generation: u64,
        batch: ResultBatch,
        spill: &mut impl Spill,
    ) -> anyhow::Result<()> {
        if generation < self.generation {
            // The newest generation sends this batch again.
            return Ok(());
        }
        if generation > self.generation {
            self.generation = generation;
            spill.forget(self.buffer.forget_early())?;
        }
        if !self.buffer.wants(batch.number)? {
            return Ok(());
        }
        let has_room = self.buffer.in_memory() + batch.size() <= self.most_in_memory;
        let batch = match has_room || self.buffer.is_next(batch.number) {
            true => Held::InMemory(batch),
            false => Held::Spilled(spill.write(batch)?),
        };
        self.buffer.insert(batch);
        Ok(())
    }

    /// Returns the next batch, if it has arrived.
    ///
    /// # Errors
    /// When it does not begin with the row after the last returned one.
    pub fn take(&mut self) -> anyhow::Result<Option<Held>> {
        self.buffer.take()
    }

    /// Bytes of all held batches.
    pub fn held(&self) -> usize {
        self.buffer.held()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spill::SpillFile;
    use proptest::prelude::*;

    const SIZE: usize = 10;

    fn batch(number: u64, first_row: u64, rows: u32) -> ResultBatch {
        let results = format!("{number:0SIZE$}").into();
        ResultBatch { number, first_row, rows, results, ..ResultBatch::default() }
    }

    proptest! {
        #[test]
        fn batches_in_any_order_with_duplicates_come_out_in_order_once(
            sizes in prop::collection::vec(1u32..5, 1..50),
            again in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            shuffle in prop::collection::vec(any::<u64>(), 70),
        ) {
            let mut row = 0;
            let all: Vec<_> = sizes.iter().enumerate().map(|(i, &rows)| {
                let batch = batch(i as u64, row, rows);
                row += u64::from(rows);
                batch
            }).collect();
            let mut sent = all.clone();
            sent.extend(again.iter().map(|i| i.get(&all).clone()));
            let mut keyed: Vec<_> = sent.into_iter().zip(shuffle).collect();
            keyed.sort_by_key(|(_, key)| *key);
            let dir = tempfile::tempdir().unwrap();
            let mut spill = SpillFile::new(&dir.path().join("results.log"));
            // Memory for three early batches, and for the next one.
            let mut sequencer = Sequencer::new(ReorderBuffer::new(0, 0), 3 * SIZE);
            let mut out = Vec::new();
            for (batch, _) in keyed {
                sequencer.offer(1, batch, &mut spill).unwrap();
                prop_assert!(sequencer.buffer.in_memory() <= 3 * SIZE + SIZE);
                while let Some(next) = sequencer.take().unwrap() {
                    out.push(match next {
                        Held::InMemory(batch) => batch,
                        Held::Spilled(stub) => spill.take(stub).unwrap(),
                    });
                }
            }
            prop_assert_eq!(out, all);
            prop_assert_eq!((sequencer.buffer.in_memory(), sequencer.held()), (0, 0));
        }
    }

    #[test]
    fn a_gap_in_the_rows_and_a_number_beyond_the_longest_window_are_errors() {
        let mut buffer = ReorderBuffer::new(5, 500);
        buffer.insert(Held::InMemory(batch(5, 501, 1)));
        let error = buffer.take().unwrap_err().to_string();
        assert_eq!(error, "batch 5 begins with row 501, but row 500 is next");
        assert!(buffer.wants(u64::MAX).is_err());
    }
}
