//! Follows the progress of a receiver's job.

use std::time::Duration;

use anyhow::bail;

use protocol::frame::{DEFAULT_LIMIT, FrameReader};
use protocol::handshake::{self, ResultsHello};
use protocol::results::Progress;
use protocol::token::Token;

/// How long an observer tries to connect.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// The pause before connecting again to a receiver that is away.
const AWAY_PAUSE: Duration = Duration::from_millis(200);
/// The receiver reports several times a second; after this much silence, it is gone.
const SILENCE: Duration = Duration::from_secs(30);

/// Like [`observe`], but connects again after a failure, until the job ends or `on_progress` returns `false`. Errors are
/// ignored: only the display of progress is lost.
pub fn keep_observing(address: &str, token: Option<&Token>, mut on_progress: impl FnMut(Progress) -> bool) {
    let mut wanted = true;
    while wanted {
        let on_progress = |progress| {
            wanted = on_progress(progress);
            wanted
        };
        if observe(address, token, on_progress).is_ok() {
            return;
        }
        std::thread::sleep(AWAY_PAUSE);
    }
}

/// Passes the progress of the receiver at `address` to `on_progress`, until the job ends or `on_progress` returns `false`.
///
/// # Errors
/// The receiver cannot be reached or refuses, or the connection is lost.
pub fn observe(
    address: &str,
    token: Option<&Token>,
    mut on_progress: impl FnMut(Progress) -> bool,
) -> anyhow::Result<()> {
    let stream = crate::connect("the receiver", address, CONNECT_TIME)?;
    handshake::send(&stream, token, &ResultsHello::Observer {})?;
    let mut reader = FrameReader::new(stream, "the receiver", DEFAULT_LIMIT);
    reader.set_patience(SILENCE)?;
    while let Some(payload) = reader.next_frame()? {
        let progress: Progress = handshake::answer(&payload, "the receiver")?;
        if !on_progress(progress) || progress.ended {
            return Ok(());
        }
    }
    bail!("the receiver closed the connection before the job ended")
}
