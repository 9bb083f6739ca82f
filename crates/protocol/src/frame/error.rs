//! What is wrong with a peer's frames.

use std::io;
use std::time::Duration;

/// Why no further frame can be had from a peer.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The announced length is over the limit.
    #[error("{peer} announced a frame of {length} bytes; the limit is {limit}")]
    TooLong {
        /// Who sent it.
        peer: String,
        /// The announced length in bytes.
        length: usize,
        /// The longest allowed payload in bytes.
        limit: usize,
    },
    /// The stream ended inside a frame.
    #[error("the connection to {peer} ended inside a frame, {missing} bytes before its end")]
    Truncated {
        /// Who sent it.
        peer: String,
        /// Bytes that were still to come; for a frame whose length is not known yet, of that length.
        missing: usize,
    },
    /// No frame within the time allowed.
    #[error("no complete frame from {peer} within {waited:?}")]
    Deadline {
        /// Who was waited for.
        peer: String,
        /// For how long.
        waited: Duration,
    },
    /// Reading failed.
    #[error("reading from {peer}: {source}")]
    Io {
        /// Who was read from.
        peer: String,
        /// What the operating system said.
        source: io::Error,
    },
}
