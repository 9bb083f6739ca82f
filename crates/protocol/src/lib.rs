//! What crosses between the programs.
//!
//! | module | holds |
//! |---|---|
//! | [`frame`] | the framing that every port speaks: a 4-byte big-endian length, then the payload |
//! | [`handshake`] | the first frame of a connection between our own programs, and the answers to it |
//! | [`results`] | port 9999: numbered result batches one way, acknowledgements the other |
//! | [`rejects`] | why rows were rejected, and how many may be |
//! | [`schema`] | what the columns of results are |
//! | [`token`] | the job token that opens every port |
//! | [`checkpoint`] | what a receiver's checkpoint file says |
//! | [`result_files`] | the files that a job leaves |
//! | [`hash`] | SHA-256 of what can be read, in hexadecimal, and short |
//! | [`ports`] | default ports |

pub mod checkpoint;
pub mod frame;
pub mod handshake;
pub mod hash;
pub mod ports;
pub mod rejects;
pub mod result_files;
pub mod results;
pub mod schema;
mod temporary;
pub mod token;

pub use temporary::Temporary;

/// Version of the protocols in this crate. Peers that speak another one are refused with a reason.
pub const VERSION: u32 = 2;
