//! Listening, connecting and accepting, with deadlines, and with errors that name the purpose and the address.
//!
//! | module | holds |
//! |---|---|
//! | `socket` | connects and listens |
//! | [`acceptor`] | accepts connections, each on its own thread, with limits for unauthenticated peers |
//! | [`observer`] | follows a receiver's progress |

pub mod acceptor;
pub mod observer;
mod socket;

pub use socket::*;
