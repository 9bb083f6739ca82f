//! The initializer: the control port around the [`Coordinator`].

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use net::acceptor::{self, Connection};
use protocol::handshake::{self, ControlHello, ControlMessage, HANDSHAKE_LIMIT};
use protocol::token::Token;

use super::coordinator::{Action, Candidate, Coordinator, Event};
use super::link::Link;
use super::membership::{JoinId, Limit};
use super::{Formation, Leaving, Settings};

/// How long the members have to read a shutdown message, so that they end because of it and not because this process is gone.
const SHUTDOWN_PAUSE: Duration = Duration::from_millis(300);

/// An open control port. When the generation ends, the port's thread ends this process.
pub struct ControlPort {
    events: Sender<Input>,
    progress: Receiver<Progress>,
}

/// Messages to the port's thread.
enum Input {
    Event(Event),
    Join(JoinId, Candidate, Arc<Link>),
}

/// Messages from the port's thread to the methods of [`ControlPort`].
#[derive(Debug)]
enum Progress {
    Gathered,
    Formed(Formation),
    Started,
}

impl ControlPort {
    /// Serves the port.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn open(settings: &Settings, listener: TcpListener, leaving: Leaving) -> anyhow::Result<Self> {
        let (events, inputs) = channel();
        listen(listener, settings.token.clone(), events.clone())?;
        let limit = settings.rejoin.map_or(Limit::All(settings.patience), Limit::Back);
        let coordinator = Coordinator::new(settings.me.clone(), settings.processes, limit, settings.patience);
        let (report, progress) = channel();
        let driver = Driver {
            coordinator,
            links: BTreeMap::new(),
            began: Instant::now(),
            report,
            leaving,
            is_shutting_down: false,
        };
        let run = move || driver.run(&inputs);
        std::thread::Builder::new().name("control".into()).spawn(run).context("starting a thread")?;
        Ok(Self { events, progress })
    }

    /// Waits until all members have joined or, if there was a cluster before, those that come back in time.
    ///
    /// # Errors
    /// When the port's thread has ended.
    pub fn gather(&self) -> anyhow::Result<()> {
        match self.next()? {
            Progress::Gathered => Ok(()),
            other => bail!("waiting for the members to join: the control port reported {other:?}"),
        }
    }

    /// Sends the members their list, as the generation of this number. From now on, losing a member before the work is done
    /// ends this process.
    ///
    /// # Errors
    /// When the port's thread has ended.
    pub fn form(&self, generation: u64) -> anyhow::Result<Formation> {
        self.send(Event::Numbered(generation))?;
        match self.next()? {
            Progress::Formed(formation) => Ok(formation),
            other => bail!("forming generation {generation}: the control port reported {other:?}"),
        }
    }

    /// Reports that this process has formed, and waits until all members have formed and are started.
    ///
    /// # Errors
    /// When the port's thread has ended.
    pub fn start(&self) -> anyhow::Result<()> {
        self.send(Event::Formed)?;
        match self.next()? {
            Progress::Started => Ok(()),
            other => bail!("starting the dataflow: the control port reported {other:?}"),
        }
    }

    fn send(&self, event: Event) -> anyhow::Result<()> {
        self.events.send(Input::Event(event)).ok().context("the control port's thread has ended")
    }

    fn next(&self) -> anyhow::Result<Progress> {
        self.progress.recv().context("the control port's thread has ended")
    }
}

/// Feeds the coordinator, and executes its actions.
struct Driver {
    coordinator: Coordinator,
    links: BTreeMap<JoinId, Arc<Link>>,
    began: Instant,
    report: Sender<Progress>,
    leaving: Leaving,
    is_shutting_down: bool,
}

impl Driver {
    fn run(mut self, inputs: &Receiver<Input>) {
        loop {
            let now = self.began.elapsed();
            let input = match self.coordinator.deadline(now) {
                Some(deadline) => inputs.recv_timeout(deadline.saturating_sub(now)),
                None => inputs.recv().map_err(RecvTimeoutError::from),
            };
            let event = match input {
                Ok(Input::Event(event)) => event,
                Ok(Input::Join(id, candidate, link)) => {
                    self.links.insert(id, link);
                    Event::Join(id, candidate)
                }
                Err(RecvTimeoutError::Timeout) => Event::Tick,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        if let Event::Left(id, _) = &event {
            self.links.remove(id);
        }
        let mut lost = Vec::new();
        for action in self.coordinator.handle(event, self.began.elapsed()) {
            if let Err((id, error)) = self.execute(action) {
                lost.push(Event::Left(id, error));
            }
        }
        lost.into_iter().for_each(|event| self.handle(event));
    }

    /// Executes an action of the coordinator.
    ///
    /// # Errors
    /// When a message cannot be sent to a process; returns that process.
    fn execute(&mut self, action: Action) -> Result<(), (JoinId, anyhow::Error)> {
        let progress = match action {
            Action::Refuse(id, reason) => {
                if let Some(link) = self.links.remove(&id) {
                    link.refuse(&reason);
                }
                return Ok(());
            }
            Action::Send(id, message) => {
                self.is_shutting_down |= message == ControlMessage::Shutdown;
                let Some(link) = self.links.get(&id) else { return Ok(()) };
                return link.send(&message).map_err(|error| (id, error));
            }
            // The dataflow has ended, so connections may end.
            Action::End(_) if self.leaving.is_leaving() => return Ok(()),
            Action::End(error) => {
                if self.is_shutting_down {
                    std::thread::sleep(SHUTDOWN_PAUSE);
                }
                crate::end(&error)
            }
            Action::RequestNumber => Progress::Gathered,
            Action::Connect(formation) => Progress::Formed(formation),
            Action::Start => Progress::Started,
        };
        // Without a receiver, this process is ending.
        let _ = self.report.send(progress);
        Ok(())
    }
}

/// Accepts control connections.
fn listen(listener: TcpListener, token: Option<Token>, events: Sender<Input>) -> anyhow::Result<()> {
    let count = AtomicU64::new(0);
    let serve = move |connection: Connection| {
        let id = count.fetch_add(1, Ordering::Relaxed);
        if let Err(reason) = serve(&connection, token.as_ref(), id, &events) {
            connection.complain(format_args!("refused {} at the control port: {reason:#}", connection.peer));
            connection.refuse(&reason);
        }
    };
    let broken = |error| crate::fail(format_args!("accepting control connections: {error}"));
    acceptor::open("control", listener, serve, broken)
}

/// Serves one control connection until it ends.
fn serve(
    connection: &Connection,
    token: Option<&Token>,
    id: JoinId,
    events: &Sender<Input>,
) -> anyhow::Result<()> {
    let Some((first, mut reader)) = connection.first_frame(HANDSHAKE_LIMIT)? else { return Ok(()) };
    let hello = handshake::check::<ControlHello>(&first, token)?;
    connection.admit();
    // If the port's thread has ended, this process is ending.
    let send = |input| drop(events.send(input));
    let member = match hello {
        ControlHello::Join(member) => member,
        ControlHello::Shutdown {} => {
            tracing::info!("{} asked the cluster to shut down", connection.peer);
            send(Input::Event(Event::Shutdown));
            return Ok(());
        }
    };
    let name = format!("classifier {} at {}", member.name, connection.peer);
    let link = Arc::new(Link::new(name.clone(), &connection.stream)?);
    let (local, remote) = link.addresses()?;
    send(Input::Join(id, Candidate { member, name, local, remote }, Arc::clone(&link)));
    let reason = link.run(&mut reader, |message| send(Input::Event(Event::Message(id, message))));
    link.close();
    send(Input::Event(Event::Left(id, reason)));
    Ok(())
}
