//! The formats of everything that passes between programs.
//!
//! | module | holds |
//! |---|---|
//! | [`frame`] | the framing of every port: a 4-byte big-endian length, then the payload |
//! | [`handshake`] | the first frame of a connection between our own programs, and the answers to it |
//! | [`results`] | port 9999: numbered result batches one way, acknowledgements the other |
//! | [`rejects`] | why rows were rejected, and how many a job may reject |
//! | [`schema`] | the columns of the results |
//! | [`token`] | the job token, which every port requires |
//! | [`checkpoint`] | the receiver's checkpoint file |
//! | [`conversion`] | what the program `formats` writes while it reads an input |
//! | [`signed`] | signed requests to S3 |
//! | [`result_files`] | the files that a job writes |
//! | [`hash`] | SHA-256: of streams, in hexadecimal, and shortened |
//! | [`ports`] | default ports |

pub mod checkpoint;
pub mod conversion;
pub mod frame;
pub mod handshake;
pub mod hash;
pub mod ports;
pub mod rejects;
pub mod result_files;
pub mod results;
pub mod schema;
pub mod signed;
mod temporary;
pub mod token;

pub use temporary::Temporary;

/// Version of the protocols in this crate. Peers with another version are refused with a reason.
pub const VERSION: u32 = 3;
