//! Rows in: fake rows, a CSV file or standard input, sent to the cluster's source.
//!
//! [`input`] says where rows come from, [`fake_rows`] makes them up, [`replay`] keeps those that cannot be read again,
//! [`session`] sends them and comes back after a lost connection, [`watch`] sees when the input changes meanwhile, and
//! [`metrics`] counts them.

pub mod fake_rows;
pub mod file_monitor;
pub mod input;
pub mod metrics;
pub mod replay;
pub mod session;

/// The columns of fake rows, as in 2018.
pub const HEADER: &[u8] = b"ID,SKU,FLUX,MANUFACTURER_NAME,DESCRIPTION";
