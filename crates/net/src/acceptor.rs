//! Accepts connections at a port and serves each on its own thread.
//!
//! A peer is unauthenticated until its first frame has shown the job's token. Anyone who reaches a port can connect, so at most
//! [`MOST_UNAUTHENTICATED`] such connections may be open; one more closes the oldest. Our own programs authenticate at once,
//! so a crowd of silent peers neither keeps them out nor uses up threads and descriptors.

mod complaints;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, bail};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use protocol::frame::{FrameError, FrameReader};
use protocol::handshake::{self, HANDSHAKE_TIME, Refusal};

use complaints::Complaints;

/// How many unauthenticated connections may be open at once.
pub const MOST_UNAUTHENTICATED: usize = 100;

/// An accepted connection.
#[derive(Debug)]
pub struct Connection {
    pub stream: Arc<TcpStream>,
    /// The peer's address.
    pub peer: String,
    ticket: Ticket,
    admitted: AtomicBool,
}

/// Accepts connections on a new thread, and calls `serve` for each on another. Calls `broken` if the listener breaks.
///
/// # Errors
/// No thread can be started.
pub fn open(
    name: &'static str,
    listener: TcpListener,
    serve: impl Fn(Connection) + Send + Sync + 'static,
    broken: impl FnOnce(io::Error) + Send + 'static,
) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let serve = Arc::new(serve);
    let unauthenticated = Arc::new(Unauthenticated::default());
    let accept = move || -> io::Error {
        loop {
            // When descriptors run out, unauthenticated connections are closed to free some.
            let (stream, peer) = match crate::accept(&listener, || unauthenticated.make_room(0)) {
                Ok(accepted) => accepted,
                Err(error) => return error,
            };
            let (stream, peer) = (Arc::new(stream), peer.to_string());
            let ticket = unauthenticated.enter(&stream);
            let connection =
                Connection { stream, peer: peer.clone(), ticket, admitted: AtomicBool::new(false) };
            let serve = Arc::clone(&serve);
            let entered = std::thread::Builder::new().name(name.to_owned()).spawn(move || serve(connection));
            if let Err(error) = entered {
                unauthenticated.make_room(0);
                unauthenticated.complain(format_args!(
                    "{name} port: refused {peer}, since no thread could be started: {error}"
                ));
            }
        }
    };
    std::thread::Builder::new()
        .name(format!("{name} port"))
        .spawn(move || broken(accept()))
        .with_context(|| format!("starting a thread for {name}"))?;
    Ok(())
}

/// Raises the soft limit of descriptors to the hard one. The usual soft limit is far lower, and three ports full of
/// unauthenticated connections would need nearly all of it.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!("raising the limit of open files failed: {error}");
    }
}

impl Connection {
    /// Returns the first frame, of at most `limit` bytes, and a reader for the next ones; `None` if the peer closed the
    /// connection before it sent anything.
    ///
    /// # Errors
    /// No frame in time, a frame over the limit, a broken connection, or a connection closed to make room for others.
    pub fn first_frame(&self, limit: usize) -> anyhow::Result<Option<(Bytes, FrameReader<TcpStream>)>> {
        let stream = self.stream.try_clone().context("splitting a connection")?;
        let mut reader = FrameReader::new(stream, self.peer.as_str(), limit);
        match reader.next_frame_within(HANDSHAKE_TIME)? {
            Some(first) => Ok(Some((first, reader))),
            None if self.ticket.is_valid() => Ok(None),
            None => {
                bail!("it was silent, and {MOST_UNAUTHENTICATED} others that have come since need the room")
            }
        }
    }

    /// Logs that the peer was refused or broke the protocol. Complaints about unauthenticated peers are rate-limited, since these
    /// may connect as often as they like.
    pub fn complain(&self, what: impl Display) {
        if self.admitted.load(Ordering::Relaxed) {
            tracing::warn!("{what}");
        } else {
            self.ticket.unauthenticated.complain(what);
        }
    }

    /// Tells the peer why it is refused. A peer that has not sent a valid first frame learns nothing, such as the length limit or
    /// the deadline.
    pub fn refuse(&self, reason: &anyhow::Error) {
        if !reason.is::<FrameError>() {
            handshake::refuse(&self.stream, &Refusal::from(reason));
        }
    }

    /// Marks the peer as authenticated: its connection is no longer closed to make room.
    pub fn admit(&self) {
        self.admitted.store(true, Ordering::Relaxed);
        self.ticket.give_back();
    }
}

/// The open unauthenticated connections.
#[derive(Debug, Default)]
struct Unauthenticated(Mutex<Peers>);

#[derive(Debug, Default)]
struct Peers {
    accepted: u64,
    /// By the order of arrival.
    open: BTreeMap<u64, Arc<TcpStream>>,
    complaints: Complaints,
}

/// The place of one connection among the unauthenticated.
#[derive(Debug)]
struct Ticket {
    number: u64,
    unauthenticated: Arc<Unauthenticated>,
}

impl Unauthenticated {
    fn enter(self: &Arc<Self>, stream: &Arc<TcpStream>) -> Ticket {
        self.make_room(1);
        let mut peers = self.lock();
        peers.accepted += 1;
        let number = peers.accepted;
        peers.open.insert(number, Arc::clone(stream));
        Ticket { number, unauthenticated: Arc::clone(self) }
    }

    /// Closes the oldest connection if there is no room for `more` others; if `more` is 0, closes it in any case.
    fn make_room(&self, more: usize) {
        let mut peers = self.lock();
        if (more == 0 || peers.open.len() + more > MOST_UNAUTHENTICATED)
            && let Some((_, oldest)) = peers.open.pop_first()
        {
            // Its thread reads the end of the stream. An error means that the peer has already left.
            let _ = oldest.shutdown(Shutdown::Both);
        }
    }

    fn complain(&self, what: impl Display) {
        let line = self.lock().complaints.take(what, Instant::now());
        // Not while the lock is held, since writing a log line may block.
        if let Some(line) = line {
            tracing::warn!("{line}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Peers> {
        self.0.lock()
    }
}

impl Ticket {
    fn is_valid(&self) -> bool {
        self.unauthenticated.lock().open.contains_key(&self.number)
    }

    fn give_back(&self) {
        self.unauthenticated.lock().open.remove(&self.number);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::mpsc::channel;

    use super::*;
    use protocol::frame;

    #[test]
    fn silent_peers_do_not_keep_others_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (served, outcomes) = channel();
        let serve = move |connection: Connection| {
            let outcome = connection.first_frame(100).map(|first| first.map(|(first, _)| first));
            if let Ok(Some(_)) = outcome {
                connection.admit();
                frame::write(&*connection.stream, b"welcome").unwrap();
                // An admitted connection stays open, however many others arrive.
                let _ = (&*connection.stream).read(&mut [0; 1]);
            }
            served.send(outcome).unwrap();
        };
        open("test", listener, serve, |_| {}).unwrap();

        let mut client = TcpStream::connect(address).unwrap();
        frame::write(&client, b"it is me").unwrap();
        let mut welcome = [0; frame::PREFIX + 7];
        client.read_exact(&mut welcome).unwrap();
        let silent: Vec<_> =
            (0..=MOST_UNAUTHENTICATED).map(|_| TcpStream::connect(address).unwrap()).collect();
        let refusal = outcomes.recv().unwrap().unwrap_err().to_string();
        assert!(refusal.starts_with("it was silent, and 100 others"), "{refusal}");
        drop(silent);
        for _ in 0..MOST_UNAUTHENTICATED {
            assert!(outcomes.recv().unwrap().unwrap().is_none());
        }
        drop(client);
        assert_eq!(outcomes.recv().unwrap().unwrap().unwrap()[..], *b"it is me");
    }
}
