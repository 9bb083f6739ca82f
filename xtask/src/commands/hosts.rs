//! Commands for hosts: their flags, and what they mean. Another program does the work; see [`dispatch`].

mod convert;
mod dispatch;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;

use super::job_args::{EXIT_CODES, ModelArgs, RowArgs};

pub(crate) use dispatch::run;

/// Commands for other hosts.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum HostCommand {
    Plan(Box<PlanArgs>),
    Up(Box<UpArgs>),
    Job(Box<JobArgs>),
    RunCluster(Box<RunClusterArgs>),
    GetResults(GetResultsArgs),
    Status(StatusArgs),
    Logs(LogsArgs),
    Ssh(SshArgs),
    Hub(HubArgs),
    Stop(StopArgs),
    Down(DownArgs),
}

/// Where the inventory is.
#[derive(Debug, clap::Args)]
struct InventoryArgs {
    /// The file that says which hosts there are, written by up [default: inventory.toml in the project]
    #[arg(long, value_name = "FILE", global = true, help_heading = None)]
    inventory: Option<PathBuf>,
}

/// What a stack in the cloud is to be. All of it is remembered by up.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Hosts from EC2")]
struct StackArgs {
    /// The name of the stack; all that belongs to it is tagged with it [default: provisioned-classifier]
    #[arg(long, value_name = "NAME")]
    stack: Option<String>,
    /// Where it is [default: AWS_REGION, the region of the AWS profile, or us-west-2]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    region: Vec<String>,
    /// What machines may be, the most wanted first [default: c5.4xlarge, or on aarch64 c7g.4xlarge]
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    instance_type: Vec<String>,
    /// Their image [default: Ubuntu's newest with long-term support]
    #[arg(long, value_name = "ID")]
    ami: Option<String>,
    /// A subnet that the internet reaches [default: those of the default VPC]
    #[arg(long, value_name = "ID")]
    subnet: Option<String>,
    /// Networks from which SSH is let in, or anywhere [default: this machine's address]
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    ssh_from: Vec<String>,
    /// The user to log in as [default: ubuntu]
    #[arg(long, value_name = "NAME")]
    ssh_user: Option<String>,
    /// Spot instances for workers, where there are any
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        hide_possible_values = true, value_parser = BoolishValueParser::new())]
    spot: Option<bool>,
    /// After this time machines end themselves, such as 90m [default: 4h]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    ttl: Option<Duration>,
    /// The size of their disks in GiB [default: 30]
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u32).range(8..=16384))]
    disk_gib: Option<u32>,
    /// The phone numbers that alarms go to, a JSON list [default: ONCALL.json beside the inventory]
    #[arg(long, value_name = "FILE")]
    oncall: Option<PathBuf>,
    /// How long machines may take to boot
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    boot_time: Duration,
}

/// A time as people write it: a number and a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let seconds = match &text[digits..] {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err("it should be a number with s, m, h or d behind it".to_owned()),
    };
    let number: u32 = text[..digits].parse().map_err(|error| format!("{error}"))?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

/// Show what up would change in the cloud, and change nothing
///
/// Exits with 0 if there is nothing to change, with 2 if there is, and with 1 if it cannot tell.
#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    /// How many machines classify; one more host is for sender and receiver [default: as before]
    #[arg(long, value_name = "N", env = "CLUSTER_SIZE", value_parser = clap::value_parser!(u16).range(1..=1000))]
    cluster_size: Option<u16>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stack: StackArgs,
    #[command(flatten)]
    inventory: InventoryArgs,
}

/// Make hosts ready: get them, check them, ship the programs, write the inventory
///
/// Hosts are those of a file (--hosts), which need SSH and nothing else, or are launched on EC2. Running it again changes
/// only what differs.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// How many machines classify; one more host is for sender and receiver [default: as before; for --hosts, all]
    #[arg(long, value_name = "N", env = "CLUSTER_SIZE", value_parser = clap::value_parser!(u16).range(1..=1000))]
    cluster_size: Option<u16>,
    /// Where hosts come from: ssh or aws [default: as before; ssh with --hosts, else aws]
    #[arg(long, value_name = "NAME", value_enum, hide_possible_values = true)]
    provider: Option<ProviderArg>,
    /// A TOML file of hosts that let you in
    #[arg(long, value_name = "FILE")]
    hosts: Option<PathBuf>,
    /// An SSH configuration in place of the user's own
    #[arg(long, value_name = "FILE")]
    ssh_config: Option<PathBuf>,
    /// The model: native, sleep:MICROSECONDS, or python:MODULE[:FUNCTION], whose module is shipped
    /// [default: as before, or native, which a job with --input wants to have said]
    #[arg(long, visible_alias = "classifier", value_name = "MODEL")]
    model: Option<String>,
    /// The Python packages that the module needs [default: requirements.txt beside the module, or just pandas]
    #[arg(long, value_name = "FILE")]
    requirements: Option<PathBuf>,
    #[command(flatten)]
    stack: StackArgs,
    #[command(flatten)]
    inventory: InventoryArgs,
}

/// Where hosts come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ProviderArg {
    /// A file that the user has written.
    Ssh,
    /// EC2.
    Aws,
}

/// All in one: up in the cloud, run-cluster, get-results, down
///
/// Once something is made, the stack is taken down in the end: also when a step fails, and on Ctrl-C and SIGTERM. Of a job that did
/// not come to its end, the complete batches are fetched first, to output/results.partial.tgz, for ten minutes at most. A second
/// Ctrl-C skips that; with a third one, the stack is left to its time to live.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct JobArgs {
    #[command(flatten)]
    up: UpArgs,
    #[command(flatten)]
    job: ClusterJobArgs,
    /// The folder for the results [default: output/ in the project]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Leave the stack up
    #[arg(long)]
    keep: bool,
    /// Leave the stack up if the job fails or is interrupted, to look into it
    #[arg(long)]
    keep_on_failure: bool,
}

/// Run a job on the hosts: receiver, classifiers, sender, and a Monitoring Hub, which stays when the job is done
///
/// Replaces the results of an earlier job on the hosts. A file is shipped to the metrics host first, so that this machine
/// is no part of the job: when the connection is lost or the terminal closed, the job goes on. (Ctrl-C ends it.)
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct RunClusterArgs {
    /// Show a job again that goes on without anybody watching; Ctrl-C ends only the watching
    #[arg(long, conflicts_with = "resume")]
    attach: bool,
    /// Go on with the last job where it was broken off or stopped, on the hosts that there are now. Of other options it takes
    /// --workers, --max-rejects, --model-timeout and --model-memory, if they are said here and not by variables of the environment
    #[arg(long)]
    resume: bool,
    /// The model, if not the one that up has shipped; with --input, it must have been said here or there
    #[arg(long, visible_alias = "classifier", value_name = "MODEL")]
    model: Option<String>,
    #[command(flatten)]
    job: ClusterJobArgs,
    #[command(flatten)]
    inventory: InventoryArgs,
}

/// What rows, and how they are classified.
#[derive(Debug, clap::Args)]
struct ClusterJobArgs {
    #[command(flatten)]
    rows: RowArgs,
    #[command(flatten)]
    model_args: ModelArgs,
    /// Worker threads on each machine [default: 7; of a resumed job, as before]
    #[arg(long, value_name = "W", env = "WORKERS_PER_MACHINE", help_heading = "Machines",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
}

/// Fetch the results to output/results.tgz, and check them; and the Monitoring Hub's report
///
/// Goes on where an earlier try was broken off.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct GetResultsArgs {
    /// The folder for it [default: output/ in the project]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Of a job that is not done, fetch the batches that are complete, to results.partial.tgz; a job that runs goes on
    #[arg(long)]
    partial: bool,
    /// Fetch for no longer than this; what has come by then is packed
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "partial")]
    within: Option<Duration>,
    #[command(flatten)]
    inventory: InventoryArgs,
}

/// Show the hosts, their programs, and how the job goes
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    inventory: InventoryArgs,
}

/// Show what the programs print
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// Only this host
    host: Option<String>,
    /// Go on as more is printed, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// How many lines of each program, at most
    #[arg(long, short = 'n', value_name = "LINES", default_value_t = 100)]
    lines: u32,
    #[command(flatten)]
    inventory: InventoryArgs,
}

/// Log in to a host, or run a command there
#[derive(Debug, clap::Args)]
pub(crate) struct SshArgs {
    /// Which one
    host: String,
    /// The command
    #[arg(last = true)]
    command: Vec<String>,
    #[command(flatten)]
    inventory: InventoryArgs,
}

/// Show the job's Monitoring Hub, through a tunnel, until Ctrl-C
///
/// It runs on the metrics host, from the start of the job until stop, down or the next job.
#[derive(Debug, clap::Args)]
pub(crate) struct HubArgs {
    #[command(flatten)]
    inventory: InventoryArgs,
}

/// End the job and its Monitoring Hub, keep what is received, and say how far it came
#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    inventory: InventoryArgs,
}

/// Undo what up has done, and nothing else
///
/// On hosts of a file, removes what was shipped. In the cloud, destroys all that bears the stack's tag, also from a folder
/// that knows nothing of the stack (--stack NAME), and looks that nothing is left.
///
/// Refuses while the hosts have results that were not fetched. It cannot know of those in the cloud from a folder without the
/// stack's inventory, or when the machines do not answer any more; then it goes on.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DownArgs {
    /// Also while a job is running, which is then ended; and forget hosts that cannot be reached
    #[arg(long)]
    force: bool,
    /// Also when there are results that were not fetched
    #[arg(long)]
    discard_results: bool,
    /// Where hosts come from: ssh or aws [default: as the inventory says, else aws]
    #[arg(long, value_name = "NAME", value_enum, hide_possible_values = true)]
    provider: Option<ProviderArg>,
    /// The name of the stack in the cloud; must be said where there is no SSH key [default: as remembered, or
    /// provisioned-classifier]
    #[arg(long, value_name = "NAME")]
    stack: Option<String>,
    /// How long to go on looking for what AWS does not show yet
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    settle: Duration,
    /// The regions to look in, or all [default: as remembered, AWS_REGION, that of the AWS profile, or us-west-2]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    region: Vec<String>,
    #[command(flatten)]
    inventory: InventoryArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("4h"), Ok(Duration::from_secs(14400)));
        for wrong in ["", "4", "h", "-1h", "4 h", "99999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
