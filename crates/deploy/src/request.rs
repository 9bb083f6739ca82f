//! The commands for hosts, parsed.
//!
//! `cargo xtask` parses its arguments to a [`Request`], and passes it as JSON to `deploy-ssh` or `deploy-aws`, which executes it.
//! xtask builds these two when they are first needed. They know no flags.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use files::read_if_there;
use serde::{Deserialize, Serialize};

use crate::options::JobOptions;

/// A command for hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Plan(Plan),
    Up(Up),
    Job(Box<Job>),
    RunCluster(RunCluster),
    GetResults(GetResults),
    Status(Status),
    Logs(Logs),
    Ssh(Ssh),
    Hub(Hub),
    Stop(Stop),
    Down(Down),
}

/// The options of a stack in the cloud. `up` remembers them, except the last three.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackOptions {
    pub name: Option<String>,
    pub regions: Vec<String>,
    /// In order of preference.
    pub instance_types: Vec<String>,
    pub image: Option<String>,
    pub subnet: Option<String>,
    /// Networks in CIDR form, or `anywhere`.
    pub ssh_from: Vec<String>,
    pub ssh_user: Option<String>,
    pub spot: Option<bool>,
    pub time_to_live: Option<Duration>,
    pub disk_gib: Option<u32>,
    /// The file with the phone numbers that alarms go to.
    pub on_call: Option<PathBuf>,
    /// How long machines may take to boot.
    pub boot_time: Duration,
    /// How old AWS's answers may be, and so how long something new may be invisible.
    pub settle: Duration,
}

/// Shows what `up` would change in the cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub cluster_size: Option<u16>,
    pub json: bool,
    pub stack: StackOptions,
    pub inventory: PathBuf,
}

/// Makes hosts ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Up {
    pub cluster_size: Option<u16>,
    pub provider: Option<Provider>,
    /// The file that lists them.
    pub hosts: Option<PathBuf>,
    pub ssh_config: Option<PathBuf>,
    pub model: Option<String>,
    pub requirements: Option<PathBuf>,
    /// Ship only these files with the model; empty for all beside it.
    pub include: Vec<PathBuf>,
    pub stack: StackOptions,
    pub inventory: PathBuf,
}

/// Where hosts come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// A file that the user has written.
    Ssh,
    /// EC2.
    Aws,
}

/// `up`, `run-cluster`, `get-results` and `down` in one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub up: Up,
    pub job: JobOptions,
    pub output: PathBuf,
    /// Leave the stack up.
    pub keep: bool,
    /// Leave the stack up if the job fails.
    pub keep_on_failure: bool,
}

/// Runs a job on the hosts, or watches one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunCluster {
    pub mode: RunMode,
    pub model: Option<String>,
    pub job: JobOptions,
    pub inventory: PathBuf,
}

/// Which job `run-cluster` is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunMode {
    /// A new one.
    New,
    /// The last one, continued from where it was interrupted.
    Resume,
    /// The running one, only watched.
    Attach,
}

/// Fetches the results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetResults {
    pub output: PathBuf,
    /// To fetch the complete batches of a job that is not done; `None` for all results of a job that is.
    pub partial: Option<Partial>,
    pub inventory: PathBuf,
}

/// How to fetch the complete batches of a job that is not done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// A time limit.
    pub within: Option<Duration>,
    /// First end a job that still runs.
    pub end_job: bool,
    /// Why the job is not done, for the summary.
    pub because: Option<String>,
}

/// Shows the status of hosts and job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub json: bool,
    pub inventory: PathBuf,
}

/// Shows the logs of the programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// Only of this host.
    pub host: Option<String>,
    pub follow: bool,
    /// How many of the last lines of each program.
    pub lines: u32,
    pub inventory: PathBuf,
}

/// Logs in to a host, or runs a command there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ssh {
    pub host: String,
    pub command: Vec<String>,
    pub inventory: PathBuf,
}

/// Shows the Monitoring Hub of the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hub {
    pub inventory: PathBuf,
}

/// Ends the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    pub inventory: PathBuf,
}

/// Undoes `up`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    /// Even while a job is running; also forget hosts that cannot be reached.
    pub force: bool,
    /// Even if there are results that were not fetched.
    pub discard_results: bool,
    pub provider: Option<Provider>,
    pub stack: Option<String>,
    /// Only a stack that has this folder's SSH key, even if the user named it.
    pub own: bool,
    /// How long to search for resources that AWS does not show yet.
    pub settle: Duration,
    pub regions: Vec<String>,
    pub inventory: PathBuf,
}

impl Request {
    /// The inventory that the command reads or writes.
    pub fn inventory(&self) -> &Path {
        match self {
            Self::Plan(Plan { inventory, .. })
            | Self::Up(Up { inventory, .. })
            | Self::RunCluster(RunCluster { inventory, .. })
            | Self::GetResults(GetResults { inventory, .. })
            | Self::Status(Status { inventory, .. })
            | Self::Logs(Logs { inventory, .. })
            | Self::Ssh(Ssh { inventory, .. })
            | Self::Hub(Hub { inventory, .. })
            | Self::Stop(Stop { inventory, .. })
            | Self::Down(Down { inventory, .. }) => inventory,
            Self::Job(job) => &job.up.inventory,
        }
    }

    /// Whether the command is for hosts in the cloud.
    ///
    /// # Errors
    /// The user gives `--provider ssh` for hosts in the cloud: they would be cleared and forgotten, and would still cost money.
    pub fn is_in_cloud(&self) -> anyhow::Result<bool> {
        // The provider that the user named, and whether hosts are in the cloud if no inventory exists.
        let (named, default) = match self {
            Self::Plan(_) | Self::Job(_) => return Ok(true),
            Self::Up(up) if up.provider.is_some() || up.hosts.is_some() => {
                return Ok(up.provider == Some(Provider::Aws));
            }
            Self::Up(_) => (None, true),
            Self::Down(down) => {
                let is_named = down.stack.is_some() || !down.regions.is_empty();
                (down.provider.or(is_named.then_some(Provider::Aws)), true)
            }
            _ => (None, false),
        };
        let inventory = self.inventory();
        // A line of the inventory; xtask, which decides this, has no TOML parser.
        let stack = read_if_there(inventory)?.map(|text| {
            let text = String::from_utf8_lossy(&text).into_owned();
            text.lines().find_map(|line| line.strip_prefix("stack = ")).map(str::to_owned)
        });
        match (named, stack) {
            (Some(Provider::Ssh), Some(Some(stack))) => bail!(
                "the hosts of {} are the stack {stack} in the cloud, which --provider ssh would leave running; cargo xtask down \
                 destroys it",
                inventory.display()
            ),
            (Some(provider), _) => Ok(provider == Provider::Aws),
            (None, Some(stack)) => Ok(stack.is_some()),
            (None, None) => Ok(default
                || matches!(self, Self::Status(_))
                    && read_if_there(&inventory.with_file_name("stack.toml"))?.is_some()),
        }
    }

    /// The request as an argument of the program that does it.
    ///
    /// # Errors
    /// A path is not UTF-8.
    pub fn to_arg(&self) -> anyhow::Result<String> {
        serde_json::to_string(self).context("encoding the command; paths must be UTF-8")
    }

    /// The request in this process's argument.
    ///
    /// # Errors
    /// There is no argument, or it is not a request.
    pub fn of_process() -> anyhow::Result<Self> {
        let arg = std::env::args().nth(1);
        let arg = arg.context("this program has no request; only cargo xtask starts it")?;
        serde_json::from_str(&arg).context("parsing the request of cargo xtask")
    }
}
