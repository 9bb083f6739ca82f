//! What a job needs of a connection.

use protocol::results::{FromReceiver, Welcome};

/// The way to a classifier process. To tell something never waits: the job is locked meanwhile.
pub trait Peer {
    /// Tells it where the job stands, when it is let in.
    fn welcome(&self, welcome: Welcome);

    /// Tells it something later on.
    fn send(&self, message: FromReceiver);

    /// Closes the connection; that it is closed already is as good.
    fn close(&self);
}
