//! Frames: a 4-byte big-endian length, then that many bytes.
//!
//! A [`FrameReader`] returns payloads as slices of the block into which they were read, so a busy peer's bytes are copied once,
//! from the socket. A length above the limit, or an end of stream inside a frame, is an error that names the peer.

mod blocks;
mod error;
mod reader;

use std::io::{self, IoSlice, Write};

pub use error::FrameError;
pub use reader::{FrameReader, Run, RunEnd};

/// Bytes of the length before each payload.
pub const PREFIX: usize = 4;
/// The longest payload that a client may send: 16 MiB.
pub const DEFAULT_LIMIT: usize = 16 << 20;
/// The longest payload between our own programs: half for a batch's results, half for its rejects. The latter holds even a row
/// of the client's limit whose quotes are all doubled.
pub const PEER_LIMIT: usize = 128 << 20;
/// ASCII ENQ: the first byte of the first frame of a client that knows this project's protocols.
pub const ENQ: u8 = 0x05;
/// ASCII EOT: alone in a frame, it ends the rows of a client without marks.
pub const EOT: u8 = 0x04;
/// In place of a length, it ends the rows of a sender with marks. No frame is that long, so any bytes can be a row.
pub const END: u32 = u32::MAX;
/// Added to a length by a sender with marks: the payload stands in for a row that cannot be sent, and says why.
pub const FLAWED: u32 = 1 << 31;

/// The prefix of the frame at the start of `bytes`.
fn prefix(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The payload's length according to a prefix that is not [`END`].
fn length(prefix: u32) -> usize {
    (prefix & !FLAWED) as usize
}

/// A row of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row<'a> {
    /// The row as it was sent.
    Whole(&'a [u8]),
    /// A stand-in for a row that could not be sent.
    Flawed {
        reason: &'a str,
        /// The row's first bytes.
        beginning: &'a [u8],
    },
}

/// The rows of a [`Run`], which must consist of whole frames.
pub fn rows(run: &[u8]) -> impl Iterator<Item = Row<'_>> {
    frames(run)
        .map(|(prefix, payload)| if prefix & FLAWED == 0 { Row::Whole(payload) } else { flawed(payload) })
}

/// Decodes the payload of [`push_flawed`]. An invalid payload is a flawed row, too.
fn flawed(payload: &[u8]) -> Row<'_> {
    let parts = payload.split_first_chunk().and_then(|(length, rest)| {
        let (reason, beginning) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        Some(Row::Flawed { reason: std::str::from_utf8(reason).ok()?, beginning })
    });
    parts.unwrap_or(Row::Flawed { reason: "its sender could not send it", beginning: payload })
}

/// The payloads of a [`Run`], which must consist of whole frames.
pub fn payloads(run: &[u8]) -> impl Iterator<Item = &[u8]> {
    frames(run).map(|(_, payload)| payload)
}

/// The prefix and payload of each frame.
fn frames(run: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let mut rest = run;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let prefix = prefix(rest);
        let end = PREFIX + length(prefix);
        let payload = &rest[PREFIX..end];
        rest = &rest[end..];
        Some((prefix, payload))
    })
}

/// The number of frames in `bytes`; `None` if the last one is incomplete.
pub fn count(bytes: &[u8]) -> Option<usize> {
    let (mut rest, mut frames) = (bytes, 0);
    while !rest.is_empty() {
        let (head, behind) = rest.split_at_checked(PREFIX)?;
        rest = behind.get(length(prefix(head))..)?;
        frames += 1;
    }
    Some(frames)
}

/// Appends `payload` as a frame to `out`.
///
/// # Panics
/// If the payload has 2 GiB or more; callers have a limit far below that.
pub fn push(out: &mut Vec<u8>, payload: &[u8]) {
    out.extend_from_slice(&checked(payload.len()).to_be_bytes());
    out.extend_from_slice(payload);
}

fn checked(length: usize) -> u32 {
    let length = u32::try_from(length).ok().filter(|length| length & FLAWED == 0);
    length.expect("payloads are limited to far below 2 GiB")
}

/// Appends a stand-in for a row that cannot be sent: the reason, and the row's first bytes.
///
/// # Panics
/// As [`push`], or if the reason has 64 KiB or more.
pub fn push_flawed(out: &mut Vec<u8>, reason: &str, beginning: &[u8]) {
    let reason_length = u16::try_from(reason.len()).expect("reasons are short");
    let length = checked(2 + reason.len() + beginning.len());
    out.extend_from_slice(&(FLAWED | length).to_be_bytes());
    out.extend_from_slice(&reason_length.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(beginning);
}

/// Appends the mark that ends the rows.
pub fn push_end(out: &mut Vec<u8>) {
    out.extend_from_slice(&END.to_be_bytes());
}

/// Writes one frame, in one call to the stream.
///
/// # Errors
/// Those of the stream.
pub fn write(mut stream: impl Write, payload: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(PREFIX + payload.len());
    push(&mut frame, payload);
    stream.write_all(&frame)
}

/// Writes all of `slices`, with as few system calls as the stream allows.
///
/// # Errors
/// Those of the stream; [`io::ErrorKind::WriteZero`] if it accepts no more bytes.
pub fn write_all_vectored(mut stream: impl Write, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // The kernel accepts at most 1024 slices a call.
    const MOST: usize = 1024;
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let most = slices.len().min(MOST);
        match stream.write_vectored(&slices[..most]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut slices, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_frames_are_counted() {
        let mut frames = Vec::new();
        push(&mut frames, b"");
        push(&mut frames, b"row");
        assert_eq!((count(b""), count(&frames)), (Some(0), Some(2)));
        for cut in [1, 3, 5, 7, 8, 10] {
            assert_eq!(count(&frames[..cut]), None, "{cut}");
        }
        assert_eq!(count(&u32::MAX.to_be_bytes()), None);
    }

    #[test]
    fn rows_and_stand_ins_read_back_as_written() {
        let mut frames = Vec::new();
        push(&mut frames, b"\x04");
        push_flawed(&mut frames, "too long", b"1,xx");
        push(&mut frames, b"");
        assert_eq!(count(&frames), Some(3));
        let bad = Row::Flawed { reason: "too long", beginning: b"1,xx" };
        assert_eq!(rows(&frames).collect::<Vec<_>>(), [Row::Whole(b"\x04"), bad, Row::Whole(b"")]);
        // An invalid stand-in is a flawed row, too.
        for payload in [&b""[..], b"\0", b"\0\x02a", b"\0\x01\xff"] {
            let mut frame = (FLAWED | payload.len() as u32).to_be_bytes().to_vec();
            frame.extend_from_slice(payload);
            let row = rows(&frame).next().unwrap();
            assert!(matches!(row, Row::Flawed { beginning, .. } if beginning == payload), "{row:?}");
        }
    }

    #[test]
    fn vectored_writes_continue_after_short_ones() {
        struct Short(Vec<u8>);
        impl Write for Short {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let n = bytes.len().min(3);
                self.0.extend_from_slice(&bytes[..n]);
                Ok(n)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut out = Short(Vec::new());
        let mut slices =
            [IoSlice::new(b""), IoSlice::new(b"four"), IoSlice::new(b""), IoSlice::new(b"five5")];
        write_all_vectored(&mut out, &mut slices).unwrap();
        assert_eq!(out.0, b"fourfive5");
    }
}
