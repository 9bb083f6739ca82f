//! Machines that a job's programs run on.
//!
//! There is one kind so far: [`local`], this machine.

pub(crate) mod local;

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use wire::program::Ready;

/// A machine.
pub(crate) trait Host {
    /// Its name, for messages.
    fn name(&self) -> &str;

    /// The address at which the job's other machines reach it.
    fn address(&self) -> &str;

    /// Starts a program of the job.
    fn start(&self, launch: &Launch) -> anyhow::Result<Box<dyn Running>>;

    /// What a program wrote to its ready file; `None` while it is not there.
    fn ready(&self, file: &Path) -> anyhow::Result<Option<Ready>>;
}

/// A program to start.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// What the job calls it.
    pub(crate) name: String,
    /// Which program.
    pub(crate) program: &'static str,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// Where it writes that it is ready.
    pub(crate) ready_file: PathBuf,
    /// Pass this command's standard input on.
    pub(crate) stdin: bool,
}

/// A program that was started. When this is dropped, the program is ended.
pub(crate) trait Running {
    /// How it ended, if it has.
    fn try_wait(&mut self) -> anyhow::Result<Option<ExitStatus>>;

    /// Ends it, and waits until it is gone.
    fn kill(&mut self) -> anyhow::Result<()>;

    /// The last lines that it wrote.
    fn last_lines(&self, count: usize) -> anyhow::Result<Vec<String>>;

    /// Where to read all that it wrote.
    fn log(&self) -> String;
}
