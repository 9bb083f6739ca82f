//! Keeps the rows of an input that cannot seek back, while the source may still ask for them. The source reports which rows
//! are durable, so these are at most the rows in the window and the rows on their way to it.

use std::collections::VecDeque;

use anyhow::ensure;
use protocol::frame;

use crate::input::{Extent, Input, Watch};

/// Keeps the rows that it has returned until [`Input::forget`] drops them.
pub struct Replay<I> {
    inner: I,
    kept: VecDeque<Block>,
    /// The next row to return.
    next: u64,
}

/// Rows as frames.
struct Block {
    first: u64,
    end: u64,
    frames: Vec<u8>,
}

impl<I: Input> Replay<I> {
    /// Wraps an input that has returned nothing yet.
    pub fn new(inner: I) -> Self {
        let next = inner.position();
        Self { inner, kept: VecDeque::new(), next }
    }
}

impl<I: Input> Input for Replay<I> {
    fn header(&self) -> &[u8] {
        self.inner.header()
    }

    fn position(&self) -> u64 {
        self.next
    }

    fn extent(&self) -> Extent {
        self.inner.extent()
    }

    fn identity(&self) -> Option<String> {
        self.inner.identity()
    }

    fn watch(&self) -> Option<Watch> {
        self.inner.watch()
    }

    fn check(&self) -> anyhow::Result<()> {
        self.inner.check()
    }

    fn seek(&mut self, row: u64) -> anyhow::Result<()> {
        let read = self.inner.position();
        if row >= read {
            self.inner.seek(row)?;
        } else {
            let first = self.kept.front().map_or(read, |block| block.first);
            ensure!(
                row >= first,
                "the source asks for row {row} again, but has reported rows before {first} as durable; give a file, which \
                 can be read again"
            );
        }
        self.next = row;
        Ok(())
    }

    fn fill(&mut self, out: &mut Vec<u8>) -> anyhow::Result<()> {
        if let Some(block) = self.kept.iter().find(|block| (block.first..block.end).contains(&self.next)) {
            let before = frame::payloads(&block.frames).take((self.next - block.first) as usize);
            let skipped: usize = before.map(|payload| frame::PREFIX + payload.len()).sum();
            out.extend_from_slice(&block.frames[skipped..]);
            self.next = block.end;
            return Ok(());
        }
        let (first, start) = (self.next, out.len());
        self.inner.fill(out)?;
        self.next = self.inner.position();
        if self.next > first {
            self.kept.push_back(Block { first, end: self.next, frames: out[start..].to_vec() });
        }
        Ok(())
    }

    fn forget(&mut self, before: u64) {
        while self.kept.front().is_some_and(|block| block.end <= before) {
            self.kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROWS: u64 = 1000;

    fn row(number: u64) -> Vec<u8> {
        format!("row {number}").into_bytes()
    }

    /// Returns three rows at a time, and cannot go back.
    struct Stream {
        next: u64,
    }

    impl Input for Stream {
        fn header(&self) -> &[u8] {
            b"row"
        }

        fn position(&self) -> u64 {
            self.next
        }

        fn extent(&self) -> Extent {
            Extent::default()
        }

        fn seek(&mut self, row: u64) -> anyhow::Result<()> {
            ensure!(row >= self.next, "it cannot go back");
            self.next = row;
            Ok(())
        }

        fn fill(&mut self, out: &mut Vec<u8>) -> anyhow::Result<()> {
            let end = ROWS.min(self.next + 3);
            (self.next..end).for_each(|number| frame::push(out, &row(number)));
            self.next = end;
            Ok(())
        }
    }

    proptest! {
        /// Seeking back to any row that is not durable returns the same rows again.
        #[test]
        fn replayed_rows_are_unchanged(steps in prop::collection::vec((any::<bool>(), 0u64..40), 1..60)) {
            let mut replay = Replay::new(Stream { next: 0 });
            let mut durable = 0;
            for (goes_back, by) in steps {
                if goes_back {
                    let row = replay.position().saturating_sub(by).max(durable);
                    replay.seek(row).unwrap();
                } else {
                    let (first, mut out) = (replay.position(), Vec::new());
                    replay.fill(&mut out).unwrap();
                    let given: Vec<_> = frame::payloads(&out).collect();
                    let wanted: Vec<_> = (first..replay.position()).map(row).collect();
                    prop_assert_eq!(given, wanted);
                    durable = replay.position().saturating_sub(by).max(durable);
                    replay.forget(durable);
                }
            }
        }
    }

    #[test]
    fn forgotten_rows_cannot_be_replayed() {
        let mut replay = Replay::new(Stream { next: 0 });
        let mut out = Vec::new();
        (0..4).for_each(|_| replay.fill(&mut out).unwrap());
        replay.forget(7);
        replay.seek(6).unwrap();
        let error = replay.seek(5).unwrap_err().to_string();
        assert!(error.contains("asks for row 5 again, but has reported rows before 6 as durable"), "{error}");
    }
}
