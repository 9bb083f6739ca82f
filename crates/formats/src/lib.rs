//! Reads and writes what is no plain CSV.
//!
//! A program of its own, since the libraries for these formats take long to compile: a job that needs none of them does not
//! wait for it. The sender starts it to read an input, and the receiver to write results.
//!
//! | module | holds |
//! |---|---|
//! | [`text`] | texts that are compressed with zstd, or in another encoding than UTF-8 |
//! | [`address`] | where a file at an address is |
//! | [`remote`] | files at an HTTP address |
//! | [`table`] | files with a table of typed columns, as a CSV |
//! | [`parquet`] | reads and writes Parquet |
//! | [`output`] | results in another form than plain text |
//! | [`upload`] | files to S3 |

pub mod address;
mod gzip;
pub mod output;
pub mod parquet;
pub mod remote;
pub mod table;
pub mod text;
pub mod upload;
