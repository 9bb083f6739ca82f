//! What a sender has found in its input before it sends rows.

use std::net::TcpStream;

use anyhow::{Context, ensure};
use bytes::{Buf, Bytes};
use columns::Survey;
use protocol::frame::{self, DEFAULT_LIMIT, FrameReader, RunEnd};
use protocol::handshake::HANDSHAKE_TIME;

use super::BATCH_BYTES;

/// Receives the types of the columns, one letter each, and some of the rows.
pub(super) fn receive(reader: &mut FrameReader<TcpStream>) -> anyhow::Result<Survey> {
    let mut next = |what: &str| -> anyhow::Result<Bytes> {
        reader.next_frame_within(HANDSHAKE_TIME)?.with_context(|| format!("it left before {what}"))
    };
    let letters = next("the types of the columns")?;
    let types = columns::of_letters(&letters).context("unknown types of columns")?;
    let mut numbers = next("the number of rows")?;
    ensure!(numbers.len() == 12, "{} bytes for the numbers of rows", numbers.len());
    let (rows, mut count) = (numbers.get_u64(), numbers.get_u32() as usize);
    ensure!(count <= Survey::MOST_ROWS, "{count} first rows, but at most {} are allowed", Survey::MOST_ROWS);
    let (mut sample, mut bytes) = (Vec::new(), 0);
    while count > 0 {
        let (run, end) = reader.run(count, BATCH_BYTES)?;
        count -= run.frames;
        bytes += run.bytes.len();
        // The last row may be as long as a row may be.
        ensure!(bytes <= Survey::MOST_BYTES + DEFAULT_LIMIT + BATCH_BYTES, "{bytes} bytes of first rows");
        sample.extend(whole(&run.bytes).map(<[u8]>::to_vec));
        ensure!(count == 0 || end == RunEnd::Full, "it ended in the middle of its first rows");
    }
    Ok(Survey { types, rows: (rows > 0).then_some(rows), sample })
}

/// The rows that were sent as they are.
pub(super) fn whole(frames: &[u8]) -> impl Iterator<Item = &[u8]> {
    frame::rows(frames).filter_map(|row| match row {
        frame::Row::Whole(record) => Some(record),
        frame::Row::Flawed { .. } => None,
    })
}
