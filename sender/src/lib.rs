//! Rows in: fake rows, a CSV file or standard input, sent to the cluster's source.
//!
//! | module           | holds |
//! |------------------|-------|
//! | [`input`]        | where rows come from |
//! | [`fake_rows`]    | made-up rows |
//! | [`replay`]       | keeps rows that cannot be read again |
//! | [`session`]      | what to send and whether to try again, over all connections; pure |
//! | [`client`]       | sockets and threads around the session |
//! | `answers`        | what the source says |
//! | [`file_monitor`] | sees when the input changes meanwhile |
//! | [`metrics`]      | what the sender counts, for the Monitoring Hub |

mod answers;
pub mod client;
pub mod fake_rows;
pub mod file_monitor;
pub mod input;
pub mod metrics;
pub mod replay;
pub mod session;

/// The columns of fake rows, as in 2018.
pub const HEADER: &[u8] = b"ID,SKU,FLUX,MANUFACTURER_NAME,DESCRIPTION";
