//! A pool of blocks to read into. Reused memory needs no page faults and no zeroing, and is likely to be in the processor's
//! caches.

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

/// Bytes of a block.
pub(super) const BLOCK: usize = 256 << 10;
/// The most free blocks that are kept, for all readers of this process.
const MOST_FREE: usize = 32;

/// The free blocks of this process.
pub(super) static FREE: Blocks = Blocks::new();

pub(super) struct Blocks {
    free: Mutex<Vec<Vec<u8>>>,
}

impl Blocks {
    const fn new() -> Self {
        Self { free: Mutex::new(Vec::new()) }
    }

    /// A free block, with its old contents, or a new one.
    pub(super) fn take(&self) -> Vec<u8> {
        let earlier = self.free().pop();
        earlier.unwrap_or_else(|| vec![0; BLOCK])
    }

    /// Shares a block. It is free again when all parts of it have been dropped.
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
        // A block that was grown for a long payload is not kept.
        if self.block.len() == BLOCK && free.len() < MOST_FREE {
            free.push(std::mem::take(&mut self.block));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_free_when_its_last_part_is_dropped() {
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
    fn free_blocks_are_limited_and_exclude_grown_ones() {
        static BLOCKS: Blocks = Blocks::new();
        drop(BLOCKS.lend(vec![0; 2 * BLOCK]));
        assert_eq!(BLOCKS.free().len(), 0);
        let many: Vec<_> = (0..2 * MOST_FREE).map(|_| BLOCKS.lend(BLOCKS.take())).collect();
        drop(many);
        assert_eq!(BLOCKS.free().len(), MOST_FREE);
    }
}
