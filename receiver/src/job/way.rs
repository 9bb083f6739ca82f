//! What a job needs of a connection.

use std::net::TcpStream;
use std::time::Duration;

use wire::results::{FromReceiver, Welcome};
use wire::{net, opening};

/// How long the initializer may let the receiver wait that tells it something.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// The way to a classifier process.
pub trait Way {
    /// Tells it where the job stands, when it is let in.
    ///
    /// # Errors
    /// A connection that is broken.
    fn welcome(&self, welcome: &Welcome) -> anyhow::Result<()>;

    /// Tells it something later on.
    ///
    /// # Errors
    /// A connection that is broken.
    fn tell(&self, message: &FromReceiver) -> anyhow::Result<()>;

    /// Closes the connection; that it is closed already is as good.
    fn close(&self);
}

impl Way for TcpStream {
    fn welcome(&self, welcome: &Welcome) -> anyhow::Result<()> {
        // What is written to it is short and comes seldom. If even that does not go, it is not there any more.
        net::limit_writes(self, WRITE_TIME)?;
        opening::send_json(self, welcome)
    }

    fn tell(&self, message: &FromReceiver) -> anyhow::Result<()> {
        message.write(self)
    }

    fn close(&self) {
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}
