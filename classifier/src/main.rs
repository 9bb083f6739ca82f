//! `classifier`: see `classifier --help`.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use classifier::classify::Classifier;
use classifier::cluster::initializer::Gathered;
use classifier::cluster::member::Joined;
use classifier::cluster::{Leaving, Settings, mesh};
use classifier::dataflow::{self, Port, Process};
use classifier::metrics::Metrics;
use classifier::model::python::guard;
use classifier::model::{Kind, Model, ModelSettings};
use classifier::receiver_client::ReceiverClient;
use classifier::window::Limits;
use classifier::{file, ingest};
use net::{self, WhenTaken};
use process::ready::Ready;
use protocol::Temporary;
use protocol::handshake::{Member, ResultsHello};
use protocol::ports;
use protocol::results::LONGEST_WINDOW;
use protocol::token::Token;
use telemetry::report::Ending;
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
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    model: ModelArgs,
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
    #[command(flatten)]
    reports: reporter::Options,
    #[command(flatten)]
    log: process::log::Options,
}

#[derive(Debug, clap::Args)]
struct ModelArgs {
    /// Rows that a model sees at once
    #[arg(long, value_name = "ROWS", default_value_t = 100, global = true,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    chunk_size: u32,
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
enum Command {
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
    fn when_taken(&self) -> WhenTaken {
        WhenTaken::any_port(self.any_port)
    }
}

impl ModelArgs {
    fn maker(&self, workers: u32) -> ModelSettings {
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

/// What the machine has, in MiB; where it does not say, as much as one may want. What it has free would be another figure in
/// each life of this process, and the smallest just when the models of the one before are ending.
fn machine_memory() -> u64 {
    let said = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = said.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib / 1024)
}

fn main() -> ExitCode {
    let args = Args::parse();
    process::begin("classifier", args.log);
    leave_on_lost_process();
    let outcome = match &args.command {
        Some(Command::File { input, output, strict, delimiter }) => {
            classify_file(&args.model, input, output, *strict, delimiter.is_some())
        }
        Some(Command::Guard { command }) => guard::run(command).map(|()| ExitCode::SUCCESS),
        Some(Command::Check) => args.model.maker(1).make().map(|_| ExitCode::SUCCESS),
        None => run(&args).map(|()| ExitCode::SUCCESS),
    };
    reporter::end(outcome.as_ref().map_or_else(Ending::of, |_| Ending::Finished));
    outcome.unwrap_or_else(|error| process::exit::failure(&error))
}

/// Timely panics when it has lost another process. Then this one leaves the generation, too.
fn leave_on_lost_process() {
    let end = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or_default();
        if let Some(error) = message.strip_prefix("timely communication error: ") {
            classifier::leave_generation(format_args!("lost another process of the cluster: {error}"))
        }
        end(panic);
    }));
}

fn classify_file(
    model: &ModelArgs,
    input: &Path,
    output: &Path,
    strict: bool,
    commas: bool,
) -> anyhow::Result<ExitCode> {
    let classifier = Classifier::new(model.maker(1).make()?);
    let start = Instant::now();
    let summary = file::classify(input, output, model.chunk_size as usize, commas, classifier)?;
    let seconds = start.elapsed().as_secs_f64();
    tracing::info!(
        "{} rows, of these {} rejects, in {seconds:.2} s ({:.0} rows/s)",
        summary.rows,
        summary.rejects,
        summary.rows as f64 / seconds
    );
    if summary.rejects > 0 {
        tracing::info!("the rejects are in {}", summary.rejects_path.display());
    }
    Ok(if strict && summary.rejects > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn run(args: &Args) -> anyhow::Result<()> {
    let token = args.token_file.as_deref().map(Token::load).transpose()?;
    let name = args.name.clone().unwrap_or_else(|| match args.cluster_initializer {
        true => "initializer".into(),
        false => format!("worker-{}", std::process::id()),
    });
    process::log::set_worker(&name);
    let metrics = Metrics::new(args.workers as usize);
    let counted = metrics.clone();
    reporter::start(&args.reports, token.as_ref(), &name, move || counted.counts())?;
    let before = Ready::before(args.ready_file.as_deref())?;
    // An initializer has an address for rows when its cluster has formed, and others are ready only then.
    let formed = |ready: &Ready| !args.cluster_initializer || ready.addresses.contains_key("rows");
    let was_member = before.as_ref().is_some_and(formed);
    let before = before.unwrap_or_default();
    let models = load_models(args, was_member)?;
    // One that has no model must not join again: each of its short lives would cost all others one of theirs.
    while was_member && !models.is_finished() {
        std::thread::sleep(Duration::from_millis(20));
    }
    // A port that the ready file names is kept between the lives of this process, for those that take it again.
    let was_at = before.addresses.get("data").copied();
    let data = net::listen_again("data connections", was_at, &args.my_data, args.when_taken())?;
    let settings = Settings {
        control: args.control.clone(),
        my_control: args.my_control.clone(),
        me: Member {
            name: name.clone(),
            data: data.local_addr()?.to_string(),
            workers: args.workers as usize,
            build: build_id()?,
            settings: result_settings(&args.model),
        },
        processes: args.worker_count as usize,
        token,
        patience: Duration::from_secs(args.join_patience),
        rejoin: was_member.then(|| Duration::from_secs(args.rejoin_patience)),
    };
    let leaving = Leaving::default();
    if args.cluster_initializer {
        initialize(args, &settings, data, models, &before, &leaving, metrics)
    } else {
        join(args, &settings, data, models, leaving, metrics)
    }
}

/// Models, or the thread that makes them.
type Models = JoinHandle<Vec<Box<dyn Model>>>;

/// Makes the models while the cluster forms, since an interpreter takes its time. One that cannot be made ends this process at
/// once; for good, unless there were models before.
fn load_models(args: &Args, again: bool) -> anyhow::Result<Models> {
    let (maker, workers) = (args.model.maker(args.workers), args.workers as usize);
    let make = move || match maker.make_many(workers) {
        Ok(models) => models,
        Err(error) if again => classifier::leave_generation(format_args!("{error:#}")),
        Err(error) => classifier::fail(format_args!("{error:#}")),
    };
    std::thread::Builder::new().name("models".into()).spawn(make).context("starting a thread")
}

fn made(models: Models) -> Vec<Box<dyn Model>> {
    models.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn initialize(
    args: &Args,
    settings: &Settings,
    data: TcpListener,
    models: Models,
    before: &Ready,
    leaving: &Leaving,
    metrics: Metrics,
) -> anyhow::Result<()> {
    let was_at = |what: &str| before.addresses.get(what).copied();
    let control = args.my_control.as_ref().unwrap_or(&args.control);
    let control = net::listen_again("control", was_at("control"), control, args.when_taken())?;
    let (control_address, data_address) = (control.local_addr()?, data.local_addr()?);
    if settings.rejoin.is_none() {
        let ready = Ready::new([("control", control_address), ("data", data_address)]);
        ready.write(args.ready_file.as_deref())?;
    }
    // The port is taken now, so that it is said now if another program has it; senders are let in when the cluster has
    // formed.
    let rows = net::bind_again("rows", was_at("rows"), &args.input, args.when_taken())?;
    let mut receiver = None;
    // The receiver numbers generations, since it is there all the time: a clock may step back.
    let generation = || {
        let who = ResultsHello::Initializer { name: settings.me.name.clone() };
        let connected =
            ReceiverClient::connect(&args.output, settings.token.as_ref(), &who, settings.patience)?;
        Ok(receiver.insert(connected).welcome.generation)
    };
    let gathered = Gathered::gather(settings, control, leaving, generation)?;
    let receiver = receiver.context("the cluster was gathered without its receiver")?;
    let formation = gathered.formation.clone();
    let sockets = mesh::connect(data, &formation, settings.token.as_ref(), settings.patience)?;
    let patience = Duration::from_secs(args.patience);
    let job = protocol::hash::short(settings.me.settings.as_bytes());
    if let Some(known) = receiver.welcome.identity {
        ensure!(
            known.settings == job,
            "the receiver at {} goes on with results of a job that had other settings than these: {}",
            args.output,
            settings.me.settings
        );
    }
    let models = made(models);
    gathered.start()?;
    let listener = rows.listen()?;
    Ready::new([("control", control_address), ("data", data_address), ("rows", listener.local_addr()?)])
        .write(args.ready_file.as_deref())?;
    tracing::info!(
        "{} processes of {} workers; rows come in at {}",
        formation.members.len(),
        args.workers,
        listener.local_addr()?
    );
    let port = Port {
        listener,
        settings: ingest::Settings {
            chunk_size: args.model.chunk_size as usize,
            token: settings.token.clone(),
            allow_plain: args.allow_plain,
            patience,
        },
        job,
        limits: Limits { batches: args.window_batches as usize, bytes: (args.window_mib as usize) << 20 },
        patience,
    };
    let leaving = leaving.clone();
    let process = Process { index: 0, sockets, models, receiver, port: Some(port), leaving, metrics };
    let summary = dataflow::run(process)?.context("the initializer has no summary")?;
    tracing::info!("done: {} rows", summary.rows);
    Ok(())
}

fn join(
    args: &Args,
    settings: &Settings,
    data: TcpListener,
    models: Models,
    leaving: Leaving,
    metrics: Metrics,
) -> anyhow::Result<()> {
    ensure!(args.worker_count > 1, "a process that joins others needs their number: --worker-count N");
    let joined = Joined::join(settings, &leaving)?;
    let formation = joined.formation.clone();
    let sockets = mesh::connect(data, &formation, settings.token.as_ref(), settings.patience)?;
    let who = ResultsHello::Worker { name: settings.me.name.clone(), generation: formation.generation };
    let receiver = ReceiverClient::connect(&args.output, settings.token.as_ref(), &who, settings.patience)?;
    let models = made(models);
    joined.start().context(Temporary("forming the cluster"))?;
    Ready::new([]).write(args.ready_file.as_deref())?;
    let process =
        Process { index: formation.process, sockets, models, receiver, port: None, leaving, metrics };
    dataflow::run(process)?;
    Ok(())
}

/// Tells builds apart: processes of different builds might give different results, or not understand each other.
fn build_id() -> anyhow::Result<String> {
    // On Linux this is the running program, even when its file was replaced meanwhile by a newer build.
    let running = PathBuf::from("/proc/self/exe");
    let path = match running.exists() {
        true => running,
        false => std::env::current_exe().context("looking for this program's file")?,
    };
    let program = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(protocol::hash::short_hex(&program))
}

/// The settings that decide what results look like.
fn result_settings(args: &ModelArgs) -> String {
    let (model, rows, slowness) = (&args.model, args.chunk_size, args.slowness);
    let mut settings = format!("--model {model:?} --chunk-size {rows} --slowness {slowness}");
    if let Kind::Python { .. } = model {
        settings += &format!(" --threads-per-worker {}", args.threads_per_worker);
    }
    settings
}
