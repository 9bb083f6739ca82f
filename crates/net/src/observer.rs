//! Looking on at a receiver's job.

use std::time::Duration;

use anyhow::bail;

use protocol::frame::{DEFAULT_LIMIT, FrameReader};
use protocol::handshake::{self, ResultsHello};
use protocol::results::Progress;
use protocol::token::Token;

/// How long an observer tries to connect.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// The pause until a receiver that is away is looked for again.
const AWAY_PAUSE: Duration = Duration::from_millis(200);
/// The receiver tells an observer something several times a second; after this long, it is gone.
const SILENCE: Duration = Duration::from_secs(30);

/// As [`observe`], again and again while the receiver is away, until the job ends or nobody wants to hear more. It is only a
/// picture that is lost meanwhile, so there is nothing to be done about errors.
pub fn keep_observing(address: &str, token: Option<&Token>, mut hear: impl FnMut(Progress) -> bool) {
    let mut wanted = true;
    while wanted {
        let heard = |progress| {
            wanted = hear(progress);
            wanted
        };
        if observe(address, token, heard).is_ok() {
            return;
        }
        std::thread::sleep(AWAY_PAUSE);
    }
}

/// Observes the job of the receiver at `address`, until it ends, nobody wants to hear more (`hear` gives `false`), or the
/// connection is lost.
///
/// # Errors
/// No receiver there, one that refuses, a connection that breaks.
pub fn observe(
    address: &str,
    token: Option<&Token>,
    mut hear: impl FnMut(Progress) -> bool,
) -> anyhow::Result<()> {
    let stream = crate::connect("the receiver", address, CONNECT_TIME)?;
    handshake::send(&stream, token, &ResultsHello::Observer {})?;
    let mut reader = FrameReader::new(stream, "the receiver", DEFAULT_LIMIT);
    reader.set_patience(SILENCE)?;
    while let Some(payload) = reader.next_frame()? {
        let progress: Progress = handshake::answer(&payload, "the receiver")?;
        if !hear(progress) || progress.ended {
            return Ok(());
        }
    }
    bail!("the receiver closed the connection before the job's end")
}
