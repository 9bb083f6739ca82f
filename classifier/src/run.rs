//! Runs a process of a cluster, from its settings to the end of its dataflow.

use std::net::TcpListener;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use net::WhenTaken;
use process::ready::Ready;
use protocol::handshake::{Member, ResultsHello};
use protocol::token::Token;

use crate::cluster::initializer::ControlPort;
use crate::cluster::member::Joined;
use crate::cluster::{self, Leaving, mesh};
use crate::dataflow::{self, Port, Process};
use crate::ingest;
use crate::measure::Room;
use crate::metrics::Metrics;
use crate::model::sleep::Sleep;
use crate::model::{Copied, Kind, Model, ModelSettings, Shared};
use crate::receiver_client::ReceiverClient;
use crate::window::Limits;

/// A process's settings.
#[derive(Debug, Clone)]
pub struct Settings {
    pub role: Role,
    /// Unique in the cluster.
    pub name: String,
    pub token: Option<Token>,
    /// The receiver's `HOST:PORT`.
    pub receiver: String,
    /// The address at which others reach the initializer's control port.
    pub control: String,
    /// The address of this process's end of control connections, where that matters.
    pub my_control: Option<String>,
    /// Where this process listens for data connections.
    pub data: String,
    /// Processes in the cluster.
    pub processes: usize,
    /// Worker threads in this process.
    pub workers: usize,
    pub model: ModelSettings,
    /// Rows in a batch; `None` to measure which number is good for a model with typed columns.
    pub chunk_size: Option<u32>,
    /// How long forming the cluster may take.
    pub join_patience: Duration,
    /// How long a restarted initializer waits for the others to come back.
    pub rejoin_patience: Duration,
    pub ready_file: Option<PathBuf>,
}

/// A process's role in the cluster.
#[derive(Debug, Clone)]
pub enum Role {
    /// The others join this process, and it receives the rows.
    Initializer(Rows),
    /// Joins the initializer.
    Member,
}

/// The settings of the rows' port and of the source.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Where senders connect.
    pub address: String,
    /// Whether plain clients are admitted although there is a token.
    pub allow_plain: bool,
    /// The window's limits.
    pub limits: Limits,
    /// How long a sender may stay away or silent, or an acknowledgement may take.
    pub patience: Duration,
}

/// A process that is about to form or join its cluster.
struct Start<'a> {
    settings: &'a Settings,
    cluster: cluster::Settings,
    data: TcpListener,
    models: Models,
    /// The ready file of this process's earlier life.
    before: Ready,
    leaving: Leaving,
    metrics: Metrics,
}

/// Forms or joins the cluster, and works until the job is done.
///
/// # Errors
/// When the process cannot start its part. Later errors end the process.
pub fn run(settings: &Settings, metrics: Metrics) -> anyhow::Result<()> {
    let before = Ready::before(settings.ready_file.as_deref())?;
    // An initializer's ready file has an address for rows once its cluster has formed. The others write theirs only then.
    let is_initializer = matches!(settings.role, Role::Initializer(_));
    let formed = |ready: &Ready| !is_initializer || ready.addresses.contains_key("rows");
    let was_member = before.as_ref().is_some_and(formed);
    let before = before.unwrap_or_default();
    let mut models = Models::load(settings, was_member)?;
    if was_member {
        // A process must not rejoin before its models are loaded: each failure to load would end the generation for all
        // others.
        models.wait();
    }
    // The supervisor holds the ports of the ready file while this process restarts.
    let was_at = before.addresses.get("data").copied();
    let data = net::listen_again("data connections", was_at, &settings.data, WhenTaken::Fail)?;
    let cluster = cluster::Settings {
        control: settings.control.clone(),
        my_control: settings.my_control.clone(),
        me: Member {
            name: settings.name.clone(),
            data: data.local_addr()?.to_string(),
            workers: settings.workers,
            build: build_id()?,
            settings: settings.result_settings(),
        },
        processes: settings.processes,
        token: settings.token.clone(),
        patience: settings.join_patience,
        rejoin: was_member.then_some(settings.rejoin_patience),
    };
    let leaving = Leaving::default();
    let start = Start { settings, cluster, data, models, before, leaving, metrics };
    match &settings.role {
        Role::Initializer(rows) => start.initialize(rows),
        Role::Member => start.join(),
    }
}

impl Start<'_> {
    fn initialize(self, rows: &Rows) -> anyhow::Result<()> {
        let Self { settings, cluster, data, mut models, before, leaving, metrics } = self;
        let was_at = |what: &str| before.addresses.get(what).copied();
        let control = settings.my_control.as_ref().unwrap_or(&settings.control);
        let control = net::listen_again("control", was_at("control"), control, WhenTaken::Fail)?;
        let mut ready = Ready::new([("control", control.local_addr()?), ("data", data.local_addr()?)]);
        if cluster.rejoin.is_none() {
            ready.write(settings.ready_file.as_deref())?;
        }
        // Bound now, so that a taken port is an error now. Senders are accepted once the cluster has formed.
        let port = net::bind_again("rows", was_at("rows"), &rows.address, WhenTaken::Fail)?;
        let control = ControlPort::open(&cluster, control, leaving.clone())?;
        control.gather()?;
        // The receiver numbers generations, since it outlives them; a clock may step back.
        let receiver = self::receiver(settings, &ResultsHello::Initializer { name: settings.name.clone() })?;
        let formation = control.form(receiver.welcome.generation)?;
        let sockets = mesh::connect(data, &formation, cluster.token.as_ref(), cluster.patience)?;
        let job = protocol::hash::short(cluster.me.settings.as_bytes());
        ensure!(
            receiver.welcome.identity.is_none_or(|known| known.settings == job),
            "the receiver at {} has results of a job with other settings than these: {}",
            settings.receiver,
            cluster.me.settings
        );
        let loaded = models.wait();
        // Only to decide what earlier generations have not decided.
        let measures = settings.chunk_size.is_none() && receiver.welcome.terms.is_none();
        let first = loaded.first_mut().filter(|_| measures);
        let meter = first.map(|first| {
            let none: Box<dyn Model> = Box::new(Sleep::new(Duration::ZERO));
            let shared = Shared::new(std::mem::replace(first, none));
            let meter = shared.meter();
            *first = Box::new(shared);
            meter
        });
        control.start()?;
        process::log::set_generation(formation.generation);
        tracing::info!("the generation begins");
        let listener = port.listen()?;
        let address = listener.local_addr()?;
        ready.addresses.insert("rows".into(), address);
        ready.write(settings.ready_file.as_deref())?;
        tracing::info!(
            "{} processes of {} workers; rows come in at {address}",
            formation.members.len(),
            settings.workers
        );
        let port = Port {
            listener,
            settings: ingest::Settings {
                chunk_size: settings.chunk_size,
                typed: settings.model.kind.is_typed(),
                meter,
                room: Room {
                    workers: formation.members.iter().map(|member| member.workers).sum(),
                    bytes: rows.limits.bytes,
                },
                token: settings.token.clone(),
                allow_plain: rows.allow_plain,
                patience: rows.patience,
            },
            job,
            limits: rows.limits,
            patience: rows.patience,
        };
        let models = models.take();
        let process = Process { index: 0, sockets, models, receiver, port: Some(port), leaving, metrics };
        let summary = dataflow::run(process)?.context("the initializer has no summary")?;
        tracing::info!("done: {} rows", summary.rows);
        Ok(())
    }

    fn join(self) -> anyhow::Result<()> {
        let Self { settings, cluster, data, mut models, leaving, metrics, .. } = self;
        ensure!(settings.processes > 1, "a process that joins others needs their number: --worker-count N");
        let joined = Joined::join(&cluster, leaving.clone())?;
        let formation = joined.formation.clone();
        let sockets = mesh::connect(data, &formation, cluster.token.as_ref(), cluster.patience)?;
        let hello = ResultsHello::Worker { name: settings.name.clone(), generation: formation.generation };
        let receiver = receiver(settings, &hello)?;
        models.wait();
        joined.start()?;
        Ready::new([]).write(settings.ready_file.as_deref())?;
        let (index, models) = (formation.process, models.take());
        dataflow::run(Process { index, sockets, models, receiver, port: None, leaving, metrics })?;
        Ok(())
    }
}

fn receiver(settings: &Settings, hello: &ResultsHello) -> anyhow::Result<ReceiverClient> {
    ReceiverClient::connect(&settings.receiver, settings.token.as_ref(), hello, settings.join_patience)
}

impl Settings {
    /// The settings that determine the results.
    fn result_settings(&self) -> String {
        let ModelSettings { kind, slowness, threads, copied, .. } = &self.model;
        let rows = self.chunk_size.map_or_else(|| "auto".to_owned(), |rows| rows.to_string());
        let threads = match kind {
            Kind::Python { .. } => format!(" --threads-per-worker {threads}"),
            Kind::Native | Kind::Sleep(_) => String::new(),
        };
        let columns = if *copied == Copied::First { " --columns new" } else { "" };
        format!("--model {kind:?} --chunk-size {rows} --slowness {slowness}{threads}{columns}")
    }
}

/// A model for each worker, loaded while the cluster forms, since an interpreter is slow to start.
///
/// If this is dropped before the models are at work, the process leaves its generation, and its successor takes over the
/// models' processes.
struct Models {
    loading: Option<JoinHandle<Vec<Box<dyn Model>>>>,
    loaded: Vec<Box<dyn Model>>,
}

impl Models {
    /// Loads the models on a separate thread. If one cannot be loaded, the thread ends this process at once. The end is
    /// final at the first start, and temporary `again`.
    fn load(settings: &Settings, again: bool) -> anyhow::Result<Self> {
        let (model, workers) = (settings.model.clone(), settings.workers);
        let load = move || match model.load_many(workers) {
            Ok(models) => models,
            Err(error) if again => crate::leave_generation(format_args!("{error:#}")),
            Err(error) => crate::fail(format_args!("{error:#}")),
        };
        let thread = std::thread::Builder::new().name("models".into()).spawn(load);
        Ok(Self { loading: Some(thread.context("starting a thread")?), loaded: Vec::new() })
    }

    /// The models, as soon as they are loaded.
    fn wait(&mut self) -> &mut Vec<Box<dyn Model>> {
        if let Some(loading) = self.loading.take() {
            self.loaded = loading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        &mut self.loaded
    }

    /// Puts the models to work.
    fn take(mut self) -> Vec<Box<dyn Model>> {
        std::mem::take(self.wait())
    }
}

impl Drop for Models {
    fn drop(&mut self) {
        std::mem::forget(std::mem::take(&mut self.loaded));
    }
}

/// A hash of this program. Processes of different builds might give different results, or fail to decode each other's
/// messages.
fn build_id() -> anyhow::Result<String> {
    // On Linux, this is the running program even if a newer build has replaced its file.
    let running = PathBuf::from("/proc/self/exe");
    let path = match running.exists() {
        true => running,
        false => std::env::current_exe().context("looking for this program's file")?,
    };
    let program = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(protocol::hash::short_hex(&program))
}
