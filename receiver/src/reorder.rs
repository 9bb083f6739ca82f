//! Puts batches in line by their numbers. Knows nothing of sockets, files or clocks.

use std::collections::BTreeMap;

use anyhow::ensure;
use protocol::results::{LONGEST_WINDOW, ResultBatch};

use crate::shelf::Stub;

/// A batch that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// In memory.
    Here(ResultBatch),
    /// Put away.
    Away(Stub),
}

impl Held {
    fn batch(&self) -> &ResultBatch {
        match self {
            Self::Here(batch) => batch,
            Self::Away(stub) => &stub.batch,
        }
    }

    /// Bytes of the batch.
    pub fn size(&self) -> usize {
        match self {
            Self::Here(batch) => batch.size(),
            Self::Away(stub) => stub.size(),
        }
    }
}

/// The reorder buffer.
#[derive(Debug, Default)]
pub struct ReorderBuffer {
    next: u64,
    next_row: u64,
    early: BTreeMap<u64, Held>,
    held: usize,
    /// Of these, bytes in memory.
    here: usize,
}

impl ReorderBuffer {
    /// Expects batch `next`, which begins with row `next_row`.
    pub fn new(next: u64, next_row: u64) -> Self {
        Self { next, next_row, ..Self::default() }
    }

    /// Whether a batch of this number is new. One that is here already, or was given out, is not: the same rows have the same
    /// results, so it brings nothing.
    ///
    /// # Errors
    /// A number that no window allows.
    pub fn wants(&self, number: u64) -> anyhow::Result<bool> {
        ensure!(
            number < self.next + u64::from(LONGEST_WINDOW),
            "batch {number} came while batch {} was next; no window is that long",
            self.next
        );
        Ok(number >= self.next && !self.early.contains_key(&number))
    }

    /// Whether this batch is the next one.
    pub fn is_next(&self, number: u64) -> bool {
        number == self.next
    }

    /// Takes a batch in that is [wanted](ReorderBuffer::wants).
    pub fn take_in(&mut self, batch: Held) {
        let (number, size) = (batch.batch().number, batch.size());
        self.held += size;
        self.here += if matches!(batch, Held::Here(_)) { size } else { 0 };
        if let Some(before) = self.early.insert(number, batch) {
            self.let_go(&before);
        }
    }

    fn let_go(&mut self, batch: &Held) {
        self.held -= batch.size();
        self.here -= if matches!(batch, Held::Here(_)) { batch.size() } else { 0 };
    }

    /// Bytes of the batches that are held back.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Of these, bytes in memory.
    pub fn here(&self) -> usize {
        self.here
    }

    /// Gives out the next batch, if it has come.
    ///
    /// # Errors
    /// A batch that does not begin with the row after the last one's.
    pub fn take(&mut self) -> anyhow::Result<Option<Held>> {
        let Some(entry) = self.early.first_entry().filter(|e| *e.key() == self.next) else { return Ok(None) };
        let held = entry.remove();
        self.let_go(&held);
        let batch = held.batch();
        ensure!(
            batch.first_row == self.next_row,
            "batch {} begins with row {}, and row {} is next",
            batch.number,
            batch.first_row,
            self.next_row
        );
        self.next += 1;
        self.next_row += u64::from(batch.rows);
        Ok(Some(held))
    }

    /// Forgets what came early (its cluster is gone, and its batches will be sent again); says how many of them were put away.
    pub fn forget_early(&mut self) -> usize {
        let away = self.early.values().filter(|batch| matches!(batch, Held::Away(_))).count();
        self.early.clear();
        (self.held, self.here) = (0, 0);
        away
    }
}

/// Batches of the newest generation, in line.
#[derive(Debug)]
pub struct Sequencer {
    order: ReorderBuffer,
    generation: u64,
    /// How much of what comes early stays in memory.
    most_here: usize,
}

/// What is to be done with early batches: where they are put that find no room in memory.
pub trait Away {
    /// Puts a batch away.
    ///
    /// # Errors
    /// A disk that takes nothing more.
    fn put(&mut self, batch: ResultBatch) -> anyhow::Result<Stub>;

    /// So many batches will not be taken back.
    ///
    /// # Errors
    /// Those of the file system.
    fn forget(&mut self, batches: usize) -> anyhow::Result<()>;
}

impl Sequencer {
    /// Before the first generation. In memory, no more early batches are held than `most_here` bytes.
    pub fn new(order: ReorderBuffer, most_here: usize) -> Self {
        Self { order, generation: 0, most_here }
    }

    /// Takes a batch of this generation in.
    ///
    /// # Errors
    /// A number that no window allows, or a disk that takes nothing more.
    pub fn offer(&mut self, generation: u64, batch: ResultBatch, away: &mut impl Away) -> anyhow::Result<()> {
        if generation < self.generation {
            // A straggler of a cluster that is gone; the new one sends it again.
            return Ok(());
        }
        if generation > self.generation {
            self.generation = generation;
            away.forget(self.order.forget_early())?;
        }
        if !self.order.wants(batch.number)? {
            return Ok(());
        }
        let has_room = self.order.here() + batch.size() <= self.most_here;
        let batch = match has_room || self.order.is_next(batch.number) {
            true => Held::Here(batch),
            false => Held::Away(away.put(batch)?),
        };
        self.order.take_in(batch);
        Ok(())
    }

    /// Gives out the next batch, if it has come.
    ///
    /// # Errors
    /// A batch that does not begin with the row after the last one's.
    pub fn take(&mut self) -> anyhow::Result<Option<Held>> {
        self.order.take()
    }

    /// Bytes of the batches that are held back.
    pub fn held(&self) -> usize {
        self.order.held()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shelf::Shelf;
    use proptest::prelude::*;

    const SIZE: usize = 10;

    fn batch(number: u64, first_row: u64, rows: u32) -> ResultBatch {
        let results = format!("{number:0SIZE$}").into();
        ResultBatch { number, first_row, rows, results, ..ResultBatch::default() }
    }

    proptest! {
        #[test]
        fn any_order_and_any_duplicates_come_out_in_line_once(
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
            let mut shelf = Shelf::new(&dir.path().join("results.log"));
            // Room for three, and for the one that is next.
            let mut line = Sequencer::new(ReorderBuffer::new(0, 0), 3 * SIZE);
            let mut out = Vec::new();
            for (batch, _) in keyed {
                line.offer(1, batch, &mut shelf).unwrap();
                prop_assert!(line.order.here() <= 3 * SIZE + SIZE);
                while let Some(next) = line.take().unwrap() {
                    out.push(match next {
                        Held::Here(batch) => batch,
                        Held::Away(stub) => shelf.take(stub).unwrap(),
                    });
                }
            }
            prop_assert_eq!(out, all);
            prop_assert_eq!((line.order.here(), line.held()), (0, 0));
        }
    }

    #[test]
    fn a_gap_in_the_rows_and_a_wild_number_are_errors() {
        let mut order = ReorderBuffer::new(5, 500);
        order.take_in(Held::Here(batch(5, 501, 1)));
        let error = order.take().unwrap_err().to_string();
        assert_eq!(error, "batch 5 begins with row 501, and row 500 is next");
        assert!(order.wants(u64::MAX).is_err());
    }
}
