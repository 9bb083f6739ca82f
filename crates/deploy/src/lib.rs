//! Runs jobs on hosts: the code that all commands for jobs share, and this machine as a host.
//!
//! | module | holds |
//! |---|---|
//! | [`request`] | the commands for hosts, parsed |
//! | [`options`] | a job's options, parsed |
//! | [`job`] | starts a job's programs in order, connects them, and watches them until the job is done |
//! | [`host`] | the trait of machines that run programs, and this machine |
//! | [`input`] | checks of an input before a job starts |
//! | [`locally`] | a whole job on this machine |
//! | [`objects`] | objects of S3 that a job reads or writes |
//! | [`output`] | the output folder: its lock, and the folders of its jobs |
//! | `job_id` | names a job by what decides its results |
//! | `notify` | tells a program of the user's how a job ended |
//! | [`python_module`] | the module of a Python model, and the files that it may need |
//! | [`project`] | the project's folder, and the programs built from it |
//! | [`keys`] | the SSH key pair of a stack |
//! | [`console`] | prints to users; no other module does |
//! | [`interrupt`], [`exit`] | signals, and exit codes |
//! | [`step`] | commands that are steps of a job in the cloud |
//!
//! SSH is in `deploy-ssh`, and EC2 in `deploy-aws`: separate crates, since their dependencies take long to build.

pub mod console;
pub mod exit;
pub mod host;
pub mod input;
pub mod interrupt;
pub mod job;
mod job_id;
pub mod keys;
pub mod locally;
mod notify;
pub mod objects;
pub mod options;
pub mod output;
pub mod project;
pub mod python_module;
pub mod request;
pub mod step;

use std::process::ExitCode;

use process::log::{Format, LevelFilter};

/// Sets up a command: it ends on a panic, and when the command that it is a step of ends.
pub fn begin() {
    // The console prints what users need; warnings of libraries are hidden.
    process::begin("cargo xtask", Format::Text, LevelFilter::ERROR);
}

/// Ends a command: prints its error, and returns its exit code.
pub fn conclude(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    let code = outcome.unwrap_or_else(|error| exit::fail(&error));
    // A command whose output is incomplete has failed.
    match console::lost_data() {
        None => code,
        Some(error) => exit::fail(&error),
    }
}
