//! Turns a fuzzer's input into settings and a stream in pieces.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// A stream that returns its bytes in pieces of two alternating sizes.
pub struct Pieces<'a> {
    rest: &'a [u8],
    /// The number of reads so far.
    pub reads: Rc<Cell<usize>>,
    sizes: [usize; 2],
}

impl<'a> Pieces<'a> {
    /// A stream of `bytes`. Each byte of `sizes` selects a size: below 128 a tiny one, otherwise a large one.
    pub fn new(bytes: &'a [u8], sizes: [u8; 2]) -> Self {
        let sizes = sizes.map(|size| match size {
            0..=127 => 1 + usize::from(size % 16),
            _ => usize::from(size) * 257,
        });
        Self { rest: bytes, reads: Rc::default(), sizes }
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let reads = self.reads.get();
        self.reads.set(reads + 1);
        let size = self.sizes[reads % self.sizes.len()];
        let n = size.min(out.len()).min(self.rest.len());
        let (now, later) = self.rest.split_at(n);
        out[..n].copy_from_slice(now);
        self.rest = later;
        Ok(n)
    }
}

/// Splits an input into settings and the rest.
pub fn settings<const N: usize>(input: &[u8]) -> Option<([u8; N], &[u8])> {
    let (settings, rest) = input.split_first_chunk()?;
    Some((*settings, rest))
}
