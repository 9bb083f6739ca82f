//! The data connections between the processes of a cluster: one for each pair.

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

/// The answer to a data opening that is accepted.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Accepted {
    accepted: bool,
}

/// Connects to the processes before this one and takes the connections of those behind it. Connections of
/// anybody else are refused, and disturb nothing.
///
/// # Errors
/// When a connection does not stand within `patience`; names the process. Another generation may do better.
pub fn connect(
    listener: TcpListener,
    formation: &Formation,
    token: Option<&Token>,
    patience: Duration,
) -> anyhow::Result<Vec<Option<TcpStream>>> {
    make(listener, formation, token, patience).context(Temporary("forming the cluster"))
}

fn make(
    listener: TcpListener,
    formation: &Formation,
    token: Option<&Token>,
    patience: Duration,
) -> anyhow::Result<Vec<Option<TcpStream>>> {
    let deadline = Instant::now() + patience;
    let Formation { generation, process: me, ref members } = *formation;
    let mut sockets: Vec<_> = members.iter().map(|_| None).collect();
    let (incoming, accepted) = channel();
    let due = Due { token: token.cloned(), generation, me, here: Mutex::new(vec![false; members.len()]) };
    let serve = move |connection: Connection| {
        // A connection after the mesh stands is refused like any stranger's.
        let outcome = due.open(&connection).and_then(|process| {
            let Some(process) = process else { return Ok(()) };
            let stream = connection.stream.try_clone().context("splitting a connection")?;
            incoming.send((process, stream)).ok().context("the mesh stands already")?;
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
        // Data follows only after the start, so the reader takes nothing of it.
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

/// Whose data connections are due.
struct Due {
    token: Option<Token>,
    generation: u64,
    me: usize,
    /// Whose connections have come, by their place in the member list.
    here: Mutex<Vec<bool>>,
}

impl Due {
    /// Checks who connects; gives its place in the member list, or `None` if it left without a word.
    fn open(&self, connection: &Connection) -> anyhow::Result<Option<usize>> {
        let Some((first, _)) = connection.first_frame(HANDSHAKE_LIMIT)? else { return Ok(None) };
        let DataHello { generation, process } = handshake::check(&first, self.token.as_ref())?;
        ensure!(generation == self.generation, "it belongs to generation {generation}");
        let mut here = self.here.lock();
        ensure!(process > self.me && process < here.len(), "no connection is due from it");
        ensure!(!std::mem::replace(&mut here[process], true), "process {process} is connected already");
        connection.admit();
        Ok(Some(process))
    }
}
