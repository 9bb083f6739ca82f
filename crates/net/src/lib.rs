//! Listening, connecting and accepting, with deadlines, and with errors that name what and where.
//!
//! | module | holds |
//! |---|---|
//! | `socket` | connecting and listening |
//! | [`acceptor`] | a port: a thread for each connection, and limits for unauthenticated peers |
//! | [`observer`] | following a receiver's progress |

pub mod acceptor;
pub mod observer;
mod socket;

pub use socket::*;
