//! A process that joins a cluster.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use protocol::Temporary;
use protocol::frame::{DEFAULT_LIMIT, FrameReader};
use protocol::handshake::{self, ControlHello, ControlMessage};

use super::{FOREVER, Formation, Leaving, Link, Settings, message};

/// A process whose cluster is forming.
pub struct Joined {
    /// The cluster.
    pub formation: Formation,
    initializer: Arc<Link>,
    /// Hears when all have formed.
    started: Receiver<()>,
    patience: Duration,
}

impl Joined {
    /// Joins at the initializer's control port, and waits until the cluster forms: until all processes have joined, or, for one that
    /// comes while a generation is at work, until the next one. From then on, when the initializer is silent for too long, or leaves
    /// before the work is done, this process leaves as well.
    ///
    /// # Errors
    /// No initializer within `settings.patience`, or one that refuses; not all processes in time.
    pub fn join(settings: &Settings, leaving: &Leaving) -> anyhow::Result<Self> {
        let name = format!("the initializer at {}", settings.control);
        let from = settings.my_control.as_deref();
        let connected = net::connect_from(from, "the initializer", &settings.control, settings.patience);
        let stream = match connected {
            Ok(stream) => stream,
            // There was one before, which may only be cut off.
            Err(error) if settings.rejoin.is_some() => return Err(error.context(Temporary("no cluster"))),
            Err(error) => return Err(error),
        };
        handshake::send(&stream, settings.token.as_ref(), &ControlHello::Join(settings.me.clone()))
            .with_context(|| format!("joining {name}"))
            .context(Temporary("no cluster yet"))?;
        let initializer = Arc::new(Link::new(name.clone(), &stream)?);
        let mut reader = FrameReader::new(stream, name.clone(), DEFAULT_LIMIT);
        let formed =
            message(&mut reader, FOREVER).with_context(|| format!("waiting for {name} to form the cluster"));
        let (generation, process, members) = match formed {
            Ok(ControlMessage::Form { generation, process, members }) => (generation, process, members),
            Ok(ControlMessage::Shutdown) => bail!("{name}: the cluster was asked to shut down"),
            Ok(other) => bail!("{name} began with {other:?}"),
            Err(error) => return Err(handshake::unless_refused(error, Temporary("no cluster yet"))),
        };
        process::log::set_generation(generation);
        let formation = Formation { generation, process, members };
        let (starting, started) = channel();
        let (link, leaving) = (Arc::clone(&initializer), leaving.clone());
        let listen = move || heed(&link, &mut reader, &starting, &leaving);
        std::thread::Builder::new().name("control".into()).spawn(listen).context("starting a thread")?;
        Ok(Self { formation, initializer, started, patience: settings.patience })
    }

    /// Says that this process has formed, and waits for the start.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn start(self) -> anyhow::Result<()> {
        let Self { initializer, started, patience, .. } = self;
        let name = &initializer.name;
        initializer
            .send(&ControlMessage::Formed)
            .with_context(|| format!("telling {name} that this process has formed"))?;
        let is_started = started.recv_timeout(patience).is_ok();
        ensure!(is_started, "waiting for {name} to start the dataflow: not within {patience:?}");
        Ok(())
    }
}

/// Does what the initializer says, for as long as there is work.
fn heed(initializer: &Link, reader: &mut FrameReader<TcpStream>, starting: &Sender<()>, leaving: &Leaving) {
    let name = &initializer.name;
    loop {
        let said = message(reader, FOREVER);
        match said {
            _ if leaving.is_leaving() => return,
            // If nobody waits for it, this process is ending.
            Ok(ControlMessage::Start) => drop(starting.send(())),
            Ok(ControlMessage::Shutdown) => {
                crate::fail(format_args!("{name}: the cluster was asked to shut down"))
            }
            Ok(other) => crate::fail(format_args!("{name}: an unexpected message: {other:?}")),
            Err(error) => crate::leave_generation(format_args!("{name}: {error:#}")),
        }
    }
}
