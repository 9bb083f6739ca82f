//! Signs requests to S3 on the user's machine, so that the machines of a job need no rights there.
//!
//! | module | holds |
//! |---|---|
//! | [`address`] | `s3://bucket/key` |
//! | [`service`] | where S3 is, and the URL of a bucket; pure |
//! | [`account`] | the user's credentials, and where their configuration says that S3 is |
//! | [`validity`] | how long signatures are valid, and when they are renewed; pure |
//! | [`client`] | requests that this program makes itself |
//! | [`list`] | the objects of a folder |
//! | [`uploads`] | begins and aborts uploads |
//! | [`presign`] | signs the requests of a job; pure |
//! | [`renew`] | keeps the signed requests valid |

pub mod account;
pub mod address;
pub mod client;
mod errors;
pub mod list;
pub mod presign;
pub mod renew;
pub mod service;
pub mod uploads;
pub mod validity;
