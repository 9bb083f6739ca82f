//! Puts batches in line by their numbers. Knows nothing of sockets, files or clocks.

use std::collections::BTreeMap;

use anyhow::ensure;
use wire::results::ResultBatch;

/// How far ahead of the next batch a number may be: far above any window, so only a liar's is.
const FURTHEST: u64 = 1 << 24;

/// The reorder buffer.
#[derive(Debug, Default)]
pub struct Order {
    next: u64,
    next_row: u64,
    early: BTreeMap<u64, ResultBatch>,
    held: usize,
}

impl Order {
    /// Expects batch `next`, which begins with row `next_row`.
    pub fn new(next: u64, next_row: u64) -> Self {
        Self { next, next_row, early: BTreeMap::new(), held: 0 }
    }

    /// Takes a batch in. One that is here already, or was given out, is dropped: the same rows have the
    /// same results, so it brings nothing.
    ///
    /// # Errors
    /// A number that no window allows.
    pub fn offer(&mut self, batch: ResultBatch) -> anyhow::Result<()> {
        ensure!(
            batch.number < self.next + FURTHEST,
            "batch {} came while batch {} was next; no window is that long",
            batch.number,
            self.next
        );
        if batch.number >= self.next {
            self.early.entry(batch.number).or_insert_with(|| {
                self.held += batch.size();
                batch
            });
        }
        Ok(())
    }

    /// Bytes of the batches that are held back.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Gives out the next batch, if it is here.
    ///
    /// # Errors
    /// A batch that does not begin with the row after the last one's.
    pub fn take(&mut self) -> anyhow::Result<Option<ResultBatch>> {
        let Some(entry) = self.early.first_entry().filter(|e| *e.key() == self.next) else { return Ok(None) };
        let batch = entry.remove();
        self.held -= batch.size();
        ensure!(
            batch.first_row == self.next_row,
            "batch {} begins with row {}, and row {} is next",
            batch.number,
            batch.first_row,
            self.next_row
        );
        self.next += 1;
        self.next_row += u64::from(batch.rows);
        Ok(Some(batch))
    }

    /// Forgets what came early (its cluster is gone, and its batches will be sent again).
    pub fn forget_early(&mut self) {
        self.early.clear();
        self.held = 0;
    }
}

/// Batches of the newest generation, in line.
#[derive(Debug)]
pub struct Line {
    order: Order,
    generation: u64,
}

impl Line {
    /// Before the first generation.
    pub fn new(order: Order) -> Self {
        Self { order, generation: 0 }
    }

    /// Takes a batch of this generation in.
    ///
    /// # Errors
    /// A number that no window allows.
    pub fn offer(&mut self, generation: u64, batch: ResultBatch) -> anyhow::Result<()> {
        if generation < self.generation {
            // A straggler of a cluster that is gone; the new one sends it again.
            return Ok(());
        }
        if generation > self.generation {
            self.generation = generation;
            self.order.forget_early();
        }
        self.order.offer(batch)
    }

    /// Gives out the next batch, if it is here.
    ///
    /// # Errors
    /// A batch that does not begin with the row after the last one's.
    pub fn take(&mut self) -> anyhow::Result<Option<ResultBatch>> {
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
    use proptest::prelude::*;

    fn batch(number: u64, first_row: u64, rows: u32) -> ResultBatch {
        ResultBatch { number, first_row, rows, ..ResultBatch::default() }
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
            let mut order = Order::new(0, 0);
            let mut out = Vec::new();
            for (batch, _) in keyed {
                order.offer(batch).unwrap();
                while let Some(next) = order.take().unwrap() { out.push(next); }
            }
            prop_assert_eq!(out, all);
        }
    }

    #[test]
    fn a_gap_in_the_rows_and_a_wild_number_are_errors() {
        let mut order = Order::new(5, 500);
        order.offer(batch(5, 501, 1)).unwrap();
        let error = order.take().unwrap_err().to_string();
        assert_eq!(error, "batch 5 begins with row 501, and row 500 is next");
        assert!(order.offer(batch(u64::MAX, 0, 1)).is_err());
    }
}
