//! Jobs on hosts: what every command that runs one needs, and this machine as a host.
//!
//! | module | holds |
//! |---|---|
//! | [`request`] | the commands for hosts, as they are meant |
//! | [`options`] | what the options of a job mean |
//! | [`job`] | a job: its programs started in order, wired, and watched until it is done |
//! | [`host`] | the trait of machines that programs run on, and this machine |
//! | [`input`] | inputs, before a job takes them |
//! | [`locally`] | a whole job on this machine |
//! | [`output`] | the output folder: its lock, and the results of the job before |
//! | [`project`] | the project's folder, and the programs built from it |
//! | [`keys`] | the SSH key pair of a stack |
//! | [`console`] | what people see; only this prints |
//! | [`interrupt`], [`exit`] | signals, and exit codes |
//! | [`step`] | commands that are steps of a job in the cloud |
//!
//! SSH is in `deploy-ssh`, and EC2 in `deploy-aws`: crates of their own, since what they depend on takes long to build.

pub mod console;
pub mod exit;
pub mod host;
pub mod input;
pub mod interrupt;
pub mod job;
pub mod keys;
pub mod locally;
pub mod options;
pub mod output;
pub mod project;
pub mod request;
pub mod step;

use std::process::ExitCode;

use process::log::{Format, LevelFilter};

/// Begins a command: a panic ends it, and so does the end of the command that it is a step of.
pub fn begin() {
    // What people see is printed by the console; libraries warn of what is none of the user's business.
    process::begin("cargo xtask", Format::Text, LevelFilter::ERROR);
}

/// Ends a command: prints its error, and returns its exit code.
pub fn conclude(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    let code = outcome.unwrap_or_else(|error| exit::fail(&error));
    // A command whose data did not arrive has not done its work.
    match console::lost_data() {
        None => code,
        Some(error) => exit::fail(&error),
    }
}
