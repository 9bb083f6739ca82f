//! Rows in: fake rows, a CSV file or standard input, sent to the cluster's source.
//!
//! [`input`] says where rows come from, [`fake_rows`] makes them up, [`replay`] keeps those that cannot be read again, and
//! [`session`] sends them and comes back after a lost connection.

pub mod fake_rows;
pub mod input;
pub mod replay;
pub mod session;

/// The columns of fake rows, as in 2018.
pub const HEADER: &[u8] = b"ID,SKU,FLUX,MANUFACTURER_NAME,DESCRIPTION";
