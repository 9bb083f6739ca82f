//! A port's door: connections come in, and each is served on a thread of its own.
//!
//! Until a connection has shown who it is, it is a stranger. Ports are open to whoever reaches them, so there is room
//! for only so many strangers at a time; when another one comes, the one that has been silent for longest has to
//! leave. Our own programs say at once who they are, so a crowd of strangers neither keeps them out nor uses up
//! this process's threads and descriptors.

mod complaints;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, bail};
use bytes::Bytes;

use crate::frame::{FrameError, FrameReader};
use crate::net;
use crate::opening::{self, OPENING_TIME, Refusal};
use complaints::Complaints;

/// How many connections that have not shown who they are may be open at once.
pub const MOST_STRANGERS: usize = 100;

/// A connection that has come in.
#[derive(Debug)]
pub struct Visitor {
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
    serve: impl Fn(Visitor) + Send + Sync + 'static,
    broken: impl FnOnce(io::Error) + Send + 'static,
) -> anyhow::Result<()> {
    allow_descriptors();
    let serve = Arc::new(serve);
    let strangers = Arc::new(Strangers::default());
    let accept = move || -> io::Error {
        loop {
            // Descriptors that strangers have are those to be had.
            let (stream, peer) = match net::accept(&listener, || strangers.make_room(0)) {
                Ok(accepted) => accepted,
                Err(error) => return error,
            };
            let (stream, peer) = (Arc::new(stream), peer.to_string());
            let ticket = strangers.enter(&stream);
            let visitor = Visitor { stream, peer: peer.clone(), ticket, admitted: AtomicBool::new(false) };
            let serve = Arc::clone(&serve);
            let entered = std::thread::Builder::new().name(name.to_owned()).spawn(move || serve(visitor));
            if let Err(error) = entered {
                strangers.make_room(0);
                strangers.complain(format_args!(
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

/// Has this process as many descriptors as it is allowed: usually it is given far fewer, and three ports full of strangers
/// would need nearly all of those.
fn allow_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        crate::say!("no more descriptors than usual: {error}");
    }
}

impl Visitor {
    /// The first frame, of at most `limit` bytes, and what reads those behind it; `None` if the visitor left without
    /// a word.
    ///
    /// # Errors
    /// No frame in time, a frame over the limit, a broken connection; or it had to make room for others.
    pub fn first_frame(&self, limit: usize) -> anyhow::Result<Option<(Bytes, FrameReader<TcpStream>)>> {
        let stream = self.stream.try_clone().context("splitting a connection")?;
        let mut reader = FrameReader::new(stream, self.peer.as_str(), limit);
        match reader.next_frame_within(OPENING_TIME)? {
            Some(first) => Ok(Some((first, reader))),
            None if self.ticket.is_valid() => Ok(None),
            None => bail!("it was silent, and {MOST_STRANGERS} others that have come since need the room"),
        }
    }

    /// Says that it was not let in or did not keep to the protocol. Strangers may come as often as they like, and of
    /// their failures only some are said.
    pub fn complain(&self, what: impl Display) {
        if self.admitted.load(Ordering::Relaxed) {
            crate::say!("{what}");
        } else {
            self.ticket.strangers.complain(what);
        }
    }

    /// Tells it why it is not let in. Who has not even sent a first frame is told nothing: not how long it may be, nor
    /// how long it is waited for.
    pub fn refuse(&self, reason: &anyhow::Error) {
        if !reason.is::<FrameError>() {
            opening::refuse(&self.stream, &Refusal::from(reason));
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
struct Strangers(Mutex<Crowd>);

#[derive(Debug, Default)]
struct Crowd {
    came: u64,
    here: BTreeMap<u64, Arc<TcpStream>>,
    complaints: Complaints,
}

/// A stranger's place.
#[derive(Debug)]
struct Ticket {
    number: u64,
    strangers: Arc<Strangers>,
}

impl Strangers {
    fn enter(self: &Arc<Self>, stream: &Arc<TcpStream>) -> Ticket {
        self.make_room(1);
        let mut crowd = self.crowd();
        crowd.came += 1;
        let number = crowd.came;
        crowd.here.insert(number, Arc::clone(stream));
        Ticket { number, strangers: Arc::clone(self) }
    }

    /// Has those leave that have been silent for longest, so that so many more may come; without more to come, one.
    fn make_room(&self, more: usize) {
        let mut crowd = self.crowd();
        if (more == 0 || crowd.here.len() + more > MOST_STRANGERS)
            && let Some((_, silent)) = crowd.here.pop_first()
        {
            // Its thread sees the end; that it has left already is as good.
            let _ = silent.shutdown(Shutdown::Both);
        }
    }

    fn complain(&self, what: impl Display) {
        let line = self.crowd().complaints.take(what, Instant::now());
        // Not while the lock is held: whoever reads what is said may be slow.
        if let Some(line) = line {
            crate::say!("{line}");
        }
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    fn is_valid(&self) -> bool {
        self.strangers.crowd().here.contains_key(&self.number)
    }

    fn give_back(&self) {
        self.strangers.crowd().here.remove(&self.number);
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
    use crate::frame;

    #[test]
    fn a_crowd_of_silent_strangers_keeps_nobody_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (served, outcomes) = channel();
        let serve = move |visitor: Visitor| {
            let outcome = visitor.first_frame(100).map(|first| first.map(|(first, _)| first));
            if let Ok(Some(_)) = outcome {
                visitor.admit();
                frame::write(&*visitor.stream, b"welcome").unwrap();
                // Admitted, so that it stays, whoever else comes.
                let _ = (&*visitor.stream).read(&mut [0; 1]);
            }
            served.send(outcome).unwrap();
        };
        open("test", listener, serve, |_| {}).unwrap();

        let mut friend = TcpStream::connect(address).unwrap();
        frame::write(&friend, b"it is me").unwrap();
        let mut welcome = [0; frame::PREFIX + 7];
        friend.read_exact(&mut welcome).unwrap();
        let silent: Vec<_> = (0..=MOST_STRANGERS).map(|_| TcpStream::connect(address).unwrap()).collect();
        let turned_out = outcomes.recv().unwrap().unwrap_err().to_string();
        assert!(turned_out.starts_with("it was silent, and 100 others"), "{turned_out}");
        drop(silent);
        for _ in 0..MOST_STRANGERS {
            assert!(outcomes.recv().unwrap().unwrap().is_none());
        }
        drop(friend);
        assert_eq!(outcomes.recv().unwrap().unwrap().unwrap()[..], *b"it is me");
    }
}
