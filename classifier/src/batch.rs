//! Batches of rows, and how they cross from worker to worker.
//!
//! A batch's rows stay as they stood in the sender's stream, frame lengths included: cut from the block that
//! was read from the socket, handed to another thread without a copy, and copied once on their way to another
//! process, where they stay in the block that they arrived in.

use std::io::Write;

use bytes::{Buf, Bytes};
use timely::Accountable;
use timely::communication::Push;
use timely::dataflow::channels::pact::DistributorPact;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message, Stamp};

/// A numbered batch of rows. It stands alone: header, numbers and rows are all that a worker needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The batch's number, counted from 0.
    pub number: u64,
    /// The number of its first row, counted from 0.
    pub first_row: u64,
    /// How many rows it has.
    pub rows: u32,
    /// The worker that it is for, counted over the cluster.
    pub worker: u32,
    /// The CSV's header.
    pub header: Bytes,
    /// The rows, as frames.
    pub frames: Bytes,
}

/// What crosses an edge of the dataflow at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batches(pub Vec<Batch>);

/// The bytes before a batch's header: number, first row, rows, worker, and two lengths.
const HEAD: usize = 8 + 8 + 4 + 4 + 4 + 4;

impl Accountable for Batches {
    fn record_count(&self) -> i64 {
        self.0.len() as i64
    }
}

impl ContainerBytes for Batches {
    fn from_bytes(bytes: timely::bytes::arc::Bytes) -> Self {
        /// Timely's bytes as an owner of ours.
        struct Owner(timely::bytes::arc::Bytes);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let mut rest = Bytes::from_owner(Owner(bytes));
        let count = rest.get_u64();
        let batches = (0..count).map(|_| {
            let (number, first_row) = (rest.get_u64(), rest.get_u64());
            let (rows, worker) = (rest.get_u32(), rest.get_u32());
            let (header, frames) = (rest.get_u32() as usize, rest.get_u32() as usize);
            let header = rest.split_to(header);
            Batch { number, first_row, rows, worker, header, frames: rest.split_to(frames) }
        });
        Self(batches.collect())
    }

    fn length_in_bytes(&self) -> usize {
        let batches = self.0.iter().map(|batch| HEAD + batch.header.len() + batch.frames.len());
        // Timely wants lengths that keep its messages aligned.
        (8 + batches.sum::<usize>()).next_multiple_of(8)
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        let mut length = 8;
        let mut write = |bytes: &[u8]| {
            writer.write_all(bytes).expect("timely gives room for length_in_bytes, which this is");
        };
        write(&(self.0.len() as u64).to_be_bytes());
        for batch in &self.0 {
            write(&batch.number.to_be_bytes());
            write(&batch.first_row.to_be_bytes());
            write(&batch.rows.to_be_bytes());
            write(&batch.worker.to_be_bytes());
            write(&(batch.header.len() as u32).to_be_bytes());
            write(&(batch.frames.len() as u32).to_be_bytes());
            write(&batch.header);
            write(&batch.frames);
            length += HEAD + batch.header.len() + batch.frames.len();
        }
        write(&[0; 8][..length.next_multiple_of(8) - length]);
    }
}

/// Sends each batch to the worker that it is for.
#[derive(Debug)]
pub struct ToWorker {
    /// For each worker, what goes to it; empty between calls.
    piles: Vec<Vec<Batch>>,
}

impl ToWorker {
    /// The contract between a stream of batches and the operator that works on them.
    pub fn pact() -> DistributorPact<impl FnOnce(usize) -> Self> {
        DistributorPact(|workers| Self { piles: vec![Vec::new(); workers] })
    }
}

impl Distributor<Batches> for ToWorker {
    fn partition<T: Clone, P: Push<Message<T, Batches>>>(
        &mut self,
        batches: &mut Batches,
        stamp: &Stamp<T>,
        workers: &mut [P],
    ) {
        for batch in batches.0.drain(..) {
            self.piles[batch.worker as usize].push(batch);
        }
        for (pile, worker) in self.piles.iter_mut().zip(workers) {
            if !pile.is_empty() {
                Message::push_at(&mut Batches(std::mem::take(pile)), stamp.clone(), worker);
            }
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Batches>>>(&mut self, _stamp: &Stamp<T>, _workers: &mut [P]) {
        // Nothing is kept back.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_batch()(
            number: u64, first_row: u64, rows: u32, worker: u32,
            header in prop::collection::vec(any::<u8>(), 0..40),
            frames in prop::collection::vec(any::<u8>(), 0..200),
        ) -> Batch {
            Batch { number, first_row, rows, worker, header: header.into(), frames: frames.into() }
        }
    }

    proptest! {
        #[test]
        fn batches_cross_unchanged(batches in prop::collection::vec(any_batch(), 0..5)) {
            let batches = Batches(batches);
            let mut bytes = Vec::new();
            batches.into_bytes(&mut bytes);
            prop_assert_eq!(bytes.len(), batches.length_in_bytes());
            prop_assert_eq!(bytes.len() % 8, 0);
            let bytes = timely::bytes::arc::BytesMut::from(bytes).freeze();
            prop_assert_eq!(Batches::from_bytes(bytes), batches);
        }
    }
}
