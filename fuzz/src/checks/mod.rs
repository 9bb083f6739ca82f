//! Invariants for any input, one module for each fuzz target. `tests/corpus` runs them over the corpus.

pub mod batches;
pub mod frames;
pub mod handshakes;
pub mod records;
