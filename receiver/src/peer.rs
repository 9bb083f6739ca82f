//! A connection, as a job sees it.

use protocol::results::{FromReceiver, Welcome};

/// A connection to a classifier process. Its methods must not block, since the job is locked during the call.
pub trait Peer {
    /// Answers the handshake when the process is admitted.
    fn welcome(&self, welcome: Welcome);

    fn send(&self, message: FromReceiver);

    /// Closes the connection, if it is open.
    fn close(&self);
}
