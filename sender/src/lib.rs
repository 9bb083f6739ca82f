//! Sends rows to the cluster's source: fake rows, a CSV file, or standard input.
//!
//! | module           | holds |
//! |------------------|-------|
//! | [`input`]        | inputs: fake rows and CSVs |
//! | [`fake_rows`]    | generates fake rows |
//! | [`replay`]       | keeps rows that cannot be read again |
//! | [`session`]      | decides from which row to send, and whether to reconnect; pure |
//! | [`client`]       | sockets and threads around the session |
//! | `answers`        | reads the source's answers |
//! | [`file_monitor`] | detects changes of the input file |
//! | [`metrics`]      | counts for the Monitoring Hub |

mod answers;
pub mod client;
pub mod fake_rows;
pub mod file_monitor;
pub mod input;
pub mod metrics;
pub mod replay;
pub mod session;

/// The columns of fake rows, the same as in 2018.
pub const HEADER: &[u8] = b"ID,SKU,FLUX,MANUFACTURER_NAME,DESCRIPTION";
