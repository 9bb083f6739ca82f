//! The data connections between the processes of a cluster: one for each pair.

use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use wire::door::{self, Visitor};
use wire::frame::FrameReader;
use wire::net;
use wire::opening::{self, DataOpening, OPENING_LIMIT, OPENING_TIME};
use wire::program::Temporary;
use wire::token::Token;

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
    let serve = move |visitor: Visitor| {
        // A connection after the mesh stands is refused like any stranger's.
        let outcome = due.open(&visitor).and_then(|process| {
            let Some(process) = process else { return Ok(()) };
            let stream = visitor.stream.try_clone().context("splitting a connection")?;
            incoming.send((process, stream)).ok().context("the mesh stands already")?;
            opening::send_json(&*visitor.stream, &Accepted { accepted: true })
        });
        if let Err(reason) = outcome {
            visitor
                .complain(format_args!("classifier: refused {} at the data port: {reason:#}", visitor.peer));
            visitor.refuse(&reason);
        }
    };
    let broken = |error| crate::fail(format_args!("accepting data connections: {error}"));
    door::open("data", listener, serve, broken)?;
    for (process, member) in members.iter().enumerate().take(me) {
        let left = deadline.saturating_duration_since(Instant::now());
        let what = format!("classifier {}", member.name);
        let stream = net::connect(&what, &member.data, left)?;
        opening::send(&stream, token, &DataOpening { generation, process: me })
            .with_context(|| format!("opening a data connection to {what}"))?;
        let peer = format!("{what} at {}", member.data);
        let mut reader =
            FrameReader::new(stream.try_clone().context("splitting a connection")?, peer, OPENING_LIMIT);
        // Data follows only after the start, so the reader takes nothing of it.
        let _: Accepted = opening::await_answer(&mut reader, OPENING_TIME)?;
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
    fn open(&self, visitor: &Visitor) -> anyhow::Result<Option<usize>> {
        let Some((first, _)) = visitor.first_frame(OPENING_LIMIT)? else { return Ok(None) };
        let DataOpening { generation, process } = opening::check(&first, self.token.as_ref())?;
        ensure!(generation == self.generation, "it belongs to generation {generation}");
        let mut here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(process > self.me && process < here.len(), "no connection is due from it");
        ensure!(!std::mem::replace(&mut here[process], true), "process {process} is connected already");
        visitor.admit();
        Ok(Some(process))
    }
}
