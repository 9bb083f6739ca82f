//! The process that others join.

use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use wire::frame::FrameReader;
use wire::net;
use wire::opening::{self, ControlMessage, ControlOpening, Member, OPENING_LIMIT, OPENING_TIME, Refusal};
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
        std::thread::Builder::new()
            .name("control port".into())
            .spawn(move || accept(&listener, token.as_ref(), &knocking))
            .context("starting a thread")?;
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
            let members = as_seen_from(&peer.stream, &members)?;
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

fn accept(listener: &TcpListener, token: Option<&Token>, knocking: &Sender<Knock>) {
    loop {
        let (stream, peer) = match net::accept(listener) {
            Ok(accepted) => accepted,
            Err(error) => crate::fail(format_args!("accepting control connections: {error}")),
        };
        let (token, knocking) = (token.cloned(), knocking.clone());
        std::thread::spawn(move || {
            let name = peer.to_string();
            match open(&stream, &name, token.as_ref()) {
                Ok(knock) => {
                    // Nobody opens any more when the process is ending.
                    let _ = knocking.send(knock);
                }
                Err(reason) => {
                    eprintln!("classifier: refused {name} at the control port: {reason:#}");
                    opening::refuse(&stream, &Refusal { refused: format!("{reason:#}") });
                }
            }
        });
    }
}

fn open(stream: &TcpStream, name: &str, token: Option<&Token>) -> anyhow::Result<Knock> {
    let mut reader =
        FrameReader::new(stream.try_clone().context("splitting a connection")?, name, OPENING_LIMIT);
    let first = reader.next_frame_within(OPENING_TIME)?.context("it left without a word")?;
    let opening = opening::check::<ControlOpening>(&first, token)?;
    let name = match &opening {
        ControlOpening::Join(member) => format!("classifier {} at {name}", member.name),
        ControlOpening::Shutdown {} => name.to_owned(),
    };
    let stream = stream.try_clone().context("splitting a connection")?;
    Ok(Knock { opening, peer: Peer { name, stream, reader } })
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
    ensure!(members.iter().all(|m| m.name != new.name), "there is a process named {} already", new.name);
    Ok(())
}

/// The members as another host can reach them: who listens at all of its addresses is reached at the one
/// that the control connection uses.
fn as_seen_from(stream: &TcpStream, members: &[Member]) -> anyhow::Result<Vec<Member>> {
    let mut members = members.to_vec();
    let here = stream.local_addr().context("asking for an address")?.ip();
    if let Some(port) = members[0].data.strip_prefix("0.0.0.0:").or(members[0].data.strip_prefix("[::]:")) {
        members[0].data = std::net::SocketAddr::new(here, port.parse().context("a data port")?).to_string();
    }
    Ok(members)
}

fn refuse(peer: &Peer, reason: &str) {
    eprintln!("classifier: refused {}: {reason}", peer.name);
    opening::refuse(&peer.stream, &Refusal { refused: reason.to_owned() });
}

/// After the start: nobody joins any more; who asks for a shutdown gets it.
fn keep_the_door(knocks: &Receiver<Knock>, members: &[TcpStream]) {
    while let Ok(Knock { opening, peer }) = knocks.recv() {
        match opening {
            ControlOpening::Join(_) => refuse(&peer, "the cluster is complete, and at work"),
            ControlOpening::Shutdown {} => {
                eprintln!("classifier: {} asked the cluster to shut down", peer.name);
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
