//! Results in, in whatever order; results out, in row order and durable.
//!
//! | module         | holds |
//! |----------------|-------|
//! | [`audit`]      | what results are held against: their columns, and how many rows may be rejected; pure |
//! | [`order`]      | which batch is next, and what came early; pure |
//! | [`shelf`]      | early batches that find no room in memory, on disk |
//! | [`checkpoint`] | the small file that says how much of the results counts |
//! | [`store`]      | results, rejects and checkpoint on disk |
//! | [`job`]        | the state that connections, the writer and the syncer share |
//! | [`writer`]     | the thread that puts batches in order and writes them, and the one that makes them durable |
//! | [`outbox`]     | what is told to a classifier process, by a thread that may wait for it |
//! | [`server`]     | connections: classifier processes, observers, plain clients |
//! | [`archive`]    | everything as one .tgz, compressed while it comes |
//! | [`budget`]     | a number of bytes that threads share |
//! | [`plain`]      | what plain clients of 2018 send |

pub mod archive;
pub mod audit;
pub mod budget;
pub mod checkpoint;
pub mod job;
pub mod outbox;
pub mod plain;
pub mod reorder;
pub mod server;
pub mod shelf;
pub mod store;
pub mod writer;
