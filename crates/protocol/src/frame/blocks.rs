//! Blocks of memory to read into, used again and again: memory that was touched before needs no page faults, no
//! zeros, and is likely to be in the processor's caches.

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

/// How long a block is.
pub(super) const BLOCK: usize = 256 << 10;
/// So many blocks of all readers of this process are kept for later at most.
const MOST_FREE: usize = 32;

/// The blocks of this process that nobody uses.
pub(super) static FREE: Blocks = Blocks::new();

/// Blocks that nobody uses.
pub(super) struct Blocks {
    free: Mutex<Vec<Vec<u8>>>,
}

impl Blocks {
    const fn new() -> Self {
        Self { free: Mutex::new(Vec::new()) }
    }

    /// A block: an earlier one if there is one, with whatever is in it.
    pub(super) fn take(&self) -> Vec<u8> {
        let earlier = self.free().pop();
        earlier.unwrap_or_else(|| vec![0; BLOCK])
    }

    /// Gives out a block to be shared. It comes back when nobody holds a part of it any more.
    pub(super) fn lend(&'static self, block: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { block, home: self })
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock()
    }
}

struct Lent {
    block: Vec<u8>,
    home: &'static Blocks,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.block
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut free = self.home.free();
        // One that has grown for a long payload is not kept.
        if self.block.len() == BLOCK && free.len() < MOST_FREE {
            free.push(std::mem::take(&mut self.block));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_comes_back_when_its_last_part_is_dropped() {
        static BLOCKS: Blocks = Blocks::new();
        let mut block = BLOCKS.take();
        block[0] = 7;
        let mut rest = BLOCKS.lend(block);
        let part = rest.split_to(10);
        drop(rest);
        assert_eq!((BLOCKS.free().len(), part[0]), (0, 7));
        drop(part);
        assert_eq!(BLOCKS.take()[0], 7);
    }

    #[test]
    fn no_more_blocks_are_kept_than_allowed_and_no_grown_ones() {
        static BLOCKS: Blocks = Blocks::new();
        drop(BLOCKS.lend(vec![0; 2 * BLOCK]));
        assert_eq!(BLOCKS.free().len(), 0);
        let many: Vec<_> = (0..2 * MOST_FREE).map(|_| BLOCKS.lend(BLOCKS.take())).collect();
        drop(many);
        assert_eq!(BLOCKS.free().len(), MOST_FREE);
    }
}
