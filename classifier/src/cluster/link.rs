//! One control connection: messages and heartbeats, both ways.

use std::net::{IpAddr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use parking_lot::Mutex;
use protocol::frame::{FrameError, FrameReader};
use protocol::handshake::{self, ControlMessage, Refusal};

/// How often a heartbeat is sent.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Without a frame for this long, the other side is lost. Also the longest that a write may take.
const SILENCE: Duration = Duration::from_secs(5);

/// The way to the other side of a control connection. A single thread [reads](Link::run) it and sends its heartbeats.
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

    /// The addresses of this end and of the other one.
    pub(super) fn ends(&self) -> anyhow::Result<(IpAddr, IpAddr)> {
        let stream = self.stream.lock();
        let ends = stream.local_addr().and_then(|local| Ok((local.ip(), stream.peer_addr()?.ip())));
        ends.with_context(|| format!("asking for the addresses of the connection to {}", self.name))
    }

    pub(super) fn send(&self, message: &ControlMessage) -> anyhow::Result<()> {
        handshake::send_json(&*self.stream.lock(), message).with_context(|| format!("telling {}", self.name))
    }

    pub(super) fn refuse(&self, reason: &anyhow::Error) {
        handshake::refuse(&self.stream.lock(), &Refusal::from(reason));
    }

    /// Closes the connection, which ends [`Link::run`].
    pub(super) fn close(&self) {
        // It may be closed already.
        let _ = self.stream.lock().shutdown(Shutdown::Both);
    }

    /// Gives what the other side says to `recv`, and sends heartbeats meanwhile, until the connection ends; says why it has.
    pub(super) fn run(
        &self,
        reader: &mut FrameReader<TcpStream>,
        mut recv: impl FnMut(ControlMessage),
    ) -> anyhow::Error {
        let (mut heard, mut beat) = (Instant::now(), Some(Instant::now()));
        loop {
            let now = Instant::now();
            if beat.is_some_and(|due| now >= due) {
                // When it cannot be sent, what the other side said last is still to be read.
                beat = self.send(&ControlMessage::Heartbeat).is_ok().then(|| now + HEARTBEAT);
            }
            let until = beat.map_or(heard + SILENCE, |due| due.min(heard + SILENCE));
            // At least a moment: after a pause of this process, heartbeats are here that it has not read yet.
            let wait = until.saturating_duration_since(now).max(Duration::from_millis(1));
            match reader.next_frame_within(wait) {
                Ok(Some(payload)) => {
                    heard = Instant::now();
                    match handshake::answer(&payload, reader.peer()) {
                        Ok(ControlMessage::Heartbeat) => {}
                        Ok(message) => recv(message),
                        Err(error) => return error,
                    }
                }
                Ok(None) => return anyhow!("it left the cluster"),
                Err(FrameError::Deadline { .. }) if heard.elapsed() < SILENCE => {}
                Err(FrameError::Deadline { peer, .. }) => {
                    return FrameError::Deadline { peer, waited: SILENCE }.into();
                }
                Err(error) => return error.into(),
            }
        }
    }
}
