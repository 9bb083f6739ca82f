//! One control connection: messages and heartbeats in both directions.

use std::net::{IpAddr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use parking_lot::Mutex;
use protocol::frame::{FrameError, FrameReader};
use protocol::handshake::{self, ControlMessage, Refusal};

/// How often to send a heartbeat.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Without a frame for this long, the peer is lost. Also the longest that a write may take.
const SILENCE: Duration = Duration::from_secs(5);

/// The sending side of a control connection. A single thread [reads](Link::run) the connection and sends its heartbeats.
pub(super) struct Link {
    pub(super) name: String,
    stream: Mutex<TcpStream>,
}

impl Link {
    pub(super) fn new(name: String, stream: &TcpStream) -> anyhow::Result<Self> {
        net::limit_writes(stream, SILENCE).context("preparing a control connection")?;
        let stream = stream.try_clone().context("splitting a control connection")?;
        Ok(Self { name, stream: Mutex::new(stream) })
    }

    /// The addresses of this end and of the peer's.
    pub(super) fn addresses(&self) -> anyhow::Result<(IpAddr, IpAddr)> {
        let stream = self.stream.lock();
        let addresses = stream.local_addr().and_then(|local| Ok((local.ip(), stream.peer_addr()?.ip())));
        addresses.with_context(|| format!("reading the addresses of the connection to {}", self.name))
    }

    pub(super) fn send(&self, message: &ControlMessage) -> anyhow::Result<()> {
        handshake::send_json(&*self.stream.lock(), message)
            .with_context(|| format!("sending a message to {}", self.name))
    }

    pub(super) fn refuse(&self, reason: &anyhow::Error) {
        handshake::refuse(&self.stream.lock(), &Refusal::from(reason));
    }

    /// Closes the connection, which ends [`Link::run`].
    pub(super) fn close(&self) {
        // It may be closed already.
        let _ = self.stream.lock().shutdown(Shutdown::Both);
    }

    /// Passes the peer's messages to `recv`, and sends heartbeats, until the connection ends. Returns the reason.
    pub(super) fn run(
        &self,
        reader: &mut FrameReader<TcpStream>,
        mut recv: impl FnMut(ControlMessage),
    ) -> anyhow::Error {
        let (mut last_frame, mut next_beat) = (Instant::now(), Some(Instant::now()));
        loop {
            let now = Instant::now();
            if next_beat.is_some_and(|due| now >= due) {
                // When sending fails, the peer's last messages must still be read.
                next_beat = self.send(&ControlMessage::Heartbeat).is_ok().then(|| now + HEARTBEAT);
            }
            let until = next_beat.map_or(last_frame + SILENCE, |due| due.min(last_frame + SILENCE));
            // At least a moment: after this process was paused, unread heartbeats may be waiting.
            let wait = until.saturating_duration_since(now).max(Duration::from_millis(1));
            match reader.next_frame_within(wait) {
                Ok(Some(payload)) => {
                    last_frame = Instant::now();
                    match handshake::answer(&payload, reader.peer()) {
                        Ok(ControlMessage::Heartbeat) => {}
                        Ok(message) => recv(message),
                        Err(error) => return error,
                    }
                }
                Ok(None) => return anyhow!("it left the cluster"),
                Err(FrameError::Deadline { .. }) if last_frame.elapsed() < SILENCE => {}
                Err(FrameError::Deadline { peer, .. }) => {
                    return FrameError::Deadline { peer, waited: SILENCE }.into();
                }
                Err(error) => return error.into(),
            }
        }
    }
}
