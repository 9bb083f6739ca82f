//! Tests of hosts from EC2: the real AWS SDK talks to a test cloud on this machine, whose instances are hosts of a lab.

#![allow(clippy::unwrap_used, reason = "in a test, a panic fails the test")]
#![allow(clippy::print_stderr, reason = "tests print what they find")]

mod accounts;
mod at_every_call;
mod boot;
mod checks;
mod credentials;
mod faults;
mod jobs;
mod machines;
mod ownership;
mod requests;
mod stack_life;
