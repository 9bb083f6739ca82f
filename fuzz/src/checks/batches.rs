//! Checks batches between processes: they arrive unchanged, and a damaged message is refused as a whole.

use bytes::Bytes;
use classifier::batch::{Batch, Batches};
use protocol::frame;
use timely::dataflow::channels::ContainerBytes;

use crate::allocation::largest_allocation;
use crate::input::settings;

/// # Panics
/// If an invariant does not hold for this input.
pub fn check(input: &[u8]) {
    let Some(([kind, cut], rest)) = settings(input) else { return };
    if kind % 2 == 0 {
        garbage(rest);
    } else {
        cross(rest, cut);
    }
}

/// Checks that a message which can be decoded encodes to the same bytes.
fn garbage(bytes: &[u8]) {
    let (decoded, largest) = largest_allocation(|| Batches::decode(Bytes::copy_from_slice(bytes)));
    assert!(largest <= (64 << 10) + 4 * bytes.len(), "{largest} bytes for a message of {}", bytes.len());
    let Ok(batches) = decoded else { return };
    for batch in &batches.0 {
        assert_eq!(frame::payloads(&batch.frames).count(), batch.rows as usize);
    }
    assert_eq!(encode(&batches), bytes);
}

/// Checks that batches made from the input arrive unchanged, and that a message cut short is refused.
fn cross(bytes: &[u8], cut: u8) {
    let mut batches = Vec::new();
    let mut rest = bytes;
    while let Some(([number, rows, header, length], behind)) = settings(rest) {
        let (header, behind) = behind.split_at(usize::from(header).min(behind.len()));
        let mut frames = Vec::new();
        rest = behind;
        for _ in 0..rows {
            let (row, behind) = rest.split_at(usize::from(length).min(rest.len()));
            frame::push(&mut frames, row);
            rest = behind;
        }
        batches.push(Batch {
            number: u64::from(number) << 56,
            first_row: u64::from(number),
            rows: u32::from(rows),
            worker: u32::from(length),
            header: Bytes::copy_from_slice(header),
            types: Bytes::from(vec![b'i'; usize::from(number) % 3]),
            frames: frames.into(),
        });
    }
    let batches = Batches(batches);
    let encoded = encode(&batches);
    assert_eq!(encoded.len(), batches.length_in_bytes());
    let arc = timely::bytes::arc::BytesMut::from(encoded.clone()).freeze();
    assert_eq!(Batches::from_bytes(arc), batches);
    if !batches.0.is_empty() {
        let cut = usize::from(cut) * (encoded.len() / 8) / 256 * 8;
        assert!(Batches::decode(Bytes::copy_from_slice(&encoded[..cut])).is_err());
    }
}

fn encode(batches: &Batches) -> Vec<u8> {
    let mut bytes = Vec::new();
    batches.into_bytes(&mut bytes);
    bytes
}
