//! How processes find each other at the initializer's control port, and form the mesh.
//!
//! 1. Each process joins at the control port: name, data address, workers, build, settings, token.
//! 2. When all are there, each gets the generation and the member list, and makes its data connections: to the
//!    processes before it in the list, and from those behind it.
//! 3. When its data connections stand and the receiver has let it in, a process says that it has formed.
//! 4. When all have, the initializer says start.
//!
//! Heartbeats run both ways from the beginning. When a process is lost, all others leave, and are started again; together
//! they form the next generation, without those that are not back in time ([`membership`]).

pub mod initializer;
pub mod member;
pub mod membership;
pub mod mesh;

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use protocol::frame::FrameReader;
use protocol::handshake::{self, ControlMessage, Member};
use protocol::token::Token;

/// How often heartbeats are sent, and after how long without one the other side is gone.
const HEARTBEAT: Duration = Duration::from_millis(500);
const SILENCE: Duration = Duration::from_secs(5);
/// As long as heartbeats come.
const FOREVER: Duration = Duration::from_secs(process::LONGEST_WAIT);

/// What a process knows of the cluster that it wants to be in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The initializer's control address.
    pub control: String,
    /// Where this process's own end of the control connection is, if that matters.
    pub my_control: Option<String>,
    /// How this process describes itself; its data address as it is to be reached.
    pub me: Member,
    /// How many processes form the cluster when all are there.
    pub processes: usize,
    /// The job's token.
    pub token: Option<Token>,
    /// How long forming the cluster may take.
    pub patience: Duration,
    /// If this process was in a cluster before: how long its initializer waits for others to come back.
    pub rejoin: Option<Duration>,
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

/// The way to the other side of a control connection. Heartbeats go there as long as the connection stands; it is closed when
/// this is dropped.
struct Link {
    name: String,
    stream: Arc<Mutex<TcpStream>>,
}

impl Link {
    fn new(name: String, stream: &TcpStream) -> anyhow::Result<Self> {
        // While something is said to a peer that does not listen, all others with something to say to it wait.
        net::limit_writes(stream, SILENCE).context("preparing a control connection")?;
        let stream = stream.try_clone().context("splitting a control connection")?;
        let stream = Arc::new(Mutex::new(stream));
        let link = Self { name, stream: Arc::clone(&stream) };
        std::thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || {
                // That the connection is broken is seen by the thread that reads.
                while send(&stream, &ControlMessage::Heartbeat).is_ok() {
                    std::thread::sleep(HEARTBEAT);
                }
            })
            .context("starting a thread")?;
        Ok(link)
    }

    fn send(&self, message: &ControlMessage) -> anyhow::Result<()> {
        send(&self.stream, message)
    }

    fn stream(&self) -> MutexGuard<'_, TcpStream> {
        lock(&self.stream)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Its heartbeat would keep it open; that it is closed already is as good.
        let _ = self.stream().shutdown(std::net::Shutdown::Both);
    }
}

fn send(stream: &Mutex<TcpStream>, message: &ControlMessage) -> anyhow::Result<()> {
    handshake::send_json(&*lock(stream), message)
}

fn lock(stream: &Mutex<TcpStream>) -> MutexGuard<'_, TcpStream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next control message that is no heartbeat; heartbeats must come meanwhile.
fn message(reader: &mut FrameReader<TcpStream>, limit: Duration) -> anyhow::Result<ControlMessage> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "nothing but heartbeats from {} within {limit:?}", reader.peer());
        match reader.next_frame_within(left.min(SILENCE))? {
            Some(payload) => match handshake::answer(&payload, reader.peer())? {
                ControlMessage::Heartbeat => {}
                other => return Ok(other),
            },
            None => bail!("it left the cluster"),
        }
    }
}
