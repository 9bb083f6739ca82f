//! The data connections between the processes of a cluster, one per pair.

use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use net::acceptor::{self, Connection};
use parking_lot::Mutex;
use protocol::Temporary;
use protocol::frame::FrameReader;
use protocol::handshake::{self, DataHello, HANDSHAKE_LIMIT, HANDSHAKE_TIME};
use protocol::token::Token;

use super::Formation;

/// The answer to an accepted data handshake.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Accepted {
    accepted: bool,
}

/// Connects to the processes before this one in the member list, and accepts connections from those after it. Refuses all
/// other peers.
///
/// # Errors
/// When a connection is not made within `patience`; names the process. Always [`Temporary`].
pub fn connect(
    listener: TcpListener,
    formation: &Formation,
    token: Option<&Token>,
    patience: Duration,
) -> anyhow::Result<Vec<Option<TcpStream>>> {
    connect_all(listener, formation, token, patience).context(Temporary("forming the cluster"))
}

fn connect_all(
    listener: TcpListener,
    formation: &Formation,
    token: Option<&Token>,
    patience: Duration,
) -> anyhow::Result<Vec<Option<TcpStream>>> {
    let deadline = Instant::now() + patience;
    let Formation { generation, process: me, ref members } = *formation;
    let mut sockets: Vec<_> = members.iter().map(|_| None).collect();
    let (incoming, accepted) = channel();
    let expected =
        Expected { token: token.cloned(), generation, me, connected: Mutex::new(vec![false; members.len()]) };
    let serve = move |connection: Connection| {
        // A connection that comes after the mesh is complete is refused like any other.
        let outcome = expected.open(&connection).and_then(|process| {
            let Some(process) = process else { return Ok(()) };
            let stream = connection.stream.try_clone().context("splitting a connection")?;
            incoming.send((process, stream)).ok().context("the mesh is complete already")?;
            handshake::send_json(&*connection.stream, &Accepted { accepted: true })
        });
        if let Err(reason) = outcome {
            connection.complain(format_args!("refused {} at the data port: {reason:#}", connection.peer));
            connection.refuse(&reason);
        }
    };
    let broken = |error| crate::fail(format_args!("accepting data connections: {error}"));
    acceptor::open("data", listener, serve, broken)?;
    for (process, member) in members.iter().enumerate().take(me) {
        let left = deadline.saturating_duration_since(Instant::now());
        let what = format!("classifier {}", member.name);
        let stream = net::connect(&what, &member.data, left)?;
        handshake::send(&stream, token, &DataHello { generation, process: me })
            .with_context(|| format!("opening a data connection to {what}"))?;
        let peer = format!("{what} at {}", member.data);
        let mut reader =
            FrameReader::new(stream.try_clone().context("splitting a connection")?, peer, HANDSHAKE_LIMIT);
        // The peer sends data only after the start, so the reader has buffered none.
        let _: Accepted = handshake::await_answer(&mut reader, HANDSHAKE_TIME)?;
        sockets[process] = Some(stream);
    }
    while let Some(missing) = (me + 1..members.len()).find(|&process| sockets[process].is_none()) {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok((process, stream)) = accepted.recv_timeout(left) else {
            bail!(
                "waiting for the data connection of classifier {}: nothing within {patience:?}",
                members[missing].name
            );
        };
        sockets[process] = Some(stream);
    }
    Ok(sockets)
}

/// Which processes must connect to this one.
struct Expected {
    token: Option<Token>,
    generation: u64,
    me: usize,
    /// Whether each process of the member list is connected.
    connected: Mutex<Vec<bool>>,
}

impl Expected {
    /// Checks a peer's handshake; returns its index in the member list, or `None` if it left without one.
    fn open(&self, connection: &Connection) -> anyhow::Result<Option<usize>> {
        let Some((first, _)) = connection.first_frame(HANDSHAKE_LIMIT)? else { return Ok(None) };
        let DataHello { generation, process } = handshake::check(&first, self.token.as_ref())?;
        ensure!(generation == self.generation, "it belongs to generation {generation}");
        let mut connected = self.connected.lock();
        ensure!(process > self.me && process < connected.len(), "no connection is due from it");
        ensure!(!std::mem::replace(&mut connected[process], true), "process {process} is connected already");
        connection.admit();
        Ok(Some(process))
    }
}
