//! Serves connections: classifier processes, observers, plain clients.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use net::acceptor::{self, Connection};
use parking_lot::{Mutex, MutexGuard};
use protocol::frame::{DEFAULT_LIMIT, FrameReader, PEER_LIMIT};
use protocol::handshake::{self, HANDSHAKE_LIMIT, Refusal, ResultsHello};
use protocol::rejects::MostRejects;
use protocol::result_files::ResultFiles;
use protocol::results::{Outcome, ToReceiver};
use protocol::token::Token;

use crate::audit::Audit;
use crate::budget::Budget;
use crate::job::{End, Job};
use crate::outbox::Outbox;
use crate::plain;
use crate::spill::SpillFile;
use crate::store::{self, Finished, Opened, Storage};
use crate::writer::{self, Event, Writer};

/// The most bytes of batches that wait for the writer. Each connection's thread may hold one more batch.
const QUEUE: usize = 64 << 20;
/// How often an observer is sent the progress.
const OBSERVER_PAUSE: Duration = Duration::from_millis(100);
/// The longest that a write to an observer may take.
const OBSERVER_TIME: Duration = Duration::from_secs(5);
/// How long to wait for plain payloads to be written when the receiver stops.
const SETTLE_TIME: Duration = Duration::from_secs(5);
/// How long to wait for the processes to leave after the job has ended.
const LEAVE_TIME: Duration = Duration::from_secs(5);

/// A receiver's settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where results go. Without it, the receiver accepts no job, and writes plain clients' payloads to standard output.
    pub output: Option<PathBuf>,
    pub token: Option<Token>,
    /// Whether plain clients are admitted although there is a token.
    pub allow_plain: bool,
    /// How long all classifier processes may be gone before a job that has begun fails.
    pub patience: Duration,
    pub most_rejects: MostRejects,
}

pub struct Server {
    settings: Settings,
    job: Arc<Job>,
    mode: Mutex<Mode>,
    /// Bytes of batches that wait for the writer.
    queue: Arc<Budget>,
}

/// What the receiver accepts; the first connection decides.
enum Mode {
    Undecided,
    /// Numbered batches, which go to the writer.
    Numbered(Sender<Event>),
    Plain(Arc<plain::Output>),
}

impl Server {
    /// Prepares a receiver. Opens the files of an interrupted job, so that their errors are reported at once.
    ///
    /// # Errors
    /// When the job's files cannot be opened, or the output's folder cannot be written to.
    pub fn new(settings: Settings) -> anyhow::Result<Arc<Self>> {
        let job = Arc::new(Job::default());
        let queue = Arc::new(Budget::new(QUEUE));
        let mode = match settings.output.as_deref().map(ResultFiles::beside).transpose()? {
            Some(paths) if paths.checkpoint.exists() || paths.summary.exists() => {
                Mode::Numbered(start(&settings, &paths, &job, &queue)?)
            }
            Some(paths) => {
                check_folder(&paths.results)?;
                Mode::Undecided
            }
            None => Mode::Undecided,
        };
        Ok(Arc::new(Self { settings, job, mode: Mutex::new(mode), queue }))
    }

    pub fn job(&self) -> &Arc<Job> {
        &self.job
    }

    /// Serves connections until the job ends or [`stop`](Server::stop) is called. If the job is finished and its cluster
    /// knows it, also returns the finished job's files, to be tidied up.
    pub fn run(self: &Arc<Self>, listener: TcpListener) -> (End, Option<Finished>) {
        let server = Arc::clone(self);
        let serve = move |connection: Connection| {
            if let Err(error) = server.serve(&connection) {
                connection.complain(format_args!("{}: {error:#}", connection.peer));
            }
            // Clones of the stream may still be open elsewhere, but the peer should see the end now.
            let _ = connection.stream.shutdown(std::net::Shutdown::Both);
        };
        let job = Arc::clone(&self.job);
        let broken = move |error| fail(&job, format!("accepting connections: {error}"));
        if let Err(error) = acceptor::open("results", listener, serve, broken) {
            fail(&self.job, format!("{error:#}"));
        }
        let end = self.job.wait(self.settings.patience);
        self.job.end(end.clone());
        let mut told = None;
        if matches!(end, End::Job(Outcome::Done(_))) {
            // The receiver must keep serving until the initializer knows that the job is finished.
            self.job.await_told(self.settings.patience);
            told = self.job.take_told();
            if let Some(Err(error)) = told.as_mut().map(Finished::note_told) {
                tracing::warn!("noting that the initializer knows of the end: {error:#}");
            }
        }
        if matches!(end, End::Job(_)) {
            self.job.wait_for_leave(LEAVE_TIME);
        }
        (end, told)
    }

    /// Stops the receiver after making everything written so far durable.
    pub fn stop(&self) {
        match &*self.mode() {
            Mode::Numbered(_) => self.job.stop(),
            Mode::Undecided => self.job.end(End::Closed),
            Mode::Plain(output) => {
                output.settle(SETTLE_TIME);
                self.job.end(End::Closed);
            }
        }
    }

    fn mode(&self) -> MutexGuard<'_, Mode> {
        self.mode.lock()
    }

    /// The channel to the writer, which the first classifier process starts.
    fn numbered(&self) -> anyhow::Result<Sender<Event>> {
        let mut mode = self.mode();
        if matches!(*mode, Mode::Undecided) {
            let output = self.settings.output.as_deref();
            let output = output.context("numbered batches need a file; start the receiver with --output")?;
            let paths = ResultFiles::beside(output)?;
            *mode = Mode::Numbered(start(&self.settings, &paths, &self.job, &self.queue)?);
        }
        match &*mode {
            Mode::Numbered(events) => Ok(events.clone()),
            _ => bail!("this receiver accepts plain payloads, since its first client sent those"),
        }
    }

    fn plain(&self) -> anyhow::Result<Arc<plain::Output>> {
        let mut mode = self.mode();
        if matches!(*mode, Mode::Undecided) {
            *mode = Mode::Plain(Arc::new(plain::Output::open(self.settings.output.as_deref())?));
        }
        match &*mode {
            Mode::Plain(output) => Ok(Arc::clone(output)),
            _ => bail!("this receiver accepts the numbered batches of a cluster"),
        }
    }

    fn serve(&self, connection: &Connection) -> anyhow::Result<()> {
        let open = self.settings.token.is_none() || self.settings.allow_plain;
        let limit = if open { DEFAULT_LIMIT } else { HANDSHAKE_LIMIT };
        let Some((first, mut reader)) = connection.first_frame(limit)? else { return Ok(()) };
        if !handshake::is_hello(&first) {
            ensure!(open, "refused, since it sent no token; --allow-plain admits plain clients");
            connection.admit();
            return self.plain()?.append_all(first, &mut reader);
        }
        match self.admit(connection, &first) {
            Ok(Admitted::Observer) => {
                self.observe(&connection.stream);
                Ok(())
            }
            Ok(Admitted::Process(process)) => {
                reader.set_limit(PEER_LIMIT);
                // Logged before the process counts as gone: once all are gone, the receiver logs how the job ended, and ends.
                if let Err(error) = self.take_batches(&mut reader, &process) {
                    connection.complain(format_args!(
                        "{}: classifier {}: {error:#}",
                        connection.peer, process.name
                    ));
                }
                self.job.left(process.connection);
                Ok(())
            }
            Err(reason) => {
                handshake::refuse(&connection.stream, &Refusal::from(&reason));
                Err(reason.context("refused"))
            }
        }
    }

    fn admit(&self, connection: &Connection, first: &[u8]) -> anyhow::Result<Admitted> {
        let hello = handshake::check(first, self.settings.token.as_ref())?;
        connection.admit();
        let (name, generation) = match hello {
            ResultsHello::Observer {} => return Ok(Admitted::Observer),
            ResultsHello::Worker { name, generation } => (name, Some(generation)),
            ResultsHello::Initializer { name } => (name, None),
        };
        let events = self.numbered()?;
        let job = Arc::clone(&self.job);
        let outbox = Outbox::start(&connection.stream, name.clone(), move || job.told())?;
        let initializer = generation.is_none();
        let (generation, connection) = self.job.admit(outbox, generation)?;
        Ok(Admitted::Process(Process { name, generation, initializer, connection, events }))
    }

    /// Handles a process's messages until it leaves; batches go to the writer.
    fn take_batches(&self, reader: &mut FrameReader<TcpStream>, process: &Process) -> anyhow::Result<()> {
        while let Some(payload) = reader.next_frame()? {
            match decode(payload)? {
                ToReceiver::Batch(batch) => {
                    self.queue.acquire(batch.size());
                    // After the job has failed, the writer is gone and batches are dropped. Closing the connection instead
                    // could keep the cluster from learning the reason.
                    let _ = process.events.send(Event::Batch(process.generation, batch));
                }
                ToReceiver::Identity(identity, terms) => {
                    ensure!(process.initializer, "an identity from a process that is not the initializer");
                    if let Err(error) = self.job.identity(process.generation, identity, terms) {
                        fail(&self.job, format!("{error:#}"));
                        return Err(error);
                    }
                }
                ToReceiver::Failure(reason) => {
                    ensure!(process.initializer, "a failure from a process that is not the initializer");
                    // Such as an input that cannot be read: the rows so far are right.
                    self.job.fail(reason, false);
                }
                ToReceiver::Totals(totals) => {
                    ensure!(process.initializer, "totals from a process that is not the initializer");
                    if let Err(error) = self.job.totals(totals, SystemTime::now()) {
                        fail(&self.job, format!("{error:#}"));
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends the progress to an observer until it leaves or the job ends.
    fn observe(&self, stream: &TcpStream) {
        // An observer that does not read must not occupy a thread.
        if net::limit_writes(stream, OBSERVER_TIME).is_err() {
            return;
        }
        loop {
            let progress = self.job.progress();
            if handshake::send_json(stream, &progress).is_err() || progress.ended {
                return;
            }
            std::thread::sleep(OBSERVER_PAUSE);
        }
    }
}

enum Admitted {
    Observer,
    Process(Process),
}

/// An admitted classifier process.
struct Process {
    name: String,
    generation: u64,
    initializer: bool,
    connection: u64,
    events: Sender<Event>,
}

fn decode(payload: Bytes) -> anyhow::Result<ToReceiver> {
    ToReceiver::decode(payload).context("decoding a message")
}

fn fail(job: &Job, reason: String) {
    job.fail(reason, true);
}

/// Opens a job's files, and starts the writer and the syncer, unless the job is finished.
fn start(
    settings: &Settings,
    paths: &ResultFiles,
    job: &Arc<Job>,
    queue: &Arc<Budget>,
) -> anyhow::Result<Sender<Event>> {
    let (sender, events) = channel();
    let (store, syncer, before) = match store::open(paths)? {
        Opened::ToWrite(store, syncer, before) => (*store, syncer, before),
        Opened::Finished(summary, finished) => {
            job.finished_before(summary, finished);
            // Batches that still arrive are dropped, and need no budget.
            queue.close();
            return Ok(sender);
        }
    };
    let mut audit = Audit::new(settings.most_rejects);
    let rows = store.position().next_row;
    let context = || format!("resuming with {}", paths.rejects.display());
    if let Some(rejects) = before.rejects {
        audit.resume(rows, before.kept.schema, rejects).with_context(context)?;
    }
    job.begin_at(store.position(), before.kept.terms, syncer.life());
    job.rejected(audit.reasons());
    let writer = Writer::new(store, SpillFile::new(&paths.results), audit);
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let (writer_job, writer_queue) = (Arc::clone(job), Arc::clone(queue));
    thread("writer")
        .spawn(move || writer::write(writer, &events, &writer_job, &writer_queue))
        .context("starting the writer's thread")?;
    let (syncer_job, digest) = (Arc::clone(job), sender.clone());
    let digest = move || {
        let (reply, answer) = std::sync::mpsc::channel();
        digest.send(Event::Digest(reply)).ok()?;
        answer.recv().ok()
    };
    thread("syncer")
        .spawn(move || writer::sync(syncer, digest, &syncer_job))
        .context("starting the syncer's thread")?;
    Ok(sender)
}

/// Checks that the output's folder can be written to, before results arrive.
fn check_folder(results: &Path) -> anyhow::Result<()> {
    let probe = results.with_file_name(format!(".probe-{}", std::process::id()));
    std::fs::File::create_new(&probe)
        .and_then(|_| std::fs::remove_file(&probe))
        .with_context(|| format!("the folder of the output {} cannot be written to", results.display()))
}
