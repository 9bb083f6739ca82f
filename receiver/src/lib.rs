//! The receiver: accepts results in any order, and writes them in row order, durably.
//!
//! | module         | holds |
//! |----------------|-------|
//! | [`audit`]      | checks the columns of results and the number of rejects; pure |
//! | [`reorder`]    | puts batches in the order of their numbers; pure |
//! | [`spill`]      | keeps early batches on disk when memory is full |
//! | [`checkpoint`] | the small file that says how much of the results is durable |
//! | [`store`]      | results, rejects and checkpoint on disk |
//! | [`job`]        | the state that connections, the writer and the syncer share |
//! | [`writer`]     | the writer's thread, which orders and writes batches, and the syncer's thread, which makes them durable |
//! | [`peer`]       | the trait of connections to classifier processes |
//! | [`outbox`]     | sends messages to a classifier process on a separate thread |
//! | [`server`]     | serves connections: classifier processes, observers, plain clients |
//! | [`archive`]    | packs all files into one `.tgz` while results arrive |
//! | [`export`]     | writes results in another form while they arrive |
//! | [`budget`]     | limits the bytes that threads hold together |
//! | [`plain`]      | writes the payloads of plain clients of 2018 |

pub mod archive;
pub mod audit;
pub mod budget;
pub mod checkpoint;
pub mod export;
pub mod job;
pub mod outbox;
pub mod peer;
pub mod plain;
pub mod reorder;
pub mod server;
pub mod spill;
pub mod store;
pub mod writer;
