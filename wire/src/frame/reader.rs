//! Reading frames.

use std::io::{self, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::blocks::{self, BLOCK};
use super::error::FrameError;
use super::{EOT, PREFIX, prefix};

/// The block of a peer that has not sent much at once yet.
const SMALL_BLOCK: usize = 16 << 10;

/// Several whole frames as they stood in the stream, lengths included.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// The frames, one behind the other.
    pub bytes: Bytes,
    /// How many they are.
    pub frames: usize,
}

/// What ended a [`FrameReader::run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// The run is as long as was asked for.
    Full,
    /// The next frame is the single byte [`EOT`], which is consumed.
    Eot,
    /// The stream ended behind the run's last frame.
    Closed,
}

/// Reads frames from a stream.
///
/// What was read and not given out is either in `ready`, or at the beginning of `block`, where more is read behind it.
#[derive(Debug)]
pub struct FrameReader<R> {
    inner: R,
    ready: Bytes,
    block: Vec<u8>,
    /// How much of the block was read.
    filled: usize,
    /// The peer has sent much at once, so it gets the large blocks.
    is_quick: bool,
    limit: usize,
    peer: String,
    /// How long a read may take, if that is limited.
    patience: Option<Duration>,
}

impl<R: Read> FrameReader<R> {
    /// Reads frames of at most `limit` bytes from `inner`; `peer` names it in errors.
    pub fn new(inner: R, peer: impl Into<String>, limit: usize) -> Self {
        Self {
            inner,
            ready: Bytes::new(),
            block: Vec::new(),
            filled: 0,
            is_quick: false,
            limit,
            peer: peer.into(),
            patience: None,
        }
    }

    /// Who is read from.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Allows frames of up to `limit` bytes from now on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether a whole frame (or one that will be refused) is here already, so that it can be had without waiting.
    pub fn has_frame(&self) -> bool {
        let read = self.read();
        read.len() >= PREFIX && {
            let length = prefix(read);
            length > self.limit || read.len() >= PREFIX + length
        }
    }

    /// The next payload, or `None` at the end of the stream.
    ///
    /// # Errors
    /// A frame over the limit, a stream that ends inside a frame, or a failing read.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        match self.fill_to_frame(0)? {
            None => Ok(None),
            Some(length) => {
                self.take(PREFIX);
                Ok(Some(self.take(length)))
            }
        }
    }

    /// The next frames in one piece: up to `frames` of them, fewer when the next one would bring the run
    /// over `bytes` (a run has at least one frame, though), or when the stream or the rows end.
    ///
    /// # Errors
    /// As [`FrameReader::next_frame`]. The frames before the bad one are lost to the caller, so that
    /// a run is whole or not at all.
    pub fn run(&mut self, frames: usize, bytes: usize) -> Result<(Run, RunEnd), FrameError> {
        let (mut at, mut count) = (0, 0);
        let end = loop {
            if count == frames {
                break RunEnd::Full;
            }
            let Some(length) = self.fill_to_frame(at)? else { break RunEnd::Closed };
            if length == 1 && self.read()[at + PREFIX] == EOT {
                break RunEnd::Eot;
            }
            if count > 0 && at + PREFIX + length > bytes {
                break RunEnd::Full;
            }
            at += PREFIX + length;
            count += 1;
        };
        let run = Run { bytes: self.take(at), frames: count };
        if end == RunEnd::Eot {
            self.take(PREFIX + 1);
        }
        Ok((run, end))
    }

    /// Reads until the frame that starts at `at` is whole, and gives its payload's length; `None` if the
    /// stream ends just there.
    fn fill_to_frame(&mut self, at: usize) -> Result<Option<usize>, FrameError> {
        while self.read().len() < at + PREFIX {
            if self.fill(at + PREFIX)? == 0 {
                let rest = self.read().len() - at;
                return if rest == 0 { Ok(None) } else { Err(self.truncated(PREFIX - rest)) };
            }
        }
        let length = prefix(&self.read()[at..]);
        if length > self.limit {
            return Err(FrameError::TooLong { peer: self.peer.clone(), length, limit: self.limit });
        }
        let end = at + PREFIX + length;
        while self.read().len() < end {
            if self.fill(end)? == 0 {
                return Err(self.truncated(end - self.read().len()));
            }
        }
        Ok(Some(length))
    }

    /// What was read and not given out.
    fn read(&self) -> &[u8] {
        if self.filled > 0 { &self.block[..self.filled] } else { &self.ready }
    }

    /// Gives out the first bytes.
    fn take(&mut self, length: usize) -> Bytes {
        if self.filled > 0 {
            // Who holds what was read should not hold much more memory than that.
            self.ready = if self.filled < self.block.len() / 2 {
                Bytes::copy_from_slice(&self.block[..self.filled])
            } else {
                blocks::FREE.lend(std::mem::take(&mut self.block)).slice(..self.filled)
            };
            self.filled = 0;
        }
        self.ready.split_to(length)
    }

    fn truncated(&self, missing: usize) -> FrameError {
        FrameError::Truncated { peer: self.peer.clone(), missing }
    }

    /// Reads once, knowing that `wanted` bytes would complete what is being read.
    fn fill(&mut self, wanted: usize) -> Result<usize, FrameError> {
        if self.block.is_empty() {
            self.block = if self.is_quick { blocks::FREE.take() } else { vec![0; SMALL_BLOCK] };
        }
        if self.filled == 0 {
            let rest = std::mem::take(&mut self.ready);
            self.block.resize(self.block.len().max(rest.len()), 0);
            self.block[..rest.len()].copy_from_slice(&rest);
            self.filled = rest.len();
        }
        let length = self.filled;
        if length == self.block.len() {
            // A frame's announced length is trusted only as far as its bytes have really come, so
            // a liar cannot make us allocate: the block at most doubles.
            self.block.resize(length + (wanted - length).max(BLOCK).min(length), 0);
        }
        let read = loop {
            match self.inner.read(&mut self.block[length..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.filled += *read.as_ref().unwrap_or(&0);
        let read = read.map_err(|source| match (source.kind(), self.patience) {
            (io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut, Some(waited)) => {
                FrameError::Deadline { peer: self.peer.clone(), waited }
            }
            _ => FrameError::Io { peer: self.peer.clone(), source },
        })?;
        self.is_quick |= read > SMALL_BLOCK / 2;
        Ok(read)
    }
}

impl FrameReader<TcpStream> {
    /// From now on, a peer that sends not a byte for this long is an error.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn set_patience(&mut self, limit: Duration) -> Result<(), FrameError> {
        self.patience = Some(limit);
        self.timeout(self.patience)
    }

    /// The next payload within `limit` from now, however the bytes trickle; this limit is for this call only.
    ///
    /// # Errors
    /// As [`FrameReader::next_frame`], and [`FrameError::Deadline`].
    pub fn next_frame_within(&mut self, limit: Duration) -> Result<Option<Bytes>, FrameError> {
        let deadline = Instant::now() + limit;
        let patience = self.patience.take();
        let outcome = loop {
            if self.has_frame() {
                break self.next_frame();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Err(FrameError::Deadline { peer: self.peer.clone(), waited: limit });
            }
            self.timeout(Some(left))?;
            match self.fill(self.read().len() + self.missing()) {
                Ok(0) if self.read().is_empty() => break Ok(None),
                Ok(0) => break Err(self.truncated(self.missing())),
                Ok(_) => {}
                Err(FrameError::Io { source, .. })
                    if matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(e) => break Err(e),
            }
        };
        self.patience = patience;
        self.timeout(patience)?;
        outcome
    }

    fn timeout(&self, limit: Option<Duration>) -> Result<(), FrameError> {
        self.inner
            .set_read_timeout(limit)
            .map_err(|source| FrameError::Io { peer: self.peer.clone(), source })
    }

    /// So many bytes more complete the next frame, or the length before it.
    fn missing(&self) -> usize {
        let read = self.read();
        if read.len() < PREFIX { PREFIX - read.len() } else { PREFIX + prefix(read) - read.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{payloads, push};
    use super::*;
    use proptest::prelude::*;

    /// A stream that gives its bytes in pieces of the given sizes, round and round; before each it says that there is
    /// nothing yet, if it does that.
    struct Pieces {
        bytes: Vec<u8>,
        at: usize,
        sizes: Vec<usize>,
        turn: usize,
        blocks: bool,
        reads: usize,
    }

    impl Read for Pieces {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.reads += 1;
            if self.blocks && self.reads % 2 == 1 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let size = self.sizes[self.turn % self.sizes.len()];
            self.turn += 1;
            let n = size.min(out.len()).min(self.bytes.len() - self.at);
            out[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
            self.at += n;
            Ok(n)
        }
    }

    fn reader(bytes: Vec<u8>, sizes: Vec<usize>) -> FrameReader<Pieces> {
        let pieces = Pieces { bytes, at: 0, sizes, turn: 0, blocks: false, reads: 0 };
        FrameReader::new(pieces, "the test", 1 << 20)
    }

    /// Asks again as long as there is nothing yet.
    fn patiently<T>(mut ask: impl FnMut() -> Result<T, FrameError>) -> T {
        loop {
            match ask() {
                Err(FrameError::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {}
                other => return other.unwrap(),
            }
        }
    }

    fn stream(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for p in payloads {
            push(&mut bytes, p);
        }
        bytes
    }

    proptest! {
        #[test]
        fn frames_come_back_whatever_the_pieces(
            sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..40),
            sizes in prop::collection::vec(1usize..5000, 1..5),
        ) {
            let mut reader = reader(stream(&sent), sizes);
            for payload in &sent {
                prop_assert_eq!(&reader.next_frame().unwrap().unwrap()[..], &payload[..]);
            }
            prop_assert!(reader.next_frame().unwrap().is_none());
        }

        #[test]
        fn runs_are_the_frames_in_order(
            sent in prop::collection::vec(prop::collection::vec(0x20u8..0x7f, 0..300), 0..60),
            sizes in prop::collection::vec(1usize..5000, 1..5),
            frames in 1usize..20,
            bytes in 1usize..2000,
        ) {
            let mut with_end = sent.clone();
            with_end.push(vec![EOT]);
            let mut reader = reader(stream(&with_end), sizes);
            let mut got = Vec::new();
            loop {
                let (run, end) = reader.run(frames, bytes).unwrap();
                prop_assert!(run.frames <= frames && (run.frames <= 1 || run.bytes.len() <= bytes));
                prop_assert_eq!(payloads(&run.bytes).count(), run.frames);
                got.extend(payloads(&run.bytes).map(<[u8]>::to_vec));
                match end {
                    RunEnd::Full => prop_assert!(run.frames > 0),
                    RunEnd::Eot => break,
                    RunEnd::Closed => prop_assert!(false, "closed before the end of the rows"),
                }
            }
            prop_assert_eq!(got, sent);
        }

        /// Blocks are used again while others of their bytes are held; these stay as they came.
        #[test]
        fn what_was_given_out_stays_as_it_came(
            lengths in prop::collection::vec(prop_oneof![0usize..300, 0usize..600_000], 1..12),
            sizes in prop::collection::vec(prop_oneof![1usize..300_000, 200_000usize..300_000], 1..5),
            asks in prop::collection::vec((any::<bool>(), any::<bool>()), 1..6),
            blocks: bool,
        ) {
            let payload = |(i, &length): (usize, &usize)| {
                (0..length).map(|at| (at / 7 + i * 31) as u8).chain([b'.', b'.']).collect()
            };
            let sent: Vec<Vec<u8>> = lengths.iter().enumerate().map(payload).collect();
            let mut reader = reader(stream(&sent), sizes);
            reader.inner.blocks = blocks;
            let (mut held, mut at) = (Vec::new(), 0);
            for (takes_run, holds) in asks.into_iter().cycle() {
                let (bytes, frames) = if takes_run {
                    let (run, _) = patiently(|| reader.run(5, 100_000));
                    (run.bytes, run.frames)
                } else {
                    let Some(frame) = patiently(|| reader.next_frame()) else { break };
                    prop_assert_eq!(&frame[..], &sent[at][..]);
                    (frame, 1)
                };
                if takes_run && frames == 0 {
                    break;
                }
                if takes_run {
                    prop_assert_eq!(&bytes[..], &stream(&sent[at..at + frames])[..]);
                }
                if holds {
                    held.push((at, takes_run, frames, bytes));
                }
                at += frames;
            }
            prop_assert_eq!(at, sent.len());
            for (at, is_run, frames, bytes) in held {
                let wanted = if is_run { stream(&sent[at..at + frames]) } else { sent[at].clone() };
                prop_assert!(bytes == wanted, "frame {at} has changed");
            }
        }

        #[test]
        fn a_cut_stream_is_truncated_and_never_panics(
            sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..10),
            cut in any::<prop::sample::Index>(),
        ) {
            let whole = stream(&sent);
            let cut = cut.index(whole.len());
            let mut reader = reader(whole[..cut].to_vec(), vec![7]);
            let mut taken = 0;
            let outcome = loop {
                match reader.next_frame() {
                    Ok(Some(payload)) => taken += PREFIX + payload.len(),
                    other => break other,
                }
            };
            match outcome {
                Ok(None) => prop_assert_eq!(taken, cut),
                Err(FrameError::Truncated { .. }) => prop_assert!(taken < cut),
                other => prop_assert!(false, "unexpected {:?}", other),
            }
        }
    }

    #[test]
    fn few_reads_are_enough_for_much() {
        let large = 1 << 20;
        let mut one = reader(stream(&[vec![7; large]]), vec![usize::MAX]);
        assert_eq!(one.next_frame().unwrap().unwrap().len(), large);
        // 16 KiB, and twice as much each time.
        assert!(one.inner.reads <= 8, "{}", one.inner.reads);

        let rows = vec![vec![b'x'; 50]; 20_000];
        let mut many = reader(stream(&rows), vec![usize::MAX]);
        assert_eq!(many.run(rows.len(), usize::MAX).unwrap().0.frames, rows.len());
        assert!(many.inner.reads <= 12, "{}", many.inner.reads);
    }

    #[test]
    fn a_large_first_frame_is_there_within_its_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let payload = vec![b'x'; 15 << 20];
        let sending = std::thread::spawn(move || super::super::write(&mut stream, &payload));
        let mut reader = FrameReader::new(listener.accept().unwrap().0, "the test", 16 << 20);
        let frame = reader.next_frame_within(Duration::from_secs(60)).unwrap().unwrap();
        assert!(frame.len() == 15 << 20 && frame.iter().all(|&byte| byte == b'x'));
        sending.join().unwrap().unwrap();
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_its_bytes_come() {
        let mut reader = reader(u32::MAX.to_be_bytes().to_vec(), vec![4]);
        let error = reader.next_frame().unwrap_err().to_string();
        assert_eq!(error, "the test announced a frame of 4294967295 bytes; the limit is 1048576");
    }
}
