//! Hosts from EC2: the real SDK over HTTP, against a test cloud on this machine whose instances are hosts of a lab.

#![allow(clippy::unwrap_used, reason = "what is unexpected fails the test")]
#![allow(clippy::print_stderr, reason = "a test says what it found")]

mod accounts;
mod boot;
mod checks;
mod credentials;
mod faults;
mod jobs;
mod kills;
mod machines;
mod requests;
mod stack_life;
mod strangers;
