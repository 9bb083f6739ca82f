//! Blocks of memory to read into, used again and again: memory that was touched before needs no page faults, no
//! zeros, and is likely to be in the processor's caches.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

/// How long a block is.
const BLOCK: usize = 256 << 10;
/// So many blocks are kept for later at most.
const MOST_FREE: usize = 16;

type Free = Arc<Mutex<Vec<Vec<u8>>>>;

/// The blocks of one reader.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    free: Free,
}

impl Blocks {
    /// A block: an earlier one if there is one, with whatever is in it.
    pub(super) fn take(&self) -> Vec<u8> {
        let earlier = self.free.lock().ok().and_then(|mut free| free.pop());
        earlier.unwrap_or_else(|| vec![0; BLOCK])
    }

    /// Gives out a block to be shared. It comes back when nobody holds a part of it any more.
    pub(super) fn lend(&self, block: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { block, free: Arc::clone(&self.free) })
    }
}

struct Lent {
    block: Vec<u8>,
    free: Free,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.block
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // One that has grown for a long payload is not kept.
        if self.block.len() == BLOCK
            && let Ok(mut free) = self.free.lock()
            && free.len() < MOST_FREE
        {
            free.push(std::mem::take(&mut self.block));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_comes_back_when_its_last_part_is_dropped() {
        let blocks = Blocks::default();
        let block = blocks.take();
        let place = block.as_ptr();
        let mut rest = blocks.lend(block);
        let part = rest.split_to(10);
        drop(rest);
        let other = blocks.take();
        assert_ne!(other.as_ptr(), place);
        drop(part);
        let again = blocks.take();
        assert_eq!(again.as_ptr(), place);
    }

    #[test]
    fn no_more_blocks_are_kept_than_allowed_and_no_grown_ones() {
        let blocks = Blocks::default();
        drop(blocks.lend(vec![0; 2 * BLOCK]));
        assert_eq!(blocks.free.lock().unwrap().len(), 0);
        let many: Vec<_> = (0..2 * MOST_FREE).map(|_| blocks.lend(blocks.take())).collect();
        drop(many);
        assert_eq!(blocks.free.lock().unwrap().len(), MOST_FREE);
    }
}
