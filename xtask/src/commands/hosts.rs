//! Flags of the commands for hosts. Another program executes them; see [`dispatch`].

mod convert;
mod dispatch;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;

use super::duration::duration;
use super::job_args::{EXIT_CODES, ModelArgs, RowArgs};
use super::model_name::ModelName;
use super::result_args::ResultArgs;

pub(crate) use dispatch::run;

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

#[derive(Debug, clap::Args)]
struct InventoryArgs {
    /// List of the hosts, written by up [default: inventory.toml]
    ///
    /// The default file is in the project's folder.
    #[arg(long, value_name = "FILE", global = true, help_heading = None)]
    inventory: Option<PathBuf>,
}

/// Options of a stack in the cloud. `up` remembers them, except the last three.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "EC2")]
struct StackArgs {
    /// Name of the stack [default: provisioned-classifier]
    ///
    /// The stack is everything that up creates on EC2.
    #[arg(long, value_name = "NAME")]
    stack: Option<String>,
    /// Region [default: the stack's, or from the AWS configuration]
    ///
    /// Without a stack that is up, the default is AWS_REGION, the AWS profile's region, the last up's region, or us-west-2.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    region: Vec<String>,
    /// Instance types, most wanted first [default: c5.4xlarge]
    ///
    /// up uses the first one for which a zone has room. On aarch64 the default is c7g.4xlarge.
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    instance_type: Vec<String>,
    /// Machine image [default: the newest Ubuntu LTS]
    #[arg(long, value_name = "ID")]
    ami: Option<String>,
    /// Public subnet [default: a subnet of the default VPC]
    #[arg(long, value_name = "ID")]
    subnet: Option<String>,
    /// Networks that may connect by SSH [default: this machine]
    ///
    /// CIDR blocks, or the word anywhere.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    ssh_from: Vec<String>,
    /// User to log in as [default: ubuntu]
    #[arg(long, value_name = "NAME")]
    ssh_user: Option<String>,
    /// Use spot instances for workers, where available
    ///
    /// The initializer and the metrics host stay on demand: no job can continue without them.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        hide_possible_values = true, value_parser = BoolishValueParser::new())]
    spot: Option<bool>,
    /// Time after which machines terminate themselves [default: 4h]
    ///
    /// A number with s, m, h or d, such as 90m.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    ttl: Option<Duration>,
    /// Size of each disk [default: 30]
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u32).range(8..=16384))]
    disk_gib: Option<u32>,
    /// Phone numbers for alarms [default: ONCALL.json]
    ///
    /// A JSON list. The default file is beside the inventory.
    #[arg(long, value_name = "FILE")]
    oncall: Option<PathBuf>,
    /// Time limit for machines to boot
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    boot_time: Duration,
    /// How long to keep looking for resources that AWS does not list yet
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    settle: Duration,
}

/// Show the changes that up would make on EC2, and make none
///
/// Exit codes: 0 if there is nothing to change, 2 if there are changes, 1 on failure.
#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    /// Machines that classify [default: as last time]
    ///
    /// One more machine, the metrics host, reads the rows and writes the results.
    #[arg(long, value_name = "N", env = "CLUSTER_SIZE", hide_env_values = true, value_parser = clap::value_parser!(u16).range(1..=1000))]
    cluster_size: Option<u16>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stack: StackArgs,
    #[command(flatten)]
    inventory: InventoryArgs,
}

/// Get hosts ready for a job: yours over SSH, or new ones on EC2
///
/// With --hosts, uses the hosts that a file lists. They need an SSH server and, for a Python model, python3. Without
/// --hosts, uses the hosts of the last up, or launches machines on EC2.
///
/// Checks the hosts, ships the programs and the model, and writes a list of the hosts, the inventory. A second up makes
/// only the missing changes.
///
/// A later up keeps the EC2 options of the last one, unless they are given again. It does not keep --oncall, --boot-time and
/// --settle.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    prepare: PrepareArgs,
}

/// Where hosts come from.
#[derive(Debug, clap::Args)]
struct SourceArgs {
    /// Where hosts come from: ssh (a file) or aws
    ///
    /// The default is ssh with --hosts; without it, the same as for the last up, or aws.
    #[arg(long, value_name = "NAME", value_enum, hide_possible_values = true)]
    provider: Option<ProviderArg>,
    /// A TOML file that lists hosts
    ///
    /// docs/machines.md shows one.
    #[arg(long, value_name = "FILE")]
    hosts: Option<PathBuf>,
    /// SSH configuration, in place of ~/.ssh/config
    #[arg(long, value_name = "FILE")]
    ssh_config: Option<PathBuf>,
}

/// How hosts are made ready for a job.
#[derive(Debug, clap::Args)]
struct PrepareArgs {
    /// Machines that classify [default: as last time]
    ///
    /// One more machine, the metrics host, reads the rows and writes the results. The first time, EC2 needs a number;
    /// up --hosts uses all hosts of its file.
    #[arg(long, value_name = "N", env = "CLUSTER_SIZE", hide_env_values = true, value_parser = clap::value_parser!(u16).range(1..=1000))]
    cluster_size: Option<u16>,
    /// FILE.py[:OBJECT], python:MODULE[:OBJECT], native or sleep:MICROSECONDS
    ///
    /// A file is shipped with everything in its folder, and a package with its top folder, up to 200 MiB. Environments,
    /// caches, hidden files and private keys are left out. The default is the model of the last up, or native. A job with
    /// --input must name its model.
    #[arg(long, alias = "classifier", value_name = "MODEL")]
    model: Option<ModelName>,
    /// Python packages for the model [default: requirements.txt]
    ///
    /// The default file is in the package's top folder, or beside the module. Without a file, only pandas is shipped.
    #[arg(long, value_name = "FILE")]
    requirements: Option<PathBuf>,
    /// Ship only this file or folder with the module
    ///
    /// The package or the module's file is shipped in any case. The path must be in the module's folder. Can be given several
    /// times.
    #[arg(long, value_name = "PATH")]
    include: Vec<PathBuf>,
    #[command(flatten)]
    stack: StackArgs,
    #[command(flatten)]
    inventory: InventoryArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ProviderArg {
    /// The file given by --hosts
    Ssh,
    /// EC2
    Aws,
}

/// Run a whole job on EC2: up, run-cluster, get-results, down
///
/// Takes the stack down at the end, even if a step fails, and on Ctrl-C, SIGTERM or a closed terminal. Leaves the stack up
/// if another job runs on it.
///
/// If the job does not finish, first fetches its complete batches to output/results.partial.tgz, for at most ten minutes. A
/// second Ctrl-C skips the fetch. A third one leaves the stack up; its machines terminate themselves after --ttl.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXIT_CODES)]
pub(crate) struct JobArgs {
    #[command(flatten)]
    prepare: PrepareArgs,
    #[command(flatten)]
    job: ClusterJobArgs,
    /// Folder for the results [default: output/ in the project]
    #[arg(long, value_name = "DIR", help_heading = None)]
    output: Option<PathBuf>,
    /// Leave the stack up
    #[arg(long, help_heading = None)]
    keep: bool,
    /// Leave the stack up if the job fails or is interrupted
    #[arg(long, help_heading = None)]
    keep_on_failure: bool,
}

/// Run a job on the hosts
///
/// Replaces the results of an earlier job on the hosts. The Monitoring Hub keeps running after the job.
///
/// The job does not depend on this machine: it continues if the connection is lost or the terminal is closed. Ctrl-C ends
/// it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXIT_CODES)]
pub(crate) struct RunClusterArgs {
    /// Watch the job that is running
    ///
    /// Ctrl-C then stops watching, and the job continues.
    #[arg(long, conflicts_with = "resume")]
    attach: bool,
    /// Continue the last job where it stopped
    ///
    /// Uses the hosts that the last up has prepared. Accepts --workers, --max-rejects, --load-timeout, --model-timeout and
    /// --model-memory, and no other option of the job. Ignores the environment variables of options.
    #[arg(long)]
    resume: bool,
    /// The model [default: the model that up has shipped]
    ///
    /// A job with --input must name its model, here or in up.
    #[arg(long, alias = "classifier", value_name = "MODEL")]
    model: Option<ModelName>,
    #[command(flatten)]
    job: ClusterJobArgs,
    #[command(flatten)]
    inventory: InventoryArgs,
}

/// The rows, and how to classify them.
#[derive(Debug, clap::Args)]
struct ClusterJobArgs {
    #[command(flatten)]
    rows: RowArgs,
    #[command(flatten)]
    model_args: ModelArgs,
    #[command(flatten)]
    results: ResultArgs,
    /// Worker threads on each machine [default: 7]
    ///
    /// A resumed job keeps its number by default.
    #[arg(long, value_name = "W", env = "WORKERS_PER_MACHINE", hide_env_values = true, help_heading = "Machines",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
}

/// Fetch the results and the report, and check them
///
/// Writes results.tgz, its unpacked files, report.html and report.json to the output folder, in place of an earlier job's
/// results. Continues an interrupted fetch.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXIT_CODES)]
pub(crate) struct GetResultsArgs {
    /// Folder to write to [default: output/ in the project]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Fetch the complete batches of an unfinished job
    ///
    /// Writes results.partial.tgz. A running job continues.
    #[arg(long)]
    partial: bool,
    /// Time limit for --partial
    ///
    /// The archive has the rows that were fetched by then.
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "partial")]
    within: Option<Duration>,
    #[command(flatten)]
    inventory: InventoryArgs,
}

/// Show the hosts, their programs and the job's progress
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    inventory: InventoryArgs,
}

/// Show the programs' logs
///
/// Without an inventory, shows the logs of the last job on this machine.
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// Show only this host
    host: Option<String>,
    /// Show new lines as they are written, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Number of last log lines of each program
    #[arg(long, short = 'n', value_name = "LINES", default_value_t = 100)]
    lines: u32,
    #[command(flatten)]
    inventory: InventoryArgs,
}

/// Log in to a host, or run a command there
#[derive(Debug, clap::Args)]
pub(crate) struct SshArgs {
    /// Name of the host
    host: String,
    /// The command to run
    #[arg(last = true)]
    command: Vec<String>,
    #[command(flatten)]
    inventory: InventoryArgs,
}

/// Open a tunnel to the job's Monitoring Hub, until Ctrl-C
///
/// The hub runs on the metrics host, from the start of the job until stop, down or the next job.
#[derive(Debug, clap::Args)]
pub(crate) struct HubArgs {
    #[command(flatten)]
    inventory: InventoryArgs,
}

/// End the job and its Monitoring Hub, and keep its results so far
///
/// Prints how many rows are done. run-cluster --resume continues the job.
#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    inventory: InventoryArgs,
}

/// Undo up: clear the hosts, or destroy the stack on EC2
///
/// On hosts from a file, removes the files that up has shipped. On EC2, destroys the stack, and checks that nothing is
/// left. --stack NAME works from any folder.
///
/// Refuses while the hosts have results that were not fetched. On EC2, continues without this check if there is no
/// inventory of the stack, or if machines do not answer.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXIT_CODES)]
pub(crate) struct DownArgs {
    /// End a running job, and forget hosts that cannot be reached
    ///
    /// Only for hosts from a file; ignored on EC2.
    #[arg(long)]
    force: bool,
    /// Discard results that were not fetched
    #[arg(long)]
    discard_results: bool,
    /// Where hosts come from: ssh (a file) or aws
    ///
    /// The default is the provider of the inventory, or aws.
    #[arg(long, value_name = "NAME", value_enum, hide_possible_values = true)]
    provider: Option<ProviderArg>,
    /// Name of the stack on EC2 [default: this folder's stack]
    ///
    /// Required in a folder without a stack's SSH key. Destroys the stack even if it has another SSH key.
    #[arg(long, value_name = "NAME")]
    stack: Option<String>,
    /// Take down only a stack that has this folder's SSH key, even if --stack names it
    #[arg(long, hide = true)]
    own: bool,
    /// Time until AWS's answers count as complete
    ///
    /// AWS may list new resources with a delay, so down looks a second time after this.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    settle: Duration,
    /// Regions to look in, or all [default: the stack's region]
    ///
    /// In a folder without a stack, the default is AWS_REGION, the AWS profile's region, or us-west-2.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    region: Vec<String>,
    #[command(flatten)]
    inventory: InventoryArgs,
}
