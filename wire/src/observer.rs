//! Looking on at a receiver's job.

use std::time::Duration;

use crate::frame::{DEFAULT_LIMIT, FrameReader};
use crate::net;
use crate::opening::{self, ResultsOpening};
use crate::results::Progress;
use crate::token::Token;

/// How long an observer tries to connect.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// The receiver tells an observer something several times a second; after this long, it is gone.
const SILENCE: Duration = Duration::from_secs(30);

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
    let stream = net::connect("the receiver", address, CONNECT_TIME)?;
    opening::send(&stream, token, &ResultsOpening::Observer {})?;
    let mut reader = FrameReader::new(stream, "the receiver", DEFAULT_LIMIT);
    reader.set_patience(SILENCE)?;
    while let Some(payload) = reader.next_frame()? {
        if !hear(opening::answer(&payload, "the receiver")?) {
            break;
        }
    }
    Ok(())
}
