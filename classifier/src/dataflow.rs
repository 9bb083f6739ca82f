//! The dataflow, and how a process runs its part of it.
//!
//! All batches have the same timestamp. The source keeps its capability for an earlier timestamp until the receiver reports
//! all results as durable. So timely has no progress to announce to all workers while the job runs, and no worker leaves
//! while a batch may be needed again.
//!
//! Batches are cut at the rows' port ([`ingest`](crate::ingest)) and not by an operator. So a batch is a slice of the block
//! that was read from the socket, and the worker that runs the source has no work per row.

use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use parking_lot::Mutex;
use protocol::results::{FromReceiver, ResultBatch, Summary, Welcome};
use timely::WorkerConfig;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Config, Hooks};
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::operator::{self, Operator};
use timely::scheduling::SyncActivator;
use timely::worker::Worker;

use crate::batch::{Batches, ToWorker};
use crate::classify::Classifier;
use crate::cluster::{LeaveOnDrop, Leaving};
use crate::deadline::Deadline;
use crate::executor::ModelExecutor;
use crate::ingest::intake::Decided;
use crate::ingest::{self, Conclusion, Ingest, Start};
use crate::metrics::{Metrics, WorkerMetrics};
use crate::model::Model;
use crate::receiver_client::{Outgoing, ReceiverClient};
use crate::source::{self, Source, Turn};
use crate::window::Limits;

/// The timestamp of all batches. The source's own capability is for 0. If batches had that timestamp, timely would announce
/// the consumption of each message to all workers.
const TIME: u8 = 1;
/// How long to wait until the sender has received the outcome of a job that is done.
const OUTCOME_TIME: Duration = Duration::from_secs(5);

/// A process of the cluster, ready to run.
pub struct Process {
    /// Its index among the processes; the initializer's is 0.
    pub index: usize,
    /// Connections to the other processes, by index; `None` for this one.
    pub sockets: Vec<Option<TcpStream>>,
    /// A model for each worker thread.
    pub models: Vec<Box<dyn Model>>,
    pub receiver: ReceiverClient,
    /// Only the initializer has one.
    pub port: Option<Port>,
    /// Set when the dataflow has ended.
    pub leaving: Leaving,
    pub metrics: Metrics,
}

/// The port for rows.
pub struct Port {
    /// Listens for senders.
    pub listener: TcpListener,
    pub settings: ingest::Settings,
    /// The window's limits.
    pub limits: Limits,
    /// How long a sender may stay away, and an acknowledgement may take.
    pub patience: Duration,
    /// A hash of the settings that determine the results.
    pub job: u64,
}

/// The parts that one worker thread takes over.
struct Parts {
    model: Box<dyn Model>,
    receiver: Sender<Outgoing>,
    leave: LeaveOnDrop,
    metrics: WorkerMetrics,
    source: Option<SourceParts>,
}

struct SourceParts {
    port: Port,
    welcome: Welcome,
    messages: Receiver<FromReceiver>,
    /// Set once the operator exists: the receiver's messages activate the operator through this.
    wake: Arc<OnceLock<SyncActivator>>,
    metrics: Metrics,
    end: Arc<Mutex<Option<(Summary, Conclusion)>>>,
}

/// Runs the dataflow until the job is done. At the initializer, returns the job's summary.
///
/// # Errors
/// When the process cannot start its part. Later errors end the process.
pub fn run(process: Process) -> anyhow::Result<Option<Summary>> {
    let Process { index, sockets, models, receiver, port, leaving, metrics } = process;
    let workers = models.len();
    let welcome = receiver.welcome.clone();
    let (sender, messages) = channel();
    let wake = Arc::new(OnceLock::<SyncActivator>::new());
    let (waking, left) = (Arc::clone(&wake), leaving.clone());
    let recv = move |message| {
        // Ignored if this process has no source, or its source has ended.
        let _ = sender.send(message);
        let _ = waking.get().map(SyncActivator::activate);
    };
    let receiver = receiver.start(recv, move || left.is_leaving())?;

    let end = Arc::new(Mutex::new(None));
    let counts = metrics.clone();
    let mut source = port.map(|port| SourceParts {
        port,
        welcome,
        messages,
        wake,
        metrics: counts,
        end: Arc::clone(&end),
    });
    let parts = models.into_iter().enumerate().map(|(index, model)| {
        let (receiver, leave, metrics) = (receiver.clone(), leaving.on_drop(), metrics.worker(index));
        Mutex::new(Some(Parts { model, receiver, leave, metrics, source: source.take() }))
    });
    let parts: Vec<_> = parts.collect();

    let (allocators, guard) = allocators(index, sockets, workers)?;
    let build = move |worker: &mut Worker| {
        let parts = parts[worker.index() % workers].lock().take();
        let parts = parts.expect("each worker index comes once");
        build(worker, parts);
    };
    // There are more threads than cores, and spinning would take time from threads that have work.
    let config = WorkerConfig::default().idle_spin(Duration::ZERO);
    let running = timely::execute::execute_from(allocators, guard, config, build)
        .map_err(|e| anyhow!(e).context("starting timely's workers"))?;
    let outcomes = running.join();
    // This keeps the connection to the receiver open until the process may leave.
    drop(receiver);
    for outcome in outcomes {
        outcome.map_err(|e| anyhow!(e).context("a worker thread panicked"))?;
    }
    let Some((summary, conclusion)) = end.lock().take() else {
        ensure!(index > 0, "the dataflow ended before the job was done");
        return Ok(None);
    };
    conclusion.wait(OUTCOME_TIME);
    Ok(Some(summary))
}

type Allocators = (Vec<AllocatorBuilder>, Box<dyn std::any::Any + Send>);

fn allocators(index: usize, sockets: Vec<Option<TcpStream>>, workers: usize) -> anyhow::Result<Allocators> {
    if sockets.len() == 1 {
        return Config::Process(workers).try_build().map_err(|e| anyhow!(e).context("starting timely"));
    }
    let threads = ProcessBuilder::new_typed_vector(workers, Hooks::default().refill, None);
    let (builders, guard) =
        initialize_networking_from_sockets(threads, sockets, index, workers, Hooks::default())
            .context("starting timely's network threads")?;
    Ok((builders.into_iter().map(AllocatorBuilder::Tcp).collect(), Box::new(guard)))
}

/// Builds one worker's part of the dataflow.
fn build(worker: &mut Worker, parts: Parts) {
    let shared = worker.clone();
    worker.dataflow_named::<u8, _, _>("classifier", |scope| {
        operator::source::<_, NoopBuilder<Batches>, _, _>(scope, "source", |capability, info| {
            let wake = shared.sync_activator_for(info.address.to_vec());
            let mut source = parts
                .source
                .map(|source| start_source(source, parts.receiver.clone(), shared.peers(), wake, capability));
            move |output| {
                let Some((running, capability, end)) = &mut source else { return };
                match running.turn() {
                    Turn::Issued(batches) if batches.0.is_empty() => {}
                    Turn::Issued(mut batches) => {
                        output
                            .session_with_builder::<_>(&capability.delayed(&TIME))
                            .give_container(&mut batches);
                    }
                    Turn::Done(summary) => {
                        let conclusion = running.conclude(&summary);
                        *end.lock() = Some((summary, conclusion));
                        source = None;
                    }
                }
            }
        })
        .unary::<NoopBuilder<Vec<ResultBatch<Vec<u8>>>>, _, _, _>(ToWorker::pact(), "classify", |_, info| {
            let wake = shared.sync_activator_for(info.address.to_vec());
            let again = shared.activator_for(info.address);
            let executor = ModelExecutor::new(Classifier::new(parts.model), parts.metrics, again, wake);
            let mut executor = executor.unwrap_or_else(|e| crate::fail(format_args!("{e:#}")));
            let mut held: Option<Capability<u8>> = None;
            move |input, output| {
                input.for_each(|capability, batches: &mut Batches| {
                    held.get_or_insert_with(|| capability.delayed(&TIME, 0));
                    batches.0.drain(..).for_each(|batch| executor.push(batch));
                });
                let Some(capability) = &held else { return };
                let mut results = executor.work();
                if !results.is_empty() {
                    output.session_with_builder::<_>(capability).give_container(&mut results);
                }
                if executor.is_idle() {
                    held = None;
                }
            }
        })
        .sink(Pipeline, "sink", move |(input, _frontier)| {
            // Timely drops this operator when no worker has work left, which drops this guard.
            let _ = &parts.leave;
            let mut all = Vec::new();
            input.for_each(|_, results| all.append(results));
            if !all.is_empty() && parts.receiver.send(Outgoing::Batches(all)).is_err() {
                crate::fail("the thread that writes to the receiver has ended");
            }
        });
    });
}

type RunningSource = (Source, Capability<u8>, Arc<Mutex<Option<(Summary, Conclusion)>>>);

fn start_source(
    parts: SourceParts,
    receiver: Sender<Outgoing>,
    workers: usize,
    wake: SyncActivator,
    capability: Capability<u8>,
) -> RunningSource {
    let SourceParts { port, welcome, messages, wake: waking, metrics, end } = parts;
    let started = || -> anyhow::Result<_> {
        let acknowledgements = Deadline::start(port.patience)?;
        let senders = Deadline::start(port.patience)?;
        let header = welcome.identity.map(|identity| identity.header);
        let decided = welcome.terms.as_ref().map(|terms| Decided::new(&terms.types, terms.chunk_size));
        let start = Start { next_row: welcome.next_row, header, decided };
        let ingest = Ingest::start(port.listener, port.settings, &start, senders, wake.clone())?;
        Ok((ingest, acknowledgements))
    };
    let (ingest, deadline) = started().unwrap_or_else(|e| crate::fail(format_args!("{e:#}")));
    let job = source::Job { welcome, settings: port.job, limits: port.limits, workers };
    // Only the source sets it.
    let _ = waking.set(wake);
    (Source::new(ingest, messages, receiver, deadline, job, metrics), capability, end)
}
