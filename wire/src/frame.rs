//! Frames: a 4-byte big-endian length, then that many bytes.
//!
//! A [`FrameReader`] gives payloads as slices of the block they arrived in, so that those of a busy peer are copied
//! once, from the socket. A length above the limit, or an end of stream inside a frame, is an error that names
//! the peer; nothing is half-taken.

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
/// The longest payload between our own programs: a batch's results may take half of it, and its rejects have room in
/// the other half, also those of a row at the client's limit whose quotes are all doubled.
pub const PEER_LIMIT: usize = 128 << 20;
/// ASCII ENQ: the first byte of the first frame of a client that knows this project's protocols.
pub const ENQ: u8 = 0x05;
/// ASCII EOT: alone in a frame, the end of the rows.
pub const EOT: u8 = 0x04;

fn prefix(bytes: &[u8]) -> usize {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize
}

/// The payloads of a [`Run`], which must consist of whole frames.
pub fn payloads(run: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = run;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = prefix(rest);
        let payload = &rest[PREFIX..PREFIX + length];
        rest = &rest[PREFIX + length..];
        Some(payload)
    })
}

/// How many whole frames `bytes` consists of; `None` if the last one is cut.
pub fn count(bytes: &[u8]) -> Option<usize> {
    let (mut rest, mut frames) = (bytes, 0);
    while !rest.is_empty() {
        let (length, behind) = rest.split_at_checked(PREFIX)?;
        rest = behind.get(prefix(length)..)?;
        frames += 1;
    }
    Some(frames)
}

/// Appends `payload` as a frame to `out`.
///
/// # Panics
/// If the payload is longer than a 32-bit length can say; callers have a limit far below that.
pub fn push(out: &mut Vec<u8>, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("payloads are limited to far below 4 GiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(payload);
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
/// Those of the stream; one that takes no more bytes is [`io::ErrorKind::WriteZero`].
pub fn write_all_vectored(mut stream: impl Write, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // The kernel takes at most 1024 slices a call.
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
    fn only_whole_frames_count() {
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
    fn vectored_writes_survive_short_ones() {
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
