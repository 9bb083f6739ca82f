//! What must hold for any input, one check a fuzz target. Tests run them over the corpus, too (`tests/corpus`).

pub mod batches;
pub mod frames;
pub mod handshakes;
pub mod records;
