//! What a user types, and what it means. No type of this module goes further than `main`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use classifier::model::{Kind, ModelSettings};
use classifier::run::{Role, Rows, Settings};
use classifier::window::Limits;
use net::WhenTaken;
use protocol::ports;
use protocol::results::LONGEST_WINDOW;
use protocol::token::Token;
use telemetry::reporter;

/// Classifies rows on a cluster of processes and threads.
///
/// The process with --cluster-initializer waits at its control port until --worker-count processes have joined (it
/// counts itself), and only then takes rows at --in. Results go to the receiver at --out.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  classifier --cluster-initializer --workers 2
      one process with two workers: rows at 127.0.0.1:8888, results to 127.0.0.1:9999
  classifier --cluster-initializer --worker-count 2 --control 10.0.0.1:12500 --my-data 10.0.0.1:12600 …
  classifier --worker-count 2 --control 10.0.0.1:12500 --my-data 10.0.0.2:12600 --name w1 …
      two processes, on two hosts
  classifier file input.csv output.csv
      no cluster: one thread, from file to file"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) reports: reporter::Options,
    #[command(flatten)]
    pub(crate) log: process::log::Options,
}

/// What a process of a cluster is told.
#[derive(Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    /// Where rows come in (the initializer listens here)
    #[arg(long = "in", value_name = "HOST:PORT", default_value_t = format!("127.0.0.1:{}", ports::ROWS), value_parser = net::host_and_port)]
    input: String,
    /// Where the receiver listens
    #[arg(long = "out", value_name = "HOST:PORT", default_value_t = format!("127.0.0.1:{}", ports::RESULTS), value_parser = net::host_and_port)]
    output: String,
    /// Where the initializer listens for processes that join
    #[arg(long, value_name = "HOST:PORT", default_value_t = format!("127.0.0.1:{}", ports::CONTROL), value_parser = net::host_and_port)]
    control: String,
    /// This process's own end of control connections: where the initializer listens, if that is not what others see
    /// as --control; where the others connect from, on hosts with several addresses
    #[arg(long, value_name = "HOST:PORT", value_parser = net::host_and_port)]
    my_control: Option<String>,
    /// Where this process listens for data connections of others [default: a free port of 127.0.0.1]
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0", hide_default_value = true, value_parser = net::host_and_port)]
    my_data: String,
    /// When a port is taken, take any free one; the ready file says which
    #[arg(long)]
    any_port: bool,
    /// Processes in the cluster
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    worker_count: u32,
    /// Worker threads in this process; the same in all of them
    #[arg(long, value_name = "W", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: u32,
    /// Be the process that the others join, and that takes the rows in
    #[arg(long)]
    cluster_initializer: bool,
    /// This process's name [default: initializer, or worker- and its process id]
    #[arg(long)]
    name: Option<String>,
    /// A file with the job's token; who does not know it is refused
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Let plain clients, which cannot show a token, send rows although there is one
    #[arg(long)]
    allow_plain: bool,
    /// Batches that may be issued and not yet durable at the receiver
    #[arg(long, value_name = "BATCHES", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=i64::from(LONGEST_WINDOW)))]
    window_batches: u32,
    /// Bytes of rows in these, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    window_mib: u32,
    /// How long the other processes, the receiver, a sender or an acknowledgement may let this process wait
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=process::LONGEST_WAIT))]
    patience: u64,
    /// How long forming the cluster may take; Python models are loaded meanwhile
    #[arg(long, value_name = "SECONDS", default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=process::LONGEST_WAIT))]
    join_patience: u64,
    /// How long an initializer that is started again waits for the other processes to come back, before it goes on without
    /// those that do not
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=process::LONGEST_WAIT))]
    rejoin_patience: u64,
    /// Write addresses to this file: the initializer writes `control` when others can join and
    /// adds `rows` when rows can come in; the others write it when the cluster has started. A process that finds its own
    /// addresses there has been started again, and listens at the same ones
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// Rows that a model sees at once
    #[arg(long, value_name = "ROWS", default_value_t = 100, global = true,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) chunk_size: u32,
    /// How often the native model feeds a record to its hash; Python models find it in CLASSIFIER_SLOWNESS
    #[arg(long, value_name = "TIMES", default_value_t = 10, global = true, env = "CLASSIFIER_SLOWNESS")]
    slowness: u32,
    /// The model: native, python:MODULE[:FUNCTION] or sleep:MICROSECONDS
    #[arg(long, alias = "classifier", value_name = "MODEL", default_value = "native", global = true)]
    model: Kind,
    /// The interpreter for Python models; it needs pandas
    #[arg(long, value_name = "PATH", default_value = "python3", global = true)]
    python: PathBuf,
    /// How many threads the libraries of a Python model may use in each worker, whatever the environment says; part of the
    /// job's settings, since the last bits of a result may depend on it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024), global = true)]
    threads_per_worker: u32,
    /// How long a Python model may take for a batch before it is killed
    #[arg(long, alias = "box-timeout", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=process::LONGEST_WAIT), global = true)]
    model_timeout: u64,
    /// How much memory a Python model, with all that it has started, may have before it is killed, in MiB [default: the machine's, shared by the workers of
    /// this process]
    #[arg(long, alias = "box-memory", value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..), global = true)]
    model_memory: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Classify a CSV file in one thread, without a network
    File {
        /// The CSV, with a header
        input: PathBuf,
        /// Where the results go; rejects go beside it, to *.rejects.csv
        output: PathBuf,
        /// Fail when there are rejects
        #[arg(long)]
        strict: bool,
        /// What separates values. Only a comma does; to say so overrules the guess that the input is no CSV with commas
        #[arg(long, value_name = "CHARACTER", value_parser = [","])]
        delimiter: Option<String>,
    },
    /// Make the model and do nothing with it: says whether it can be had here, and if not, why
    Check,
    /// Guard a Python process; only a classifier starts this
    #[command(hide = true)]
    Guard {
        /// What to run
        #[arg(last = true)]
        command: Vec<OsString>,
    },
}

impl Args {
    /// The settings of a process of a cluster.
    ///
    /// # Errors
    /// A token that cannot be read.
    pub(crate) fn cluster_settings(self) -> anyhow::Result<Settings> {
        let Self { model, cluster: args, .. } = self;
        let patience = Duration::from_secs(args.patience);
        let rows = Rows {
            address: args.input,
            allow_plain: args.allow_plain,
            limits: Limits { batches: args.window_batches as usize, bytes: (args.window_mib as usize) << 20 },
            patience,
        };
        let (role, name) = match args.cluster_initializer {
            true => (Role::Initializer(rows), "initializer".to_owned()),
            false => (Role::Member, format!("worker-{}", std::process::id())),
        };
        Ok(Settings {
            role,
            name: args.name.unwrap_or(name),
            token: args.token_file.as_deref().map(Token::load).transpose()?,
            receiver: args.output,
            control: args.control,
            my_control: args.my_control,
            data: args.my_data,
            when_taken: WhenTaken::any_port(args.any_port),
            processes: args.worker_count as usize,
            workers: args.workers as usize,
            chunk_size: model.chunk_size as usize,
            model: model.settings(args.workers),
            join_patience: Duration::from_secs(args.join_patience),
            rejoin_patience: Duration::from_secs(args.rejoin_patience),
            ready_file: args.ready_file,
        })
    }
}

impl ModelArgs {
    /// The settings of the models of a process with this many workers.
    pub(crate) fn settings(&self, workers: u32) -> ModelSettings {
        ModelSettings {
            kind: self.model.clone(),
            slowness: self.slowness,
            threads: self.threads_per_worker,
            python: self.python.clone(),
            timeout: Duration::from_secs(self.model_timeout),
            memory: self.model_memory.unwrap_or_else(|| machine_memory() / u64::from(workers)),
        }
    }
}

/// The machine's memory in MiB; unlimited where the system does not say. Its free memory would be another figure in each life of
/// this process, and least just while the models of the life before are ending.
fn machine_memory() -> u64 {
    let said = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = said.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib / 1024)
}
