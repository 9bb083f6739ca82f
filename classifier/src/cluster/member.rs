//! A process that joins a cluster.

use std::time::Duration;

use anyhow::{Context, bail};
use wire::frame::{DEFAULT_LIMIT, FrameReader};
use wire::net;
use wire::opening::{self, ControlMessage, ControlOpening};

use super::{Formation, Leaving, Peer, Settings, keep_in_touch, message};

/// A process whose cluster is forming.
pub struct Joined {
    /// The cluster.
    pub formation: Formation,
    initializer: Peer,
    patience: Duration,
}

impl Joined {
    /// Joins at the initializer's control port, and waits until all processes have.
    ///
    /// # Errors
    /// No initializer, or one that refuses; not all processes in time.
    pub fn join(settings: &Settings) -> anyhow::Result<Self> {
        let name = format!("the initializer at {}", settings.control);
        let from = settings.my_control.as_deref();
        let stream = net::connect_from(from, "the initializer", &settings.control, settings.patience)?;
        opening::send(&stream, settings.token.as_ref(), &ControlOpening::Join(settings.me.clone()))
            .with_context(|| format!("joining {name}"))?;
        let clone = stream.try_clone().context("splitting the control connection")?;
        let mut reader = FrameReader::new(clone, name.clone(), DEFAULT_LIMIT);
        let formed = message(&mut reader, settings.patience)
            .with_context(|| format!("waiting for {name} to form the cluster"))?;
        let ControlMessage::Form { generation, process, members } = formed else {
            bail!("{name} began with {formed:?}");
        };
        let formation = Formation { generation, process, members };
        Ok(Self { formation, initializer: Peer { name, stream, reader }, patience: settings.patience })
    }

    /// Says that this process has formed, and waits for the start.
    ///
    /// # Errors
    /// When the cluster breaks up instead.
    pub fn start(self, leaving: &Leaving) -> anyhow::Result<()> {
        let Self { mut initializer, patience, .. } = self;
        let name = &initializer.name;
        opening::send_json(&initializer.stream, &ControlMessage::Formed)
            .with_context(|| format!("telling {name} that this process has formed"))?;
        match message(&mut initializer.reader, patience)
            .with_context(|| format!("waiting for {name} to start the dataflow"))?
        {
            ControlMessage::Start => keep_in_touch(initializer, leaving),
            other => bail!("{name} said {other:?} instead of start"),
        }
    }
}
