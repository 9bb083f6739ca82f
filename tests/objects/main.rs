//! Tests of objects in S3: a real implementation of S3 answers, and faults on the way to it go wrong as networks do.

#![allow(clippy::unwrap_used, reason = "in a test, a panic fails the test")]

mod client;
mod faults;
mod hosts;
mod jobs;
mod server;
mod signatures;
mod site;
mod uploads;
