//! The data connections between the processes of a cluster: one for each pair.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use wire::frame::FrameReader;
use wire::net;
use wire::opening::{self, DataOpening, OPENING_LIMIT, OPENING_TIME, Refusal};
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
/// When a connection does not stand within `patience`; names the process.
pub fn connect(
    listener: TcpListener,
    formation: &Formation,
    token: Option<&Token>,
    patience: Duration,
) -> anyhow::Result<Vec<Option<TcpStream>>> {
    let deadline = Instant::now() + patience;
    let Formation { generation, process: me, ref members } = *formation;
    let mut sockets: Vec<_> = members.iter().map(|_| None).collect();
    let (incoming, accepted) = channel();
    let context = Arc::new((token.cloned(), generation, me, members.len()));
    std::thread::Builder::new()
        .name("data port".into())
        .spawn(move || {
            // Ends with the process; a connection after the mesh stands is refused like any stranger's.
            while let Ok((stream, peer)) = net::accept(&listener) {
                let (incoming, context) = (incoming.clone(), Arc::clone(&context));
                std::thread::spawn(move || {
                    let (token, generation, me, processes) = &*context;
                    let outcome =
                        open(&stream, &peer.to_string(), token.as_ref(), *generation, *me, *processes);
                    let outcome = outcome.and_then(|process| {
                        incoming
                            .send((process, stream.try_clone()?))
                            .ok()
                            .context("the mesh stands already")?;
                        opening::send_json(&stream, &Accepted { accepted: true })
                    });
                    if let Err(reason) = outcome {
                        eprintln!("classifier: refused {peer} at the data port: {reason:#}");
                        opening::refuse(&stream, &Refusal { refused: format!("{reason:#}") });
                    }
                });
            }
        })
        .context("starting a thread")?;
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

/// Checks who connects; gives its place in the member list.
fn open(
    stream: &TcpStream,
    peer: &str,
    token: Option<&Token>,
    generation: u64,
    me: usize,
    processes: usize,
) -> anyhow::Result<usize> {
    let mut reader =
        FrameReader::new(stream.try_clone().context("splitting a connection")?, peer, OPENING_LIMIT);
    let first = reader.next_frame_within(OPENING_TIME)?.context("it left without a word")?;
    let opening = opening::check::<DataOpening>(&first, token)?;
    ensure!(opening.generation == generation, "it belongs to generation {}", opening.generation);
    ensure!(opening.process > me && opening.process < processes, "no connection is due from it");
    Ok(opening.process)
}
