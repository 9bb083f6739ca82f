//! What a job needs of a connection.

use protocol::results::{FromReceiver, Welcome};

/// A connection to a classifier process. Sending never blocks, since the job is locked meanwhile.
pub trait Peer {
    /// Tells it how far the job is, when it is admitted.
    fn welcome(&self, welcome: Welcome);

    /// Sends a message.
    fn send(&self, message: FromReceiver);

    /// Closes the connection, if it is open.
    fn close(&self);
}
