//! Machines that a job's programs run on.
//!
//! This machine is one ([`local`]); `deploy-ssh` has those that SSH reaches.

pub mod local;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use process::exit::End;
use process::ready::Ready;
use protocol::results::Progress;
use protocol::token::Token;

/// A machine.
pub trait Host {
    /// Its name, for messages.
    fn name(&self) -> &str;

    /// The address at which the job's other machines reach it.
    fn address(&self) -> &str;

    /// Whether programs must listen at their usual ports (there may be a firewall that lets only these through), or
    /// may take others when these are taken.
    fn has_fixed_ports(&self) -> bool;

    /// Starts a program of the job.
    fn start(&self, launch: &Launch) -> anyhow::Result<Box<dyn Running>>;

    /// What the program of this name wrote to its ready file; `None` while it is not there.
    fn ready(&self, name: &str) -> anyhow::Result<Option<Ready>>;

    /// Tells, several times a second, how the job of the receiver on this host goes. When that is lost, so is the
    /// picture, and nothing else.
    fn observe(&self, results: &str, token: Option<&Token>) -> anyhow::Result<Receiver<Progress>>;

    /// Where this machine reaches what listens at a loopback address of the host.
    fn reach(&self, address: SocketAddr) -> anyhow::Result<SocketAddr>;

    /// For how long nothing has been heard of the host, if it is lost. It is looked for meanwhile.
    fn away(&self) -> Option<Duration>;
}

/// A program to start. Paths are as they are on its host.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What the job calls it.
    pub name: String,
    /// Which program.
    pub program: &'static str,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables in its environment, besides those of its host.
    pub environment: BTreeMap<String, String>,
    /// Where it writes that it is ready.
    pub ready_file: PathBuf,
    /// Pass this command's standard input on.
    pub stdin: bool,
    /// Start it again when it dies.
    pub restart: bool,
}

/// A program that was started. When this is dropped, the program is ended.
pub trait Running {
    /// How it ended for good, if it has.
    fn try_wait(&mut self) -> anyhow::Result<Option<End>>;

    /// How it died since this was asked last, each time that it did and was started again.
    fn deaths(&mut self) -> Vec<End>;

    /// Ends it, and waits until it is gone.
    fn kill(&mut self) -> anyhow::Result<()>;

    /// Leaves it alone from now on: it goes on when this is dropped, if its host can keep it.
    fn leave(&mut self);

    /// The last lines that it wrote.
    fn last_lines(&self, count: usize) -> anyhow::Result<Vec<String>>;

    /// Where to read all that it wrote.
    fn log(&self) -> String;
}

/// A path as an argument for a program.
pub fn arg(path: &Path) -> String {
    path.display().to_string()
}
