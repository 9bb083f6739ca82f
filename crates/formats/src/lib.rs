//! Formats other than CSV. A file of such a format is read as CSV text, and CSV records are written as such a file, so that the
//! rest of the project knows only CSV.

pub mod parquet;
