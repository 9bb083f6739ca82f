//! A port: connections come in, and each is served on a thread of its own.
//!
//! A peer is unauthenticated until its first frame has shown the job's token. Anybody who reaches a port can connect, so only
//! [`MOST_UNAUTHENTICATED`] such connections may be open; one more closes the one that has been silent for longest. Our own
//! programs authenticate at once, so a peers of silent peers neither keeps them out nor uses up threads and descriptors.

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

/// How many connections that have not shown who they are may be open at once.
pub const MOST_UNAUTHENTICATED: usize = 100;

/// A connection that has come in.
#[derive(Debug)]
pub struct Connection {
    /// The connection.
    pub stream: Arc<TcpStream>,
    /// Where it comes from.
    pub peer: String,
    ticket: Ticket,
    admitted: AtomicBool,
}

/// Serves the port on threads of its own: each connection with `serve`, until `broken` is told that the listener is.
///
/// # Errors
/// When no thread can be started.
pub fn open(
    name: &'static str,
    listener: TcpListener,
    serve: impl Fn(Connection) + Send + Sync + 'static,
    broken: impl FnOnce(io::Error) + Send + 'static,
) -> anyhow::Result<()> {
    allow_descriptors();
    let serve = Arc::new(serve);
    let unauthenticated = Arc::new(Unauthenticated::default());
    let accept = move || -> io::Error {
        loop {
            // Descriptors that unauthenticated have are those to be had.
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
                    "{name} port: turned {peer} away, since this process is short of something: {error}"
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

/// Has this process as many descriptors as it is allowed: usually it is given far fewer, and three ports full of unauthenticated
/// would need nearly all of those.
fn allow_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!("no more descriptors than usual: {error}");
    }
}

impl Connection {
    /// The first frame, of at most `limit` bytes, and what reads those behind it; `None` if the connection left without
    /// a word.
    ///
    /// # Errors
    /// No frame in time, a frame over the limit, a broken connection; or it had to make room for others.
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

    /// Says that it was not let in or did not keep to the protocol. Unauthenticated may come as often as they like, and of
    /// their failures only some are said.
    pub fn complain(&self, what: impl Display) {
        if self.admitted.load(Ordering::Relaxed) {
            tracing::warn!("{what}");
        } else {
            self.ticket.unauthenticated.complain(what);
        }
    }

    /// Tells it why it is not let in. Who has not even sent a first frame is told nothing: not how long it may be, nor
    /// how long it is waited for.
    pub fn refuse(&self, reason: &anyhow::Error) {
        if !reason.is::<FrameError>() {
            handshake::refuse(&self.stream, &Refusal::from(reason));
        }
    }

    /// It has shown who it is, and may stay.
    pub fn admit(&self) {
        self.admitted.store(true, Ordering::Relaxed);
        self.ticket.give_back();
    }
}

/// Connections that have not shown who they are, in the order they came.
#[derive(Debug, Default)]
struct Unauthenticated(Mutex<Peers>);

#[derive(Debug, Default)]
struct Peers {
    came: u64,
    here: BTreeMap<u64, Arc<TcpStream>>,
    complaints: Complaints,
}

/// A stranger's place.
#[derive(Debug)]
struct Ticket {
    number: u64,
    unauthenticated: Arc<Unauthenticated>,
}

impl Unauthenticated {
    fn enter(self: &Arc<Self>, stream: &Arc<TcpStream>) -> Ticket {
        self.make_room(1);
        let mut peers = self.lock();
        peers.came += 1;
        let number = peers.came;
        peers.here.insert(number, Arc::clone(stream));
        Ticket { number, unauthenticated: Arc::clone(self) }
    }

    /// Has those leave that have been silent for longest, so that so many more may come; without more to come, one.
    fn make_room(&self, more: usize) {
        let mut peers = self.lock();
        if (more == 0 || peers.here.len() + more > MOST_UNAUTHENTICATED)
            && let Some((_, silent)) = peers.here.pop_first()
        {
            // Its thread sees the end; that it has left already is as good.
            let _ = silent.shutdown(Shutdown::Both);
        }
    }

    fn complain(&self, what: impl Display) {
        let line = self.lock().complaints.take(what, Instant::now());
        // Not while the lock is held: whoever reads what is said may be slow.
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
        self.unauthenticated.lock().here.contains_key(&self.number)
    }

    fn give_back(&self) {
        self.unauthenticated.lock().here.remove(&self.number);
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
    fn a_peers_of_silent_unauthenticated_keeps_nobody_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (served, outcomes) = channel();
        let serve = move |connection: Connection| {
            let outcome = connection.first_frame(100).map(|first| first.map(|(first, _)| first));
            if let Ok(Some(_)) = outcome {
                connection.admit();
                frame::write(&*connection.stream, b"welcome").unwrap();
                // Admitted, so that it stays, whoever else comes.
                let _ = (&*connection.stream).read(&mut [0; 1]);
            }
            served.send(outcome).unwrap();
        };
        open("test", listener, serve, |_| {}).unwrap();

        let mut friend = TcpStream::connect(address).unwrap();
        frame::write(&friend, b"it is me").unwrap();
        let mut welcome = [0; frame::PREFIX + 7];
        friend.read_exact(&mut welcome).unwrap();
        let silent: Vec<_> =
            (0..=MOST_UNAUTHENTICATED).map(|_| TcpStream::connect(address).unwrap()).collect();
        let turned_out = outcomes.recv().unwrap().unwrap_err().to_string();
        assert!(turned_out.starts_with("it was silent, and 100 others"), "{turned_out}");
        drop(silent);
        for _ in 0..MOST_UNAUTHENTICATED {
            assert!(outcomes.recv().unwrap().unwrap().is_none());
        }
        drop(friend);
        assert_eq!(outcomes.recv().unwrap().unwrap().unwrap()[..], *b"it is me");
    }
}
