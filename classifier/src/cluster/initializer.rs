//! The process that others join.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use net::acceptor::{self, Connection};
use protocol::Temporary;
use protocol::handshake::{self, ControlHello, ControlMessage, HANDSHAKE_LIMIT, Member, Refusal};
use protocol::token::Token;

use super::membership::{JoinId, Latecomers, Limit, Membership, Standing};
use super::{FOREVER, Formation, Leaving, Link, Settings, message};

/// How long the members have to read that they are to stop.
const FAREWELL: Duration = Duration::from_millis(300);

/// A cluster whose processes have joined.
pub struct Gathered {
    /// The cluster.
    pub formation: Formation,
    happening: Sender<Event>,
    /// Hears when all have formed.
    started: Receiver<()>,
}

/// What happens at the control port. Connections are those of processes that have shown the token.
enum Event {
    /// A process wants to be a member.
    Join(JoinId, Member, Link),
    /// Somebody wants the cluster to stop.
    Shutdown(String),
    /// This process has formed.
    Formed,
    /// A process says something.
    Said(JoinId, ControlMessage),
    /// A process is gone, and why.
    Left(JoinId, anyhow::Error),
}

impl Gathered {
    /// Waits at the control port until all processes have joined (or, if there was a cluster before, those that come back in time),
    /// has their generation's number given by `generation`, and tells them of each other. From then on, when one of them is lost before the work is done, this process leaves as well.
    ///
    /// # Errors
    /// Not all processes in time, or somebody asks to shut down.
    pub fn gather(
        settings: &Settings,
        listener: TcpListener,
        leaving: &Leaving,
        generation: impl FnOnce() -> anyhow::Result<u64>,
    ) -> anyhow::Result<Self> {
        let (happening, events) = channel();
        listen(listener, settings.token.clone(), happening.clone())?;
        let start = Instant::now();
        let limit = settings.rejoin.map_or(Limit::All(settings.patience), Limit::Back);
        let mut membership = Membership::new(settings.me.clone(), settings.processes, limit);
        let mut peers: Vec<(JoinId, Link)> = Vec::new();
        loop {
            let left = match membership.standing(start.elapsed()) {
                Standing::Complete => break,
                Standing::TooLate => bail!(
                    "waiting for {} processes to join: after {:?} there are {}",
                    settings.processes,
                    settings.patience,
                    list(&membership)
                ),
                Standing::Waiting(left) => left,
            };
            match events.recv_timeout(left) {
                Ok(Event::Join(id, member, link)) => match membership.join(id, member) {
                    Ok(()) => peers.push((id, link)),
                    Err(reason) => refuse(&link, &reason),
                },
                Ok(Event::Left(id, reason)) => {
                    if let Some(gone) = peers.iter().position(|(other, _)| *other == id) {
                        let (_, link) = peers.remove(gone);
                        membership.leave(id);
                        tracing::warn!("{} has left before the cluster was complete: {reason:#}", link.name);
                    }
                }
                Ok(Event::Said(..) | Event::Formed) => {}
                Ok(Event::Shutdown(_)) => bail!("the cluster was asked to shut down"),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the control port is closed"),
            }
        }
        let missing = membership.missing();
        if missing > 0 {
            tracing::warn!(
                "{missing} of {} processes are not back; the cluster goes on with {}",
                settings.processes,
                list(&membership)
            );
        }
        let members: Vec<_> = membership.members().cloned().collect();
        let formation = Formation { generation: generation()?, process: 0, members };
        tell(&formation, &peers).context(Temporary("forming the cluster"))?;
        let mut door = Door { peers, latecomers: Latecomers::new(missing), late: Vec::new() };
        let (starting, started) = channel();
        let (leaving, patience) = (leaving.clone(), settings.patience);
        let mind = move || {
            match door.form(&events, patience) {
                // If nobody waits for it, this process is ending.
                Ok(()) => drop(starting.send(())),
                Err(error) if error.is::<Temporary>() => crate::leave_generation(format_args!("{error:#}")),
                Err(error) => crate::fail(format_args!("{error:#}")),
            }
            door.keep(&events, &leaving);
        };
        std::thread::Builder::new().name("porter".into()).spawn(mind).context("starting a thread")?;
        Ok(Self { formation, happening, started })
    }

    /// Says that this process has formed, and waits until all have, and are started. One that does not form in time is the end
    /// of this process.
    ///
    /// # Errors
    /// When nobody minds the control port any more.
    pub fn start(self) -> anyhow::Result<()> {
        let formed = self.happening.send(Event::Formed).is_ok() && self.started.recv().is_ok();
        ensure!(formed, "nobody minds the control port any more");
        process::log::set_generation(self.formation.generation);
        tracing::info!("the generation begins");
        Ok(())
    }
}

/// Serves the control port.
fn listen(listener: TcpListener, token: Option<Token>, happening: Sender<Event>) -> anyhow::Result<()> {
    let count = AtomicU64::new(0);
    let serve = move |connection: Connection| {
        let id = count.fetch_add(1, Ordering::Relaxed);
        if let Err(reason) = handle(&connection, token.as_ref(), id, &happening) {
            connection.complain(format_args!("refused {} at the control port: {reason:#}", connection.peer));
            connection.refuse(&reason);
        }
    };
    let broken = |error| crate::fail(format_args!("accepting control connections: {error}"));
    acceptor::open("control", listener, serve, broken)
}

/// Handles one control connection, and reports what it says; a receiver that is gone means that this process is ending.
fn handle(
    connection: &Connection,
    token: Option<&Token>,
    id: JoinId,
    happening: &Sender<Event>,
) -> anyhow::Result<()> {
    let Some((first, mut reader)) = connection.first_frame(HANDSHAKE_LIMIT)? else { return Ok(()) };
    let hello = handshake::check::<ControlHello>(&first, token)?;
    connection.admit();
    let member = match hello {
        ControlHello::Join(member) => member,
        ControlHello::Shutdown {} => {
            let _ = happening.send(Event::Shutdown(connection.peer.clone()));
            return Ok(());
        }
    };
    let link = Link::new(format!("classifier {} at {}", member.name, connection.peer), &connection.stream)?;
    let _ = happening.send(Event::Join(id, member, link));
    let reason = loop {
        match message(&mut reader, FOREVER) {
            Ok(said) => drop(happening.send(Event::Said(id, said))),
            Err(reason) => break reason,
        }
    };
    let _ = happening.send(Event::Left(id, reason));
    Ok(())
}

/// The control port after the cluster has been gathered.
struct Door {
    peers: Vec<(JoinId, Link)>,
    latecomers: Latecomers,
    late: Vec<(JoinId, Link)>,
}

impl Door {
    /// Waits until this process and all others have formed, and starts them.
    ///
    /// # Errors
    /// When one of them is lost, or does not form in time.
    fn form(&mut self, events: &Receiver<Event>, patience: Duration) -> anyhow::Result<()> {
        let mut forming: BTreeSet<_> = self.peers.iter().map(|(id, _)| *id).collect();
        // What this process waits for until then has its own deadlines.
        let mut deadline = None;
        while deadline.is_none() || !forming.is_empty() {
            let left = deadline.map_or(FOREVER, |at: Instant| at.saturating_duration_since(Instant::now()));
            match events.recv_timeout(left) {
                Ok(Event::Formed) => deadline = Some(Instant::now() + patience),
                Ok(Event::Said(id, ControlMessage::Formed)) => {
                    forming.remove(&id);
                }
                Ok(event) => self.mind(event).context(Temporary("forming the cluster"))?,
                Err(_) => {
                    let names = self.peers.iter().filter(|(id, _)| forming.contains(id));
                    let names: Vec<_> = names.map(|(_, link)| link.name.as_str()).collect();
                    bail!("waiting for {} to form: not within {patience:?}", names.join(", "));
                }
            }
        }
        for (_, link) in &self.peers {
            let started = link.send(&ControlMessage::Start);
            started
                .with_context(|| format!("starting {}", link.name))
                .context(Temporary("forming the cluster"))?;
        }
        Ok(())
    }

    /// Takes notice of something.
    ///
    /// # Errors
    /// Something after which the generation cannot go on.
    fn mind(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Join(id, _, link) => match self.latecomers.come(id) {
                Ok(()) => {
                    tracing::info!("{} waits for the next generation", link.name);
                    self.late.push((id, link));
                }
                Err(reason) => refuse(&link, &reason),
            },
            Event::Left(id, reason) => {
                self.latecomers.leave(id);
                self.late.retain(|(other, _)| *other != id);
                if let Some(name) = self.name(id) {
                    return Err(reason.context(name.to_owned()));
                }
            }
            Event::Said(id, said) => {
                if let Some(name) = self.name(id) {
                    bail!("{name}: an unexpected message: {said:?}");
                }
            }
            Event::Formed => {}
            Event::Shutdown(peer) => {
                tracing::info!("{peer} asked the cluster to shut down");
                for (_, link) in self.peers.iter().chain(&self.late) {
                    // One that is gone need not be told.
                    let _ = link.send(&ControlMessage::Shutdown);
                }
                // They should leave because they were told, not because this process is gone.
                std::thread::sleep(FAREWELL);
                std::process::exit(1);
            }
        }
        Ok(())
    }

    fn name(&self, id: JoinId) -> Option<&str> {
        self.peers.iter().find(|(other, _)| *other == id).map(|(_, link)| link.name.as_str())
    }

    /// Minds the port while the generation is at work.
    fn keep(&mut self, events: &Receiver<Event>, leaving: &Leaving) {
        let born = Instant::now();
        loop {
            let patience = self.latecomers.patience(born.elapsed()).unwrap_or(FOREVER);
            let outcome = match events.recv_timeout(patience) {
                Ok(event) => self.mind(event),
                Err(RecvTimeoutError::Timeout) => {
                    let names: Vec<_> = self.late.iter().map(|(_, link)| link.name.as_str()).collect();
                    Err(anyhow!("makes way for a generation with {}", names.join(", ")))
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            match outcome {
                Err(reason) if !leaving.is_leaving() => {
                    crate::leave_generation(format_args!("{reason:#}"));
                }
                _ => {}
            }
        }
    }
}

/// Tells the processes of each other.
fn tell(formation: &Formation, peers: &[(JoinId, Link)]) -> anyhow::Result<()> {
    for (process, (_, link)) in (1..).zip(peers) {
        let members = as_seen_from(link, &formation.members, peers)?;
        link.send(&ControlMessage::Form { generation: formation.generation, process, members })
            .with_context(|| format!("telling {} to form the cluster", link.name))?;
    }
    Ok(())
}

fn list(membership: &Membership) -> String {
    let names: Vec<_> = membership.members().map(|member| member.name.as_str()).collect();
    format!("{}: {}", names.len(), names.join(", "))
}

fn refuse(link: &Link, reason: &anyhow::Error) {
    tracing::warn!("refused {}: {reason:#}", link.name);
    handshake::refuse(&link.stream(), &Refusal::from(reason));
}

/// The members as another one can reach them: who listens at all addresses of its host is reached at the one that
/// its control connection comes from, and the initializer at the one that this connection goes to.
fn as_seen_from(peer: &Link, members: &[Member], peers: &[(JoinId, Link)]) -> anyhow::Result<Vec<Member>> {
    let mut members = members.to_vec();
    for (i, member) in members.iter_mut().enumerate() {
        let data: SocketAddr = member.data.parse().context("understanding a data address")?;
        if data.ip().is_unspecified() {
            let seen = match i {
                0 => peer.stream().local_addr(),
                _ => peers[i - 1].1.stream().peer_addr(),
            };
            let ip = seen.with_context(|| format!("asking for the address of {}", member.name))?.ip();
            member.data = SocketAddr::new(ip, data.port()).to_string();
        }
    }
    Ok(members)
}
