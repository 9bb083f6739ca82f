//! The command line, and its conversion to settings. No type of this module goes further than `main`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::{Parser, Subcommand};
use classifier::file;
use classifier::model::{Copied, Kind, ModelSettings, StartMethod};
use classifier::run::{Role, Rows, Settings};
use classifier::window::Limits;
use columns::Spec;
use protocol::ports;
use protocol::results::LONGEST_WINDOW;
use protocol::token::Token;
use records::Declared;
use telemetry::reporter;

/// How many seconds forming a cluster may take longer than loading a model.
const LOAD_MARGIN: u64 = 60;
/// Rows in a batch by default.
const DEFAULT_CHUNK: u32 = 100;

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

/// The options of a process in a cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    /// Where the initializer takes rows
    #[arg(long = "in", value_name = "HOST:PORT", default_value_t = format!("127.0.0.1:{}", ports::ROWS), value_parser = net::host_and_port)]
    input: String,
    /// Where the receiver listens
    #[arg(long = "out", value_name = "HOST:PORT", default_value_t = format!("127.0.0.1:{}", ports::RESULTS), value_parser = net::host_and_port)]
    output: String,
    /// Where processes join the initializer
    #[arg(long, value_name = "HOST:PORT", default_value_t = format!("127.0.0.1:{}", ports::CONTROL), value_parser = net::host_and_port)]
    control: String,
    /// This process's own control address. For the initializer: where it listens, if others reach it at another address.
    /// For other processes: where they connect from, on hosts with several addresses
    #[arg(long, value_name = "HOST:PORT", value_parser = net::host_and_port)]
    my_control: Option<String>,
    /// Where this process accepts data connections [default: a free port of 127.0.0.1]
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0", hide_default_value = true, value_parser = net::host_and_port)]
    my_data: String,
    /// Processes in the cluster
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    worker_count: u32,
    /// Worker threads in this process; equal in all processes
    #[arg(long, value_name = "W", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: u32,
    /// Be the process that the others join, and that takes the rows
    #[arg(long)]
    cluster_initializer: bool,
    /// This process's name [default: initializer, or worker- and its process id]
    #[arg(long)]
    name: Option<String>,
    /// A file with the job's token; peers without it are refused
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Let plain clients send rows without the token, which they cannot show
    #[arg(long)]
    allow_plain: bool,
    /// How many issued batches may not yet be durable at the receiver
    #[arg(long, value_name = "BATCHES", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=i64::from(LONGEST_WINDOW)))]
    window_batches: u32,
    /// How many MiB of rows these batches may have
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    window_mib: u32,
    /// How long to wait for a sender or for an acknowledgement
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=process::LONGEST_WAIT))]
    patience: u64,
    /// How long forming the cluster may take; Python models are loaded meanwhile [default: a minute more than
    /// --load-timeout]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=process::LONGEST_WAIT))]
    join_patience: Option<u64>,
    /// How long a restarted initializer waits for the other processes before it continues without the missing ones
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=process::LONGEST_WAIT))]
    rejoin_patience: u64,
    /// Write this process's addresses to this file: the initializer writes `control` when others can join, and adds
    /// `rows` when it takes rows; other processes write the file when the cluster starts. A restarted process reuses the
    /// addresses in its ready file
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// Rows in a batch, or auto: a number that is good for the model, which is measured with some rows of the input
    /// [default: 100, or auto for a model with typed columns]
    #[arg(long, value_name = "ROWS|auto", global = true, value_parser = chunk_size)]
    chunk_size: Option<ChunkSize>,
    /// How many times the native model hashes a record; Python models get it as CLASSIFIER_SLOWNESS
    #[arg(long, value_name = "TIMES", default_value_t = 10, global = true, env = "CLASSIFIER_SLOWNESS")]
    slowness: u32,
    /// The model: native, python:MODULE[:OBJECT] or sleep:MICROSECONDS
    #[arg(long, alias = "classifier", value_name = "MODEL", default_value = "native", global = true)]
    model: Kind,
    /// With 2018, the OBJECT of a Python model is a function that gets a DataFrame of strings and returns it with the column
    /// CLASSIFICATION. Without an OBJECT, that is so anyway, and the function is classify_df
    #[arg(long, value_name = "YEAR", value_parser = ["2018"], hide_possible_values = true, global = true)]
    contract: Option<String>,
    /// The interpreter for Python models; it needs pandas
    #[arg(long, value_name = "PATH", default_value = "python3", global = true)]
    python: PathBuf,
    /// How many threads a Python model's libraries use in each worker. The last bits of a result may depend on it, so it
    /// must be equal in all processes, and the environment does not change it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024), global = true)]
    threads_per_worker: u32,
    /// Which columns the results of a model with typed columns have: all, or the first column and the new ones
    #[arg(long, value_name = "COLUMNS", value_parser = ["all", "new"], default_value = "all", global = true)]
    columns: String,
    /// How Python processes get the model: fork (one loads it, and forks itself for each worker), spawn (each loads it), or
    /// auto (fork, unless the model has started threads, opened files or connections, or uses a GPU)
    #[arg(long, value_name = "METHOD", default_value_t, global = true)]
    start_method: StartMethod,
    /// How long a Python model may take to load before it is killed
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=process::LONGEST_WAIT), global = true)]
    load_timeout: u64,
    /// How long a Python model may take for a batch before it is killed
    #[arg(long, alias = "box-timeout", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=process::LONGEST_WAIT), global = true)]
    model_timeout: u64,
    /// How much memory a Python model and its child processes may use before they are killed, in MiB [default: the
    /// machine's memory, divided by this process's workers]
    #[arg(long, alias = "box-memory", value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..), global = true)]
    model_memory: Option<u64>,
    /// Where what a Python model prints is kept, with the rows: in the file PREFIX0.log for the first worker, and so on. Each
    /// file is renamed to *.log.1 when it has 8 MiB [default: this program's log]
    #[arg(long, value_name = "PREFIX", global = true)]
    model_log: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Classify a CSV file in one thread, without a network
    File {
        /// The CSV, with a header
        input: PathBuf,
        /// Where results go; rejects go beside it, to *.rejects.csv
        output: PathBuf,
        /// Fail when there are rejects
        #[arg(long)]
        strict: bool,
        /// What separates values. Only a comma is supported; saying so overrules the check that the input looks like a CSV with
        /// commas
        #[arg(long, value_name = "CHARACTER", value_parser = [","])]
        delimiter: Option<String>,
        /// The types of columns, for a model that gets typed ones: infer, strings, or COLUMN=TYPE,… with the others inferred
        #[arg(long, value_name = "TYPES", default_value_t)]
        types: Spec,
    },
    /// Load the model and exit; fails with the reason if it cannot be loaded
    Check,
    /// Guard a Python process (internal)
    #[command(hide = true)]
    Guard {
        /// What to run
        #[arg(last = true)]
        command: Vec<OsString>,
    },
}

impl Args {
    /// The settings of a process in a cluster.
    ///
    /// # Errors
    /// When the token cannot be read.
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
            processes: args.worker_count as usize,
            workers: args.workers as usize,
            chunk_size: model.chunk_size()?,
            model: model.settings(args.workers),
            join_patience: Duration::from_secs(
                args.join_patience.unwrap_or(model.load_timeout + LOAD_MARGIN),
            ),
            rejoin_patience: Duration::from_secs(args.rejoin_patience),
            ready_file: args.ready_file,
        })
    }
}

/// `None` is auto.
type ChunkSize = Option<u32>;

fn chunk_size(text: &str) -> Result<ChunkSize, String> {
    let number = || text.parse().ok().filter(|rows| (1..=1_000_000).contains(rows)).map(Some);
    let size = if text == "auto" { Some(None) } else { number() };
    size.ok_or_else(|| "it is a number of rows from 1 to 1000000, or auto".to_owned())
}

impl ModelArgs {
    /// Rows in a batch; `None` to measure which number is good.
    ///
    /// # Errors
    /// Only models with typed columns can be measured.
    fn chunk_size(&self) -> anyhow::Result<Option<u32>> {
        let is_typed = self.settings(1).kind.is_typed();
        ensure!(
            is_typed || self.columns == "all",
            "--columns new is for models with typed columns, such as python:MODULE:OBJECT"
        );
        ensure!(
            is_typed || self.chunk_size != Some(None),
            "--chunk-size auto is for models with typed columns, such as python:MODULE:OBJECT"
        );
        Ok(self.chunk_size.unwrap_or(if is_typed { None } else { Some(DEFAULT_CHUNK) }))
    }

    /// How to classify a file without a cluster.
    ///
    /// # Errors
    /// As [`ModelArgs::chunk_size`].
    pub(crate) fn file_options(&self, declared: Declared, types: &Spec) -> anyhow::Result<file::Options> {
        let types = self.settings(1).kind.is_typed().then(|| types.clone());
        Ok(file::Options { chunk_size: self.chunk_size()?, declared, types })
    }

    /// The settings of the models of a process with this many workers.
    pub(crate) fn settings(&self, workers: u32) -> ModelSettings {
        ModelSettings {
            kind: match self.contract {
                Some(_) => self.model.clone().of_2018(),
                None => self.model.clone(),
            },
            slowness: self.slowness,
            threads: self.threads_per_worker,
            copied: if self.columns == "new" { Copied::First } else { Copied::All },
            start_method: self.start_method,
            python: self.python.clone(),
            load_timeout: Duration::from_secs(self.load_timeout),
            timeout: Duration::from_secs(self.model_timeout),
            memory: self.model_memory.unwrap_or_else(|| machine_memory() / u64::from(workers)),
            log: self.model_log.clone(),
        }
    }
}

/// The machine's memory in MiB, or no limit if the system does not report it. Free memory would be a bad measure: it is
/// lowest just after a restart, while the models of the previous process are ending.
fn machine_memory() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib / 1024)
}
