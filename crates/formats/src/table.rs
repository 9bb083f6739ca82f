//! Files with a table of typed columns, as a CSV.

use std::fs::File;
use std::io::Write;

use anyhow::Context;
use protocol::conversion::{self, Table};

use crate::parquet;

/// Bytes of rows that are written at once.
const BLOCK: usize = 256 << 10;

/// Writes a Parquet file as pieces of a CSV, after the types of its columns.
///
/// # Errors
/// The file is damaged or has columns that are no values of a CSV, or nothing reads the output.
pub fn read(file: File, mut out: impl Write) -> anyhow::Result<()> {
    let length = file.metadata().context("reading the length of the file")?.len();
    let mut table = parquet::Table::open(file)?;
    let writing = "writing the table";
    conversion::write_table(&mut out, &Table { types: table.types().to_vec() }).context(writing)?;
    let mut text = [table.header(), b"\n"].concat();
    let (rows, mut done) = (table.rows(), 0);
    while table.append_rows(&mut text)? {
        if text.len() >= BLOCK {
            done += text.iter().filter(|byte| **byte == b'\n').count() as u64;
            // How much has been read is known only by rows; a value may have several lines.
            let consumed = (u128::from(length) * u128::from(done.min(rows)) / u128::from(rows.max(1))) as u64;
            for part in text.chunks(BLOCK) {
                conversion::write_bytes(&mut out, consumed, part).context(writing)?;
            }
            text.clear();
        }
    }
    text.chunks(BLOCK).try_for_each(|part| conversion::write_bytes(&mut out, length, part)).context(writing)
}
