//! The process that others join.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use wire::door::{self, Visitor};
use wire::opening::{self, ControlMessage, ControlOpening, Member, OPENING_LIMIT, Refusal};
use wire::program::Temporary;
use wire::token::Token;

use super::membership::{Connection, Latecomers, Limit, Membership, Standing};
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
    Join(Connection, Member, Link),
    /// Somebody wants the cluster to stop.
    Shutdown(String),
    /// This process has formed.
    Formed,
    /// A process says something.
    Said(Connection, ControlMessage),
    /// A process is gone, and why.
    Left(Connection, anyhow::Error),
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
        let mut peers: Vec<(Connection, Link)> = Vec::new();
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
                Ok(Event::Join(connection, member, link)) => match membership.join(connection, member) {
                    Ok(()) => peers.push((connection, link)),
                    Err(reason) => refuse(&link, &reason),
                },
                Ok(Event::Left(connection, reason)) => {
                    if let Some(gone) = peers.iter().position(|(other, _)| *other == connection) {
                        let (_, link) = peers.remove(gone);
                        membership.leave(connection);
                        wire::say!(
                            "classifier: {} has left before the cluster was complete: {reason:#}",
                            link.name
                        );
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
            wire::say!(
                "classifier: {missing} of {} processes are not back; the cluster goes on with {}",
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
        wire::say!("classifier: generation {} begins", self.formation.generation);
        Ok(())
    }
}

/// Serves the control port.
fn listen(listener: TcpListener, token: Option<Token>, happening: Sender<Event>) -> anyhow::Result<()> {
    let count = AtomicU64::new(0);
    let serve = move |visitor: Visitor| {
        let connection = count.fetch_add(1, Ordering::Relaxed);
        if let Err(reason) = hear(&visitor, token.as_ref(), connection, &happening) {
            visitor.complain(format_args!(
                "classifier: refused {} at the control port: {reason:#}",
                visitor.peer
            ));
            visitor.refuse(&reason);
        }
    };
    let broken = |error| crate::fail(format_args!("accepting control connections: {error}"));
    door::open("control", listener, serve, broken)
}

/// Hears a visitor out. Where nobody wants to know it any more, this process is ending.
fn hear(
    visitor: &Visitor,
    token: Option<&Token>,
    connection: Connection,
    happening: &Sender<Event>,
) -> anyhow::Result<()> {
    let Some((first, mut reader)) = visitor.first_frame(OPENING_LIMIT)? else { return Ok(()) };
    let opening = opening::check::<ControlOpening>(&first, token)?;
    visitor.admit();
    let member = match opening {
        ControlOpening::Join(member) => member,
        ControlOpening::Shutdown {} => {
            let _ = happening.send(Event::Shutdown(visitor.peer.clone()));
            return Ok(());
        }
    };
    let link = Link::new(format!("classifier {} at {}", member.name, visitor.peer), &visitor.stream)?;
    let _ = happening.send(Event::Join(connection, member, link));
    let reason = loop {
        match message(&mut reader, FOREVER) {
            Ok(said) => drop(happening.send(Event::Said(connection, said))),
            Err(reason) => break reason,
        }
    };
    let _ = happening.send(Event::Left(connection, reason));
    Ok(())
}

/// The control port after the cluster has been gathered.
struct Door {
    peers: Vec<(Connection, Link)>,
    latecomers: Latecomers,
    late: Vec<(Connection, Link)>,
}

impl Door {
    /// Waits until this process and all others have formed, and starts them.
    ///
    /// # Errors
    /// When one of them is lost, or does not form in time.
    fn form(&mut self, events: &Receiver<Event>, patience: Duration) -> anyhow::Result<()> {
        let mut forming: BTreeSet<_> = self.peers.iter().map(|(connection, _)| *connection).collect();
        // What this process waits for until then has its own deadlines.
        let mut deadline = None;
        while deadline.is_none() || !forming.is_empty() {
            let left = deadline.map_or(FOREVER, |at: Instant| at.saturating_duration_since(Instant::now()));
            match events.recv_timeout(left) {
                Ok(Event::Formed) => deadline = Some(Instant::now() + patience),
                Ok(Event::Said(connection, ControlMessage::Formed)) => {
                    forming.remove(&connection);
                }
                Ok(event) => self.mind(event).context(Temporary("forming the cluster"))?,
                Err(_) => {
                    let names = self.peers.iter().filter(|(connection, _)| forming.contains(connection));
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
            Event::Join(connection, _, link) => match self.latecomers.come(connection) {
                Ok(()) => {
                    wire::say!("classifier: {} waits for the next generation", link.name);
                    self.late.push((connection, link));
                }
                Err(reason) => refuse(&link, &reason),
            },
            Event::Left(connection, reason) => {
                self.latecomers.leave(connection);
                self.late.retain(|(other, _)| *other != connection);
                if let Some(name) = self.name(connection) {
                    return Err(reason.context(name.to_owned()));
                }
            }
            Event::Said(connection, said) => {
                if let Some(name) = self.name(connection) {
                    bail!("{name}: an unexpected message: {said:?}");
                }
            }
            Event::Formed => {}
            Event::Shutdown(peer) => {
                wire::say!("classifier: {peer} asked the cluster to shut down");
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

    fn name(&self, connection: Connection) -> Option<&str> {
        self.peers.iter().find(|(other, _)| *other == connection).map(|(_, link)| link.name.as_str())
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
fn tell(formation: &Formation, peers: &[(Connection, Link)]) -> anyhow::Result<()> {
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
    wire::say!("classifier: refused {}: {reason:#}", link.name);
    opening::refuse(&link.stream(), &Refusal::from(reason));
}

/// The members as another one can reach them: who listens at all addresses of its host is reached at the one that
/// its control connection comes from, and the initializer at the one that this connection goes to.
fn as_seen_from(
    peer: &Link,
    members: &[Member],
    peers: &[(Connection, Link)],
) -> anyhow::Result<Vec<Member>> {
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
