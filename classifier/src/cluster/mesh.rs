//! The data connections between the processes of a cluster: one for each pair.

use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use wire::door::{self, Visitor};
use wire::frame::FrameReader;
use wire::net;
use wire::opening::{self, DataOpening, OPENING_LIMIT, OPENING_TIME, Refusal};
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
    let due = Due { token: token.cloned(), generation, me, processes: members.len() };
    let serve = move |visitor: Visitor| {
        // A connection after the mesh stands is refused like any stranger's.
        let outcome = due.open(&visitor).and_then(|process| {
            let Some(process) = process else { return Ok(()) };
            let stream = visitor.stream.try_clone().context("splitting a connection")?;
            incoming.send((process, stream)).ok().context("the mesh stands already")?;
            opening::send_json(&visitor.stream, &Accepted { accepted: true })
        });
        if let Err(reason) = outcome {
            wire::say!("classifier: refused {} at the data port: {reason:#}", visitor.peer);
            opening::refuse(&visitor.stream, &Refusal::from(&reason));
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
    processes: usize,
}

impl Due {
    /// Checks who connects; gives its place in the member list, or `None` if it left without a word.
    fn open(&self, visitor: &Visitor) -> anyhow::Result<Option<usize>> {
        let Some((first, _)) = visitor.first_frame(OPENING_LIMIT)? else { return Ok(None) };
        let DataOpening { generation, process } = opening::check(&first, self.token.as_ref())?;
        ensure!(generation == self.generation, "it belongs to generation {generation}");
        ensure!(process > self.me && process < self.processes, "no connection is due from it");
        visitor.admit();
        Ok(Some(process))
    }
}
