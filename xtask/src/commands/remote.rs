//! Commands that work on other hosts. Their arguments are known to every build of this program; what they do is in a
//! build of its own (feature `remote`), which is made when it is first needed.

use std::path::PathBuf;
use std::process::ExitCode;

/// Commands for other hosts.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Remote {
    Up(Up),
    RunCluster(RunCluster),
    GetResults(GetResults),
    Status(Status),
    Logs(Logs),
    Ssh(Ssh),
    Stop(Stop),
    Down(Down),
}

/// Where the inventory is.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// The file that says which hosts there are, written by up [default: inventory.toml in the project]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) inventory: Option<PathBuf>,
}

/// Make hosts ready: check them, ship the programs, write the inventory
///
/// Hosts need SSH and nothing else. Running it again changes only what differs.
#[derive(Debug, clap::Args)]
pub(crate) struct Up {
    /// How many machines classify; one more host is for sender and receiver [default: as before, or all]
    #[arg(long, value_name = "N", env = "CLUSTER_SIZE", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) cluster_size: Option<u16>,
    /// Where hosts come from
    #[arg(long, value_name = "NAME", default_value = "ssh", value_parser = ["ssh"])]
    pub(crate) provider: String,
    /// A TOML file of hosts [default: those of the inventory]
    #[arg(long, value_name = "FILE")]
    pub(crate) hosts: Option<PathBuf>,
    /// An SSH configuration in place of the user's own
    #[arg(long, value_name = "FILE")]
    pub(crate) ssh_config: Option<PathBuf>,
    /// The black box: native, sleep:MICROSECONDS, or python:MODULE[:FUNCTION], whose module is shipped
    /// [default: as before, or native]
    #[arg(long, value_name = "BOX")]
    pub(crate) classifier: Option<String>,
    /// The Python packages that the module needs [default: requirements.txt beside the module, or just pandas]
    #[arg(long, value_name = "FILE")]
    pub(crate) requirements: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Run a job on the hosts: receiver, classifiers, sender
///
/// Replaces the results of an earlier job on the hosts. A file is shipped to the metrics host first, so that this machine
/// is no part of the job.
#[derive(Debug, clap::Args)]
pub(crate) struct RunCluster {
    /// How many rows to make up [default: 1000000]
    #[arg(long, value_name = "N", env = "INPUT_LINES", hide_env_values = true)]
    pub(crate) input_lines: Option<u64>,
    /// The other name of 2018 for the same
    #[arg(long, value_name = "N", env = "INPUT_SIZE", hide = true)]
    pub(crate) input_size: Option<u64>,
    /// A CSV file with a header in place of fake rows
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Fake rows of another seed are other rows
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Worker threads on each machine
    #[arg(long, value_name = "W", env = "WORKERS_PER_MACHINE", default_value_t = 7,
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) workers: u16,
    /// The black box, if not the one that up has shipped
    #[arg(long, value_name = "BOX")]
    pub(crate) classifier: Option<String>,
    /// How often the native box feeds a record to its hash
    #[arg(long, value_name = "TIMES", env = "CLASSIFIER_SLOWNESS", default_value_t = 10)]
    pub(crate) slowness: u32,
    /// Rows that a box sees at once
    #[arg(long, value_name = "ROWS", env = "CHUNK_SIZE", default_value_t = 100)]
    pub(crate) chunk_size: u32,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Fetch the results to output/results.tgz, and check them
///
/// Goes on where an earlier try was broken off.
#[derive(Debug, clap::Args)]
pub(crate) struct GetResults {
    /// The folder for it [default: output/ in the project]
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Show the hosts, their programs, and how the job goes
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Show what the programs print
#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// Only this host
    pub(crate) host: Option<String>,
    /// Go on as more is printed, until Ctrl-C
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// How many lines of each program, at most
    #[arg(long, short = 'n', value_name = "LINES", default_value_t = 100)]
    pub(crate) lines: u32,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Log in to a host, or run a command there
#[derive(Debug, clap::Args)]
pub(crate) struct Ssh {
    /// Which one
    pub(crate) host: String,
    /// The command
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// End the job, keep what is received, and say how far it came
#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Remove what up has put on the hosts, and nothing else
#[derive(Debug, clap::Args)]
pub(crate) struct Down {
    /// Also while a job is running, which is then ended; and forget hosts that cannot be reached
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Runs the command, in this build if it can, or else in one that can.
#[cfg(feature = "remote")]
pub(crate) fn run(command: &Remote) -> anyhow::Result<ExitCode> {
    crate::remote::run(command)
}

/// Runs the command, in this build if it can, or else in one that can.
#[cfg(not(feature = "remote"))]
pub(crate) fn run(_command: &Remote) -> anyhow::Result<ExitCode> {
    use std::os::unix::process::CommandExt;

    use anyhow::Context;

    use crate::project;

    let program = project::build_remote()?;
    let words = std::env::args_os().skip(1);
    let error = std::process::Command::new(&program).args(words).exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}
