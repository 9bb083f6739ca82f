//! A process that joins a cluster.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, bail};
use wire::frame::{DEFAULT_LIMIT, FrameReader};
use wire::net;
use wire::opening::{self, ControlMessage, ControlOpening};
use wire::program::Temporary;

use super::{FOREVER, Formation, Leaving, Link, Settings, message};

/// A process whose cluster is forming.
pub struct Joined {
    /// The cluster.
    pub formation: Formation,
    initializer: Link,
    reader: FrameReader<TcpStream>,
    patience: Duration,
}

impl Joined {
    /// Joins at the initializer's control port, and waits until the cluster forms: until all processes have joined, or, for one that
    /// comes while a generation is at work, until the next one.
    ///
    /// # Errors
    /// No initializer within `settings.patience`, or one that refuses; not all processes in time.
    pub fn join(settings: &Settings) -> anyhow::Result<Self> {
        let name = format!("the initializer at {}", settings.control);
        let from = settings.my_control.as_deref();
        let stream = net::connect_from(from, "the initializer", &settings.control, settings.patience)?;
        opening::send(&stream, settings.token.as_ref(), &ControlOpening::Join(settings.me.clone()))
            .with_context(|| format!("joining {name}"))
            .context(Temporary("no cluster yet"))?;
        let initializer = Link::new(name.clone(), &stream)?;
        let mut reader = FrameReader::new(stream, name.clone(), DEFAULT_LIMIT);
        let formed =
            message(&mut reader, FOREVER).with_context(|| format!("waiting for {name} to form the cluster"));
        let (generation, process, members) = match formed {
            Ok(ControlMessage::Form { generation, process, members }) => (generation, process, members),
            Ok(ControlMessage::Shutdown) => bail!("{name}: the cluster was asked to shut down"),
            Ok(other) => bail!("{name} began with {other:?}"),
            Err(error) => return Err(opening::unless_refused(error, Temporary("no cluster yet"))),
        };
        let formation = Formation { generation, process, members };
        Ok(Self { formation, initializer, reader, patience: settings.patience })
    }

    /// Says that this process has formed, and waits for the start. From then on, when the initializer is silent for too long, or
    /// leaves before the work is done, this process leaves as well.
    ///
    /// # Errors
    /// When the cluster breaks up instead.
    pub fn start(self, leaving: &Leaving) -> anyhow::Result<()> {
        let Self { initializer, mut reader, patience, .. } = self;
        let name = &initializer.name;
        initializer
            .send(&ControlMessage::Formed)
            .with_context(|| format!("telling {name} that this process has formed"))?;
        match message(&mut reader, patience)
            .with_context(|| format!("waiting for {name} to start the dataflow"))?
        {
            ControlMessage::Start => {}
            other => bail!("{name} said {other:?} instead of start"),
        }
        let leaving = leaving.clone();
        let listen = move || {
            let said = message(&mut reader, FOREVER);
            if leaving.is_leaving() {
                return;
            }
            let name = &initializer.name;
            match said {
                Ok(ControlMessage::Shutdown) => {
                    crate::fail(format_args!("{name}: the cluster was asked to shut down"))
                }
                Ok(other) => crate::fail(format_args!("{name}: an unexpected message: {other:?}")),
                Err(error) => crate::leave_generation(format_args!("{name}: {error:#}")),
            }
        };
        std::thread::Builder::new().name("control".into()).spawn(listen).context("starting a thread")?;
        Ok(())
    }
}
