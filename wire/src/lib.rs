//! What crosses between the programs.
//!
//! | module      | holds |
//! |-------------|-------|
//! | [`frame`]   | the framing that every port speaks: a 4-byte big-endian length, then the payload |
//! | [`opening`] | the first frame of a connection between our own programs, and the answers to it |
//! | [`rejects`] | why rows were rejected, and how many may be |
//! | [`results`] | port 9999: numbered result batches one way, acknowledgements the other |
//! | [`schema`]  | what the columns of results are |
//! | [`token`]   | the job token that opens every port |
//! | [`checkpoint`] | what a receiver's checkpoint file says |
//! | [`door`]    | a port's door: strangers, and a thread for each connection |
//! | [`files`]   | the files that a job leaves |
//! | [`hash`]    | SHA-256 of what can be read, in hexadecimal, and short |
//! | [`identity`] | which file an input is, and whether it is still as it was |
//! | [`observer`] | looking on at a receiver's job |
//! | [`net`]     | connecting and listening with deadlines and errors that name the peer |
//! | [`program`] | what a program and the one that started it tell each other |
//! | [`ports`]   | default ports |

pub mod checkpoint;
pub mod door;
pub mod files;
pub mod frame;
pub mod hash;
pub mod identity;
pub mod net;
pub mod observer;
pub mod opening;
pub mod ports;
pub mod program;
pub mod rejects;
pub mod results;
pub mod schema;
pub mod token;

/// Version of the protocols in this crate. Peers that speak another one are refused with a reason.
pub const VERSION: u32 = 2;
