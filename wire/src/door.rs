//! A port's door: connections come in, and each is served on a thread of its own.
//!
//! Until a connection has shown who it is, it is a stranger. Ports are open to whoever reaches them, so there is room
//! for only so many strangers at a time; when another one comes, the one that has been silent for longest has to
//! leave. Our own programs say at once who they are, so a crowd of strangers neither keeps them out nor uses up
//! this process's threads and descriptors.

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail};
use bytes::Bytes;

use crate::frame::FrameReader;
use crate::net;
use crate::opening::OPENING_TIME;

/// How many connections that have not shown who they are may be open at once.
pub const MOST_STRANGERS: usize = 100;

/// A connection that has come in.
#[derive(Debug)]
pub struct Visitor {
    /// The connection.
    pub stream: TcpStream,
    /// Where it comes from.
    pub peer: String,
    ticket: Ticket,
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
    let serve = Arc::new(serve);
    let strangers = Arc::new(Strangers::default());
    let accept = move || -> io::Error {
        loop {
            let (stream, peer) = match net::accept(&listener) {
                Ok(accepted) => accepted,
                Err(error) => return error,
            };
            let peer = peer.to_string();
            let entered = strangers.enter(&stream).and_then(|ticket| {
                let visitor = Visitor { stream, peer: peer.clone(), ticket };
                let serve = Arc::clone(&serve);
                std::thread::Builder::new().name(name.to_owned()).spawn(move || serve(visitor))
            });
            if let Err(error) = entered {
                crate::say!(
                    "{name} port: turned {peer} away, since this process is short of something: {error}"
                );
            }
        }
    };
    std::thread::Builder::new()
        .name(format!("{name} port"))
        .spawn(move || broken(accept()))
        .with_context(|| format!("starting a thread for {name}"))?;
    Ok(())
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

    /// It has shown who it is, and may stay.
    pub fn admit(&self) {
        self.ticket.give_back();
    }
}

/// Connections that have not shown who they are, in the order they came.
#[derive(Debug, Default)]
struct Strangers(Mutex<Crowd>);

#[derive(Debug, Default)]
struct Crowd {
    came: u64,
    here: BTreeMap<u64, TcpStream>,
}

/// A stranger's place.
#[derive(Debug)]
struct Ticket {
    number: u64,
    strangers: Arc<Strangers>,
}

impl Strangers {
    fn enter(self: &Arc<Self>, stream: &TcpStream) -> io::Result<Ticket> {
        let stream = stream.try_clone()?;
        let mut crowd = self.crowd();
        if crowd.here.len() == MOST_STRANGERS
            && let Some((_, silent)) = crowd.here.pop_first()
        {
            // Its thread sees the end; that it has left already is as good.
            let _ = silent.shutdown(Shutdown::Both);
        }
        crowd.came += 1;
        let number = crowd.came;
        crowd.here.insert(number, stream);
        Ok(Ticket { number, strangers: Arc::clone(self) })
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
                frame::write(&visitor.stream, b"welcome").unwrap();
                // Admitted, so that it stays, whoever else comes.
                let _ = (&visitor.stream).read(&mut [0; 1]);
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
