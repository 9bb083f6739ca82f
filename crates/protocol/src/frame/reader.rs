//! Reading frames.

use std::io::{self, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::blocks::{self, BLOCK};
use super::error::FrameError;
use super::{END, EOT, PREFIX, length, prefix};

/// Bytes of the block for a peer that has not sent much at once yet.
const SMALL_BLOCK: usize = 16 << 10;

/// Several complete frames as they were in the stream, lengths included.
#[derive(Debug, Clone, Default)]
pub struct Run {
    pub bytes: Bytes,
    /// The number of frames in `bytes`.
    pub frames: usize,
}

/// What ended a [`FrameReader::run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// The run has reached the requested size.
    Full,
    /// The end of the rows followed, and is consumed: [`END`], or, from a peer without marks, the single byte [`EOT`].
    End,
    /// The stream ended after the run's last frame.
    Closed,
}

/// The next item in a stream.
enum Next {
    /// The end of the stream.
    Closed,
    /// The mark for the end of the rows.
    End,
    /// A complete frame, with the length of its payload.
    Frame(usize),
}

/// Reads frames from a stream.
///
/// Bytes that were read and not returned yet are either in `ready`, or in the first `filled` bytes of `block`, behind which more
/// is read.
#[derive(Debug)]
pub struct FrameReader<R> {
    inner: R,
    ready: Bytes,
    block: Vec<u8>,
    filled: usize,
    /// The peer has sent much at once, so its reads use large blocks.
    is_quick: bool,
    /// The peer marks the end of the rows, and the rows that it cannot send.
    has_marks: bool,
    limit: usize,
    peer: String,
    /// The longest time a read may take, if limited.
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
            has_marks: false,
            limit,
            peer: peer.into(),
            patience: None,
        }
    }

    /// The peer's name in errors.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Allows frames of up to `limit` bytes from now on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// From now on, a prefix may be [`END`] or have the mark [`FLAWED`](super::FLAWED).
    pub fn allow_marks(&mut self) {
        self.has_marks = true;
    }

    /// Whether [`Self::next_frame`] returns without waiting: a complete frame has been read, or a frame that it refuses.
    pub fn has_frame(&self) -> bool {
        let read = self.read();
        read.len() >= PREFIX && {
            let length = self.length(prefix(read));
            length > self.limit || read.len() >= PREFIX + length
        }
    }

    /// The next payload, or `None` at the end of the stream or of the rows.
    ///
    /// # Errors
    /// A frame is over the limit, the stream ends inside a frame, or a read fails.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        match self.fill_to_frame(0)? {
            Next::Closed => Ok(None),
            Next::End => {
                self.take(PREFIX);
                Ok(None)
            }
            Next::Frame(length) => {
                self.take(PREFIX);
                Ok(Some(self.take(length)))
            }
        }
    }

    /// The next frames in one piece: up to `frames` of them. Returns fewer if the next one would bring the run over `bytes` (but
    /// at least one), or if the stream or the rows end.
    ///
    /// # Errors
    /// Those of [`FrameReader::next_frame`]. The frames before the bad one are not returned.
    pub fn run(&mut self, frames: usize, bytes: usize) -> Result<(Run, RunEnd), FrameError> {
        let (mut at, mut count) = (0, 0);
        let end = loop {
            if count == frames {
                break RunEnd::Full;
            }
            let length = match self.fill_to_frame(at)? {
                Next::Closed => break RunEnd::Closed,
                Next::End => break RunEnd::End,
                Next::Frame(length) => length,
            };
            if length == 1 && !self.has_marks && self.read()[at + PREFIX] == EOT {
                break RunEnd::End;
            }
            if count > 0 && at + PREFIX + length > bytes {
                break RunEnd::Full;
            }
            at += PREFIX + length;
            count += 1;
        };
        let run = Run { bytes: self.take(at), frames: count };
        if end == RunEnd::End {
            self.take(if self.has_marks { PREFIX } else { PREFIX + 1 });
        }
        Ok((run, end))
    }

    /// The length of the payload after a prefix.
    fn length(&self, prefix: u32) -> usize {
        match (self.has_marks, prefix) {
            (true, END) => 0,
            (true, _) => length(prefix),
            (false, _) => prefix as usize,
        }
    }

    /// Reads until the frame that starts at `at` is complete.
    fn fill_to_frame(&mut self, at: usize) -> Result<Next, FrameError> {
        while self.read().len() < at + PREFIX {
            if self.fill(at + PREFIX)? == 0 {
                let rest = self.read().len() - at;
                return if rest == 0 { Ok(Next::Closed) } else { Err(self.truncated(PREFIX - rest)) };
            }
        }
        let prefix = prefix(&self.read()[at..]);
        if self.has_marks && prefix == END {
            return Ok(Next::End);
        }
        let length = self.length(prefix);
        if length > self.limit {
            return Err(FrameError::TooLong { peer: self.peer.clone(), length, limit: self.limit });
        }
        let end = at + PREFIX + length;
        while self.read().len() < end {
            if self.fill(end)? == 0 {
                return Err(self.truncated(end - self.read().len()));
            }
        }
        Ok(Next::Frame(length))
    }

    /// The bytes that were read and not returned yet.
    fn read(&self) -> &[u8] {
        if self.filled > 0 { &self.block[..self.filled] } else { &self.ready }
    }

    /// Removes and returns the first `length` bytes of [`Self::read`].
    fn take(&mut self, length: usize) -> Bytes {
        if self.filled > 0 {
            // The returned bytes keep their block alive, so a block less than half full is copied.
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

    /// Reads once; `wanted` bytes in total would complete the item being read.
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
            // An announced length is trusted only as far as bytes have arrived: the block at most doubles. So a lying peer cannot
            // make us allocate.
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
    /// From now on, reading fails if the peer sends no byte for this long.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn set_patience(&mut self, limit: Duration) -> Result<(), FrameError> {
        self.patience = Some(limit);
        self.timeout(self.patience)
    }

    /// The next payload within `limit` from now, however slowly its bytes arrive. The limit is for this call only.
    ///
    /// # Errors
    /// Those of [`FrameReader::next_frame`], and [`FrameError::Deadline`].
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

    /// Bytes missing from the next frame, or from its prefix if that is incomplete.
    fn missing(&self) -> usize {
        let read = self.read();
        if read.len() < PREFIX {
            PREFIX - read.len()
        } else {
            PREFIX + self.length(prefix(read)) - read.len()
        }
    }
}

#[cfg(test)]
mod tests;
