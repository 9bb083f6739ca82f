//! How processes find each other at the initializer's control port, and form the mesh.
//!
//! 1. Each process joins at the control port: name, data address, workers, build, settings, token.
//! 2. When all are there, each gets the generation and the member list, and makes its data connections: to the
//!    processes before it in the list, and from those behind it.
//! 3. When its data connections stand and the receiver has let it in, a process says that it has formed.
//! 4. When all have, the initializer says start. From then on, heartbeats run both ways.

pub mod initializer;
pub mod member;
pub mod mesh;

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use wire::frame::FrameReader;
use wire::opening::{self, ControlMessage, Member};
use wire::token::Token;

/// How often heartbeats are sent, and after how long without one the other side is gone.
const HEARTBEAT: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(10);

/// What a process knows of the cluster that it wants to be in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The initializer's control address.
    pub control: String,
    /// Where this process's own end of the control connection is, if that matters.
    pub my_control: Option<String>,
    /// How this process describes itself; its data address as it is to be reached.
    pub me: Member,
    /// How many processes form the cluster.
    pub processes: usize,
    /// The job's token.
    pub token: Option<Token>,
    /// How long forming the cluster may take.
    pub patience: Duration,
}

/// The cluster, as far as it is formed: all know of each other.
#[derive(Debug, Clone)]
pub struct Formation {
    /// Grows from cluster to cluster.
    pub generation: u64,
    /// This process's place among the members.
    pub process: usize,
    /// All members, the initializer first.
    pub members: Vec<Member>,
}

/// Whether the dataflow has ended, so that connections may end as well.
#[derive(Debug, Clone, Default)]
pub struct Leaving(Arc<AtomicBool>);

impl Leaving {
    /// Whether it has.
    pub fn is_leaving(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Something to keep in the dataflow: when it is dropped, the dataflow has ended.
    pub fn on_drop(&self) -> LeaveOnDrop {
        LeaveOnDrop(self.clone())
    }
}

/// See [`Leaving::on_drop`].
#[derive(Debug)]
pub struct LeaveOnDrop(Leaving);

impl Drop for LeaveOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::SeqCst);
    }
}

/// Listens to a peer and sends it heartbeats, on threads of their own. A peer that is silent for too long, that
/// leaves before the work is done, or that says shutdown, ends this process.
fn keep_in_touch(peer: Peer, leaving: &Leaving) -> anyhow::Result<()> {
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let Peer { name, stream, mut reader } = peer;
    thread("heartbeat")
        .spawn(move || {
            // That the connection is broken is seen by the thread that reads.
            while opening::send_json(&stream, &ControlMessage::Heartbeat).is_ok() {
                std::thread::sleep(HEARTBEAT);
            }
        })
        .context("starting a thread")?;
    let leaving = leaving.clone();
    thread("control")
        .spawn(move || {
            let reason = hear_out(&mut reader);
            if !leaving.is_leaving() {
                crate::fail(format_args!("{name}: {reason:#}"));
            }
        })
        .context("starting a thread")?;
    Ok(())
}

/// Hears heartbeats until something else comes, and says what.
fn hear_out(reader: &mut FrameReader<TcpStream>) -> anyhow::Error {
    loop {
        match message(reader, SILENCE) {
            Ok(ControlMessage::Heartbeat) => {}
            Ok(ControlMessage::Shutdown) => return anyhow!("the cluster was asked to shut down"),
            Ok(other) => return anyhow!("an unexpected message: {other:?}"),
            Err(error) => return error,
        }
    }
}

/// The other side of a control connection.
struct Peer {
    name: String,
    stream: TcpStream,
    reader: FrameReader<TcpStream>,
}

impl Peer {
    /// Whether the connection has ended; nothing is taken from it.
    fn has_left(&self) -> bool {
        let peek = || -> std::io::Result<usize> {
            self.stream.set_nonblocking(true)?;
            let peeked = self.stream.peek(&mut [0]);
            self.stream.set_nonblocking(false)?;
            peeked
        };
        match peek() {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

/// The next control message.
fn message(reader: &mut FrameReader<TcpStream>, limit: Duration) -> anyhow::Result<ControlMessage> {
    match reader.next_frame_within(limit)? {
        Some(payload) => opening::answer(&payload, reader.peer()),
        None => bail!("it left the cluster"),
    }
}
