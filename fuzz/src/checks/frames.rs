//! Checks frames: for any bytes in pieces of any size, the reader returns the same as a simple decoder of the whole input.
//! It allocates nothing for an announced length before the bytes arrive.

use std::cell::Cell;
use std::rc::Rc;

use protocol::frame::{self, END, EOT, FLAWED, FrameError, FrameReader, PREFIX, Row, RunEnd};

/// How a stream ends.
#[derive(Debug, PartialEq)]
enum End {
    Closed,
    TooLong(usize),
    Truncated(usize),
}

use crate::allocation::largest_allocation;
use crate::input::{Pieces, settings};

/// # Panics
/// If an invariant does not hold for this input.
pub fn check(input: &[u8]) {
    let Some(([limit, frames, bytes, first, second], stream)) = settings(input) else { return };
    let limit = [0, 1, 5, 100, 10_000, 16 << 20][usize::from(limit) % 6];
    let expected = decode(stream, limit);
    let pieces = || Pieces::new(stream, [first, second]);
    let reader = |pieces| FrameReader::new(pieces, "the peer", limit);
    let (_, largest) = largest_allocation(|| {
        let stream_of_one = pieces();
        let reads = Rc::clone(&stream_of_one.reads);
        one_by_one(reader(stream_of_one), &reads, &expected);
        in_runs(reader(pieces()), 1 + usize::from(frames) % 9, 1 + 40 * usize::from(bytes), &expected);
    });
    with_marks(stream, limit, pieces());
    // A block, or twice the bytes that arrived; payloads are compared without copies.
    assert!(largest <= (512 << 10) + 4 * stream.len(), "{largest} bytes for a stream of {}", stream.len());
}

/// The simple decoder.
fn decode(mut rest: &[u8], limit: usize) -> (Vec<&[u8]>, End) {
    let mut payloads = Vec::new();
    loop {
        let Some((prefix, behind)) = rest.split_first_chunk::<PREFIX>() else {
            let end = if rest.is_empty() { End::Closed } else { End::Truncated(PREFIX - rest.len()) };
            return (payloads, end);
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > limit {
            return (payloads, End::TooLong(length));
        }
        let Some((payload, behind)) = behind.split_at_checked(length) else {
            return (payloads, End::Truncated(length - behind.len()));
        };
        payloads.push(payload);
        rest = behind;
    }
}

fn end_of(error: FrameError) -> End {
    match error {
        FrameError::TooLong { length, .. } => End::TooLong(length),
        FrameError::Truncated { missing, .. } => End::Truncated(missing),
        other => panic!("{other}"),
    }
}

fn one_by_one(mut reader: FrameReader<Pieces<'_>>, reads: &Cell<usize>, (payloads, end): &(Vec<&[u8]>, End)) {
    for payload in payloads {
        let is_buffered = reader.has_frame();
        let before = reads.get();
        assert_eq!(reader.next_frame().unwrap().unwrap(), payload);
        assert_eq!(is_buffered, reads.get() == before, "a buffered frame needs no read");
    }
    let ended = reader.next_frame().map_or_else(end_of, |payload| {
        assert_eq!(payload, None);
        End::Closed
    });
    assert_eq!(ended, *end);
}

fn in_runs(
    mut reader: FrameReader<Pieces<'_>>,
    frames: usize,
    bytes: usize,
    (payloads, end): &(Vec<&[u8]>, End),
) {
    let mut left = payloads.iter();
    loop {
        let (run, run_end) = match reader.run(frames, bytes) {
            Ok(run) => run,
            Err(error) => {
                assert_eq!(end_of(error), *end);
                // The reader returns only complete runs, so frames before the error in the same run are lost.
                assert!(left.len() < frames && left.all(|payload| **payload != [EOT]));
                return;
            }
        };
        assert!(run.frames <= frames && (run.frames <= 1 || run.bytes.len() <= bytes));
        assert_eq!(frame::count(&run.bytes), Some(run.frames));
        for payload in frame::payloads(&run.bytes) {
            assert!(payload != [EOT]);
            assert_eq!(Some(&payload), left.next());
        }
        match run_end {
            RunEnd::End => assert_eq!(left.next(), Some(&&[EOT][..])),
            RunEnd::Full => {
                let next = left.as_slice().first().map_or(0, |next| PREFIX + next.len());
                assert!(run.frames == frames || run.frames > 0 && run.bytes.len() + next > bytes);
            }
            RunEnd::Closed => {
                assert_eq!((left.next(), end), (None, &End::Closed));
                return;
            }
        }
    }
}

/// Checks a peer with marks: rows are read up to the end mark, and each is whole or has a reason why it is not.
fn with_marks(mut rest: &[u8], limit: usize, pieces: Pieces<'_>) {
    let mut reader = FrameReader::new(pieces, "the peer", limit);
    reader.allow_marks();
    loop {
        let run = reader.run(1, usize::MAX);
        let Some((prefix, behind)) = rest.split_first_chunk::<PREFIX>() else {
            let end = run.map(|(run, end)| (run.frames, end)).map_err(end_of);
            let missing = PREFIX - rest.len();
            assert_eq!(
                end,
                if rest.is_empty() { Ok((0, RunEnd::Closed)) } else { Err(End::Truncated(missing)) }
            );
            return;
        };
        let prefix = u32::from_be_bytes(*prefix);
        let length = (prefix & !FLAWED) as usize;
        if prefix == END {
            assert_eq!(run.unwrap().1, RunEnd::End);
            return;
        }
        if length > limit || length > behind.len() {
            assert!(run.is_err());
            return;
        }
        let run = run.unwrap().0;
        let payload = &behind[..length];
        let row = frame::rows(&run.bytes).next();
        match row.expect("a run of one") {
            Row::Whole(row) => assert!(prefix & FLAWED == 0 && row == payload),
            Row::Flawed { reason, beginning } => {
                assert!(prefix & FLAWED != 0 && payload.ends_with(beginning));
                assert!([0, 2 + reason.len()].contains(&(length - beginning.len())));
            }
        }
        rest = &behind[length..];
    }
}
