//! A process that joins a cluster: the control connection around the [`Participant`].

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, anyhow};
use parking_lot::Mutex;
use protocol::Temporary;
use protocol::frame::{DEFAULT_LIMIT, FrameReader};
use protocol::handshake::{self, ControlHello};

use super::link::Link;
use super::participant::{Action, Event, Participant};
use super::{Formation, Leaving, Settings};

/// A process whose cluster is forming.
pub struct Joined {
    pub formation: Formation,
    control: Arc<Control>,
    /// Receives the start, when all have formed.
    started: Receiver<()>,
    patience: Duration,
}

struct Control {
    link: Link,
    participant: Mutex<Participant>,
    formation: Sender<Formation>,
    started: Sender<()>,
    leaving: Leaving,
}

impl Joined {
    /// Joins at the initializer's control port, and waits until the cluster forms. If a generation is running, waits for the
    /// next one. When the generation ends before the work is done, the control connection's thread ends this process.
    ///
    /// # Errors
    /// When there is no initializer within `settings.patience`.
    pub fn join(settings: &Settings, leaving: Leaving) -> anyhow::Result<Self> {
        let name = format!("the initializer at {}", settings.control);
        let from = settings.my_control.as_deref();
        let connected = net::connect_from(from, "the initializer", &settings.control, settings.patience);
        let stream = match connected {
            Ok(stream) => stream,
            // There was an initializer before, which may only be cut off.
            Err(error) if settings.rejoin.is_some() => return Err(error.context(Temporary("no cluster"))),
            Err(error) => return Err(error),
        };
        handshake::send(&stream, settings.token.as_ref(), &ControlHello::Join(settings.me.clone()))
            .with_context(|| format!("joining {name}"))
            .context(Temporary("no cluster yet"))?;
        let link = Link::new(name.clone(), &stream)?;
        let (formation, formed) = channel();
        let (starting, started) = channel();
        let participant = Mutex::new(Participant::new(name.clone()));
        let control = Arc::new(Control { link, participant, formation, started: starting, leaving });
        let mut reader = FrameReader::new(stream, name, DEFAULT_LIMIT);
        let served = Arc::clone(&control);
        let serve = move || {
            let lost = served.link.run(&mut reader, |message| served.handle(Event::Message(message)));
            served.handle(Event::Lost(lost));
        };
        std::thread::Builder::new().name("control".into()).spawn(serve).context("starting a thread")?;
        let formation = formed.recv().context("the control connection's thread has ended")?;
        process::log::set_generation(formation.generation);
        Ok(Self { formation, control, started, patience: settings.patience })
    }

    /// Reports that this process has formed, and waits for the start.
    ///
    /// # Errors
    /// When the start does not come in time.
    pub fn start(self) -> anyhow::Result<()> {
        self.control.handle(Event::Formed);
        let (name, patience) = (&self.control.link.name, self.patience);
        self.started.recv_timeout(patience).map_err(|_| {
            anyhow!("waiting for {name} to start the dataflow: not within {patience:?}")
                .context(Temporary("forming the cluster"))
        })
    }
}

impl Control {
    fn handle(&self, event: Event) {
        let action = self.participant.lock().handle(event);
        match action {
            None => {}
            // Without a receiver, this process is ending.
            Some(Action::Connect(formation)) => drop(self.formation.send(formation)),
            Some(Action::Start) => drop(self.started.send(())),
            Some(Action::Send(message)) => {
                if let Err(error) = self.link.send(&message) {
                    self.handle(Event::Lost(error));
                }
            }
            // The dataflow has ended, so connections may end.
            Some(Action::End(_)) if self.leaving.is_leaving() => {}
            Some(Action::End(error)) => crate::end(&error),
        }
    }
}
