//! Batches of rows, and how workers exchange them.
//!
//! A batch keeps its rows as they were in the sender's stream, frame lengths included. They are a slice of the block that was
//! read from the socket: sending them to another thread needs no copy, and to another process a single one.

use std::io::Write;

use anyhow::{Context, ensure};
use bytes::{Buf, Bytes};
use protocol::frame;
use timely::Accountable;
use timely::communication::Push;
use timely::dataflow::channels::pact::DistributorPact;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message, Stamp};

/// A numbered batch of rows, with everything that a worker needs to classify it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Counted from 0.
    pub number: u64,
    /// The number of its first row, counted from 0.
    pub first_row: u64,
    /// The number of rows.
    pub rows: u32,
    /// The index, in the cluster, of the worker that classifies it.
    pub worker: u32,
    /// The CSV's header.
    pub header: Bytes,
    /// The types of its columns, one letter each; empty if the model has no typed columns.
    pub types: Bytes,
    /// The rows, as frames.
    pub frames: Bytes,
}

/// The container type of the dataflow's edge from source to classify.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batches(pub Vec<Batch>);

/// The bytes before a batch's header: number, first row, rows, worker, and three lengths.
const HEAD: usize = 8 + 8 + 4 + 4 + 4 + 4 + 4;
/// Timely's messages must have lengths that keep them aligned.
const ALIGNMENT: usize = 8;

impl Batches {
    /// Decodes the output of [`ContainerBytes::into_bytes`] without copying rows.
    ///
    /// # Errors
    /// When the bytes are malformed.
    pub fn decode(mut rest: Bytes) -> anyhow::Result<Self> {
        ensure!(rest.len().is_multiple_of(ALIGNMENT), "a length of {} bytes", rest.len());
        let count = rest.try_get_u64().context("no count of batches")?;
        let most = (rest.len() / HEAD) as u64;
        ensure!(count <= most, "{count} batches in {} bytes", rest.len());
        let batches = (0..count).map(|_| Batch::decode(&mut rest)).collect::<Result<_, _>>()?;
        ensure!(rest.len() < ALIGNMENT && rest.iter().all(|&byte| byte == 0), "bytes after the last batch");
        Ok(Self(batches))
    }
}

impl Batch {
    /// In bytes, when encoded.
    fn length(&self) -> usize {
        HEAD + self.header.len() + self.types.len() + self.frames.len()
    }

    /// Decodes the batch at the front of `rest`, and removes it from there.
    fn decode(rest: &mut Bytes) -> anyhow::Result<Self> {
        ensure!(rest.len() >= HEAD, "only {} bytes of a batch", rest.len());
        let (number, first_row) = (rest.get_u64(), rest.get_u64());
        let (rows, worker) = (rest.get_u32(), rest.get_u32());
        let mut length = || rest.get_u32() as usize;
        let (header, types, frames) = (length(), length(), length());
        let (wanted, here) = (header + types + frames, rest.len());
        ensure!(wanted <= here, "batch {number} of {wanted} bytes ends after {here}");
        let header = rest.split_to(header);
        let types = rest.split_to(types);
        let frames = rest.split_to(frames);
        ensure!(
            frame::count(&frames) == Some(rows as usize),
            "batch {number} does not have the {rows} rows that it declares"
        );
        Ok(Self { number, first_row, rows, worker, header, types, frames })
    }
}

impl Accountable for Batches {
    fn record_count(&self) -> i64 {
        self.0.len() as i64
    }
}

impl ContainerBytes for Batches {
    fn from_bytes(bytes: timely::bytes::arc::Bytes) -> Self {
        /// Timely's bytes as the owner of a [`Bytes`].
        struct Owner(timely::bytes::arc::Bytes);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        // Nothing else would notice rows that are lost or made up here, and timely cannot ask for a message again.
        Self::decode(Bytes::from_owner(Owner(bytes))).unwrap_or_else(|error| {
            crate::fail(format_args!("decoding a message of another process: {error:#}"))
        })
    }

    fn length_in_bytes(&self) -> usize {
        let batches = self.0.iter().map(Batch::length);
        (8 + batches.sum::<usize>()).next_multiple_of(ALIGNMENT)
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        let mut length = 8;
        let mut write = |bytes: &[u8]| {
            writer.write_all(bytes).expect("timely provides room for length_in_bytes, which this writes");
        };
        write(&(self.0.len() as u64).to_be_bytes());
        for batch in &self.0 {
            write(&batch.number.to_be_bytes());
            write(&batch.first_row.to_be_bytes());
            write(&batch.rows.to_be_bytes());
            write(&batch.worker.to_be_bytes());
            let parts = [&batch.header, &batch.types, &batch.frames];
            parts.iter().for_each(|part| write(&(part.len() as u32).to_be_bytes()));
            parts.iter().for_each(|part| write(part));
            length += batch.length();
        }
        write(&[0; ALIGNMENT][..length.next_multiple_of(ALIGNMENT) - length]);
    }
}

/// Sends each batch to the worker that the window chose.
#[derive(Debug)]
pub struct ToWorker {
    /// Batches by worker; empty between calls.
    by_worker: Vec<Vec<Batch>>,
}

impl ToWorker {
    /// The parallelization contract between source and classify.
    pub fn pact() -> DistributorPact<impl FnOnce(usize) -> Self> {
        DistributorPact(|workers| Self { by_worker: vec![Vec::new(); workers] })
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
            self.by_worker[batch.worker as usize].push(batch);
        }
        for (batches, worker) in self.by_worker.iter_mut().zip(workers) {
            if !batches.is_empty() {
                Message::push_at(&mut Batches(std::mem::take(batches)), stamp.clone(), worker);
            }
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Batches>>>(&mut self, _stamp: &Stamp<T>, _workers: &mut [P]) {
        // `partition` buffers nothing.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_batch()(
            number: u64, first_row: u64, worker: u32,
            header in prop::collection::vec(any::<u8>(), 0..40),
            types in prop::collection::vec(any::<u8>(), 0..10),
            rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..8),
        ) -> Batch {
            let mut frames = Vec::new();
            rows.iter().for_each(|row| frame::push(&mut frames, row));
            let rows = rows.len() as u32;
            Batch {
                number, first_row, rows, worker, header: header.into(), types: types.into(), frames: frames.into(),
            }
        }
    }

    fn encoded(batches: &Batches) -> Vec<u8> {
        let mut bytes = Vec::new();
        batches.into_bytes(&mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn encoded_batches_decode_unchanged(batches in prop::collection::vec(any_batch(), 0..5)) {
            let batches = Batches(batches);
            let bytes = encoded(&batches);
            prop_assert_eq!(bytes.len(), batches.length_in_bytes());
            prop_assert_eq!(bytes.len() % 8, 0);
            let bytes = timely::bytes::arc::BytesMut::from(bytes).freeze();
            prop_assert_eq!(Batches::from_bytes(bytes), batches);
        }

        #[test]
        fn a_truncated_message_is_an_error_and_never_a_panic(
            batches in prop::collection::vec(any_batch(), 1..5), cut in any::<prop::sample::Index>(),
        ) {
            let bytes = Bytes::from(encoded(&Batches(batches)));
            let cut = 8 * cut.index(bytes.len() / 8);
            prop_assert!(Batches::decode(bytes.slice(..cut)).is_err());
        }
    }

    #[test]
    fn a_message_with_wrong_counts_or_lengths_is_refused() {
        let mut frames = Vec::new();
        frame::push(&mut frames, b"1,a");
        let batch = Batch { number: 7, rows: 1, frames: frames.into(), ..Batch::default() };
        let whole = encoded(&Batches(vec![batch]));
        let refused = |at: usize, number: &[u8]| {
            let mut bytes = whole.clone();
            bytes[at..at + number.len()].copy_from_slice(number);
            Batches::decode(bytes.into()).unwrap_err().to_string()
        };
        assert_eq!(refused(0, &u64::MAX.to_be_bytes()), "18446744073709551615 batches in 48 bytes");
        assert_eq!(refused(8 + 16, &[0, 0, 0, 2]), "batch 7 does not have the 2 rows that it declares");
        assert_eq!(refused(8 + 32, &[0xff; 4]), "batch 7 of 4294967295 bytes ends after 12");
        // The length of the row's frame.
        assert_eq!(refused(8 + HEAD, &[0xff; 4]), "batch 7 does not have the 1 rows that it declares");
        assert_eq!(refused(8 + HEAD + 7, &[1]), "bytes after the last batch");
    }
}
