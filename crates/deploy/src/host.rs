//! Machines that run a job's programs: this machine ([`local`]), or machines reached over SSH (`deploy-ssh`).

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

/// Between the name of a classifier and the number of a worker in the name of a file with what the model prints.
pub(crate) const MODEL: &str = "model";

pub trait Host {
    /// For messages.
    fn name(&self) -> &str;

    /// Where the job's other machines reach it.
    fn address(&self) -> &str;

    /// Whether programs must listen at their usual ports, since a firewall may allow only these. If not, they use free ones.
    fn has_fixed_ports(&self) -> bool;

    /// The folder of the programs' logs, on the host.
    fn logs(&self) -> &Path;

    /// Starts a program of the job.
    fn start(&self, launch: &Launch) -> anyhow::Result<Box<dyn Running>>;

    /// The ready file of the program of this name; `None` until it exists.
    fn ready(&self, name: &str) -> anyhow::Result<Option<Ready>>;

    /// Reports the progress of this host's receiver several times a second. A lost connection only stops the reports.
    fn observe(&self, results: &str, token: Option<&Token>) -> anyhow::Result<Receiver<Progress>>;

    /// The address on this machine that leads to a loopback address of the host.
    fn reach(&self, address: SocketAddr) -> anyhow::Result<SocketAddr>;

    /// For how long the connection to the host has been lost; `None` if it is not. Meanwhile it is being restored.
    fn away(&self) -> Option<Duration>;
}

/// A program to start. Paths are on its host.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Unique in the job.
    pub name: String,
    /// The executable's name.
    pub program: &'static str,
    pub args: Vec<String>,
    /// Added to its host's environment.
    pub environment: BTreeMap<String, String>,
    pub ready_file: PathBuf,
    /// Whether it gets this command's standard input.
    pub stdin: bool,
    /// Whether it is restarted when it dies.
    pub restart: bool,
}

/// A started program. Dropping this ends the program.
pub trait Running {
    /// How it ended for good; `None` while it runs or is being restarted.
    fn try_wait(&mut self) -> anyhow::Result<Option<End>>;

    /// The deaths since the last call after which it was restarted.
    fn deaths(&mut self) -> Vec<End>;

    /// Ends it, and waits for its end.
    fn kill(&mut self) -> anyhow::Result<()>;

    /// Detaches it: dropping this no longer ends it, if its host can keep it running.
    fn leave(&mut self);

    /// The last lines of its log.
    fn last_lines(&self, count: usize) -> anyhow::Result<Vec<String>>;

    /// Where users find its log: a path or a command.
    fn log(&self) -> String;
}

/// A path as an argument for a program.
pub fn arg(path: &Path) -> String {
    path.display().to_string()
}

/// The address at which a program on this host listens, as an argument. Port 0, a free one, unless the host has fixed ports.
///
/// With the usual ports, a job could take the port of another job's program while that is being restarted.
pub(crate) fn at(host: &dyn Host, port: u16) -> String {
    format!("{}:{}", host.address(), if host.has_fixed_ports() { port } else { 0 })
}
