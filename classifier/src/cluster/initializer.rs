//! The process that others join.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use wire::door::{self, Visitor};
use wire::opening::{self, ControlMessage, ControlOpening, Member, OPENING_LIMIT, Refusal};
use wire::token::Token;

use super::{Formation, Leaving, Peer, Settings, keep_in_touch, message};

/// How long the members have to read that they are to stop.
const FAREWELL: Duration = Duration::from_millis(300);

/// A cluster whose processes have joined.
pub struct Gathered {
    /// The cluster.
    pub formation: Formation,
    peers: Vec<Peer>,
    knocks: Receiver<Knock>,
    patience: Duration,
}

/// Somebody at the control port who has shown the token.
struct Knock {
    opening: ControlOpening,
    peer: Peer,
}

impl Gathered {
    /// Waits at the control port until all processes have joined, and tells them of each other.
    ///
    /// # Errors
    /// Not all processes in time, or somebody asks to shut down.
    pub fn gather(settings: &Settings, listener: TcpListener) -> anyhow::Result<Self> {
        let (knocking, knocks) = channel();
        let token = settings.token.clone();
        let serve = move |visitor: Visitor| match open(&visitor, token.as_ref()) {
            // When nobody opens any more, the process is ending.
            Ok(Some(knock)) => drop(knocking.send(knock)),
            Ok(None) => {}
            Err(reason) => {
                wire::say!("classifier: refused {} at the control port: {reason:#}", visitor.peer);
                opening::refuse(&visitor.stream, &Refusal { refused: format!("{reason:#}") });
            }
        };
        let broken = |error| crate::fail(format_args!("accepting control connections: {error}"));
        door::open("control", listener, serve, broken)?;
        let deadline = Instant::now() + settings.patience;
        let mut members = vec![settings.me.clone()];
        let mut peers = Vec::new();
        while members.len() < settings.processes {
            let left = deadline.saturating_duration_since(Instant::now());
            let Knock { opening, peer } = match knocks.recv_timeout(left) {
                Ok(knock) => knock,
                Err(RecvTimeoutError::Disconnected) => bail!("the control port is closed"),
                Err(RecvTimeoutError::Timeout) => {
                    let here: Vec<_> = members.iter().map(|m| m.name.as_str()).collect();
                    bail!(
                        "waiting for {} processes to join: after {:?} there are {}: {}",
                        settings.processes,
                        settings.patience,
                        here.len(),
                        here.join(", ")
                    );
                }
            };
            let ControlOpening::Join(member) = opening else { bail!("the cluster was asked to shut down") };
            // One that has died since it joined makes room for its successor, which may have the same name.
            while let Some(gone) = peers.iter().position(Peer::has_left) {
                wire::say!("classifier: {} has left before the cluster was complete", peers[gone].name);
                peers.remove(gone);
                members.remove(gone + 1);
            }
            match fits(&member, &members) {
                Ok(()) => {
                    members.push(member);
                    peers.push(peer);
                }
                Err(reason) => refuse(&peer, &format!("{reason:#}")),
            }
        }
        let generation = generation()?;
        for (process, peer) in (1..).zip(&peers) {
            let members = as_seen_from(peer, &members, &peers)?;
            opening::send_json(&peer.stream, &ControlMessage::Form { generation, process, members })
                .with_context(|| format!("telling {} to form the cluster", peer.name))?;
        }
        let formation = Formation { generation, process: 0, members };
        Ok(Self { formation, peers, knocks, patience: settings.patience })
    }

    /// Waits until all processes have formed, and starts them.
    ///
    /// # Errors
    /// When one of them does not form.
    pub fn start(self, leaving: &Leaving) -> anyhow::Result<()> {
        let Self { mut peers, knocks, patience, .. } = self;
        for peer in &mut peers {
            let said = message(&mut peer.reader, patience)
                .with_context(|| format!("waiting for {} to form", peer.name))?;
            ensure!(said == ControlMessage::Formed, "{} said {said:?} instead of formed", peer.name);
        }
        let mut streams = Vec::new();
        for peer in peers {
            opening::send_json(&peer.stream, &ControlMessage::Start)
                .with_context(|| format!("starting {}", peer.name))?;
            streams.push(peer.stream.try_clone().context("splitting a control connection")?);
            keep_in_touch(peer, leaving)?;
        }
        std::thread::Builder::new()
            .name("porter".into())
            .spawn(move || keep_the_door(&knocks, &streams))
            .context("starting a thread")?;
        Ok(())
    }
}

/// Clusters have growing generations, also over restarts of the initializer.
fn generation() -> anyhow::Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("this machine's clock is before 1970")?;
    u64::try_from(now.as_millis()).context("this machine's clock is far in the future")
}

/// What a visitor at the control port wants; `None` if it left without a word.
fn open(visitor: &Visitor, token: Option<&Token>) -> anyhow::Result<Option<Knock>> {
    let Some((first, reader)) = visitor.first_frame(OPENING_LIMIT)? else { return Ok(None) };
    let opening = opening::check::<ControlOpening>(&first, token)?;
    visitor.admit();
    let name = match &opening {
        ControlOpening::Join(member) => format!("classifier {} at {}", member.name, visitor.peer),
        ControlOpening::Shutdown {} => visitor.peer.clone(),
    };
    let stream = visitor.stream.try_clone().context("splitting a connection")?;
    Ok(Some(Knock { opening, peer: Peer { name, stream, reader } }))
}

/// Whether a process may be a member beside these.
fn fits(new: &Member, members: &[Member]) -> anyhow::Result<()> {
    let first = &members[0];
    ensure!(new.build == first.build, "it is another build: {} and not {}", new.build, first.build);
    ensure!(
        new.settings == first.settings,
        "its settings are {}, and here they are {}",
        new.settings,
        first.settings
    );
    ensure!(
        new.workers == first.workers,
        "it has {} workers, and here are {}; all processes must have the same number",
        new.workers,
        first.workers
    );
    ensure!(new.data.parse::<SocketAddr>().is_ok(), "{:?} is not a data address", new.data);
    ensure!(members.iter().all(|m| m.name != new.name), "there is a process named {} already", new.name);
    Ok(())
}

/// The members as another one can reach them: who listens at all addresses of its host is reached at the one that
/// its control connection comes from, and the initializer at the one that this connection goes to.
fn as_seen_from(peer: &Peer, members: &[Member], peers: &[Peer]) -> anyhow::Result<Vec<Member>> {
    let mut members = members.to_vec();
    for (i, member) in members.iter_mut().enumerate() {
        let data: SocketAddr = member.data.parse().context("understanding a data address")?;
        if data.ip().is_unspecified() {
            let seen = match i {
                0 => peer.stream.local_addr(),
                _ => peers[i - 1].stream.peer_addr(),
            };
            let ip = seen.with_context(|| format!("asking for the address of {}", member.name))?.ip();
            member.data = SocketAddr::new(ip, data.port()).to_string();
        }
    }
    Ok(members)
}

fn refuse(peer: &Peer, reason: &str) {
    wire::say!("classifier: refused {}: {reason}", peer.name);
    opening::refuse(&peer.stream, &Refusal { refused: reason.to_owned() });
}

/// After the start: nobody joins any more; who asks for a shutdown gets it.
fn keep_the_door(knocks: &Receiver<Knock>, members: &[TcpStream]) {
    while let Ok(Knock { opening, peer }) = knocks.recv() {
        match opening {
            ControlOpening::Join(_) => refuse(&peer, "the cluster is complete, and at work"),
            ControlOpening::Shutdown {} => {
                wire::say!("classifier: {} asked the cluster to shut down", peer.name);
                for member in members {
                    // One that is gone need not be told.
                    let _ = opening::send_json(member, &ControlMessage::Shutdown);
                }
                // They should leave because they were told, not because this process is gone.
                std::thread::sleep(FAREWELL);
                std::process::exit(1);
            }
        }
    }
}
