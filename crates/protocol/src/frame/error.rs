//! Errors of a peer's frames.

use std::io;
use std::time::Duration;

/// Why no further frame can be read from a peer.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The announced length is over the limit.
    #[error("{peer} announced a frame of {length} bytes; the limit is {limit}")]
    TooLong { peer: String, length: usize, limit: usize },
    /// The stream ended inside a frame.
    #[error("the connection to {peer} ended inside a frame, {missing} bytes before its end")]
    Truncated {
        peer: String,
        /// Missing bytes: of the frame, or, while its length is unknown, of the length.
        missing: usize,
    },
    /// No frame within the time allowed.
    #[error("no complete frame from {peer} within {waited:?}")]
    Deadline { peer: String, waited: Duration },
    /// Reading failed.
    #[error("reading from {peer}: {source}")]
    Io { peer: String, source: io::Error },
}
