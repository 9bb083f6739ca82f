//! The receiver: takes results in any order, and writes them in row order, durably.
//!
//! | module         | holds |
//! |----------------|-------|
//! | [`audit`]      | checks results: their columns, and how many rows may be rejected; pure |
//! | [`reorder`]    | which batch is next, and which came early; pure |
//! | [`spill`]      | early batches that find no room in memory, on disk |
//! | [`checkpoint`] | the small file that says how much of the results is durable |
//! | [`store`]      | results, rejects and checkpoint on disk |
//! | [`job`]        | the state that connections, the writer and the syncer share |
//! | [`writer`]     | the thread that puts batches in order and writes them, and the one that makes them durable |
//! | [`outbox`]     | messages to a classifier process, written by a thread of their own |
//! | [`server`]     | connections: classifier processes, observers, plain clients |
//! | [`archive`]    | everything as one `.tgz`, compressed while results come |
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
pub mod spill;
pub mod store;
pub mod writer;
