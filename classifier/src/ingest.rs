//! Port 8888: receives rows, and cuts them into batches.
//!
//! One sender sends at a time. A thread reads its frames, cuts them into batches, and queues these. When the short queue is
//! full, the thread waits, TCP's window closes, and the sender waits as well. A batch is queued whole or not at all: when a
//! connection breaks in the middle of a batch, the sender is asked for the batch's rows again. [`intake`] decides; this
//! module has the sockets and threads around it.

pub mod intake;
mod lease;
mod sender_handle;
mod survey;

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use columns::Survey;
use net::acceptor::{self, Connection};
use parking_lot::{Condvar, Mutex};
use protocol::Temporary;
use protocol::frame::{DEFAULT_LIMIT, EOT, FrameError, FrameReader, RunEnd};
use protocol::handshake::{self, HANDSHAKE_LIMIT, HANDSHAKE_TIME, Refusal, SenderHello, SourceAnswer};
use protocol::token::Token;
use timely::scheduling::SyncActivator;

use crate::deadline::Deadline;
use crate::measure::{self, Room};
use crate::model::Meter;
use intake::{Admission, Decided, Incoming, Intake, Session};
use lease::{Lease, PendingOutcome};
use sender_handle::SenderHandle;

/// About how many bytes of rows may wait for the source; a single batch may be larger.
const QUEUE: usize = 2 << 20;
/// The most bytes of rows in a batch; a single row may be longer.
pub(crate) const BATCH_BYTES: usize = 4 << 20;

/// The port's settings.
#[derive(Clone)]
pub struct Settings {
    /// Rows in a batch; `None` to measure which number is good.
    pub chunk_size: Option<u32>,
    /// Whether the model has typed columns.
    pub typed: bool,
    /// The model to measure.
    pub meter: Option<Meter>,
    /// The room for batches.
    pub room: Room,
    pub token: Option<Token>,
    /// Whether plain clients are admitted although there is a token.
    pub allow_plain: bool,
    /// How long a connected sender may be silent.
    pub patience: Duration,
}

/// Where the rows begin.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// Rows before this one are durable.
    pub next_row: u64,
    /// The hash of the durable rows' header, if there are any.
    pub header: Option<u64>,
    /// What the job has decided before.
    pub decided: Option<Decided>,
}

/// The source's handle of the port.
pub struct Ingest(Arc<Shared>);

struct Shared {
    /// Held by the connection that measures the model.
    measuring: Mutex<()>,
    settings: Settings,
    state: Mutex<State>,
    changed: Condvar,
    deadline: Deadline,
    /// Activates the source.
    wake: SyncActivator,
    /// Rows before this one are durable.
    durable: Arc<AtomicU64>,
}

struct State {
    /// Plain clients have no handle.
    intake: Intake<Option<Arc<SenderHandle>>>,
    outcome: Option<SourceAnswer>,
    /// How many senders still have to receive the outcome.
    pending_outcomes: usize,
}

impl Ingest {
    /// Serves the port. Activates `wake` when rows or a sender's failure have arrived.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        listener: TcpListener,
        settings: Settings,
        start: &Start,
        deadline: Deadline,
        wake: SyncActivator,
    ) -> anyhow::Result<Self> {
        let mut intake = Intake::new(start.next_row, start.header, QUEUE);
        if let Some(decided) = &start.decided {
            intake.know(decided.clone());
        }
        let state = Mutex::new(State { intake, outcome: None, pending_outcomes: 0 });
        let durable = Arc::new(AtomicU64::new(start.next_row));
        let measuring = Mutex::default();
        let shared =
            Arc::new(Shared { settings, measuring, state, changed: Condvar::new(), deadline, wake, durable });
        shared.deadline.wait_for("waiting for a sender to connect");
        let port = Arc::clone(&shared);
        let serve = move |connection: Connection| {
            if let Err(error) = port.serve(&connection) {
                connection.complain(format_args!("rows from {}: {error:#}", connection.peer));
            }
            // Clones of the stream may still be open elsewhere, but the peer should see the end now.
            let _ = connection.stream.shutdown(std::net::Shutdown::Both);
        };
        let broken = |error| crate::fail(format_args!("accepting senders: {error}"));
        acceptor::open("rows", listener, serve, broken)?;
        Ok(Self(shared))
    }

    /// Takes the first batch, or the end, from the queue.
    pub fn next(&self) -> Option<Incoming> {
        let mut state = self.0.state.lock();
        let was_full = !state.intake.has_room();
        let incoming = state.intake.pop();
        if was_full {
            self.0.changed.notify_all();
        }
        incoming
    }

    /// Takes the reason why the sender cannot continue, if it has reported one.
    pub fn take_failure(&self) -> Option<String> {
        self.0.state.lock().intake.take_failure()
    }

    /// Acknowledges rows before this one to senders.
    pub fn durable(&self, row: u64) {
        self.0.durable.store(row, Ordering::Relaxed);
    }

    /// Sends waiting senders the job's outcome: its number of rows, or why it failed.
    pub fn conclude(&self, outcome: Result<u64, String>) -> Conclusion {
        let mut state = self.0.state.lock();
        let outcome = match outcome {
            Ok(rows) => SourceAnswer::Done(rows),
            Err(reason) => SourceAnswer::Failed(reason),
        };
        state.outcome = Some(outcome.clone());
        let handle = state.intake.active().cloned().flatten();
        drop(state);
        if let Some(handle) = handle
            && matches!(outcome, SourceAnswer::Failed(_))
        {
            // The sender reads this even while its rows are not read. The sender may be gone.
            let _ = handle.conclude(&outcome);
        }
        self.0.changed.notify_all();
        Conclusion(Arc::clone(&self.0))
    }
}

/// The outcome, while senders receive it.
pub struct Conclusion(Arc<Shared>);

impl Conclusion {
    /// Waits until all senders have received the outcome, or `limit` is over.
    pub fn wait(&self, limit: Duration) {
        let are_pending = |state: &mut State| state.pending_outcomes > 0;
        self.0.changed.wait_while_for(&mut self.0.state.lock(), are_pending, limit);
    }
}

impl Shared {
    fn serve(&self, connection: &Connection) -> anyhow::Result<()> {
        let open = self.settings.token.is_none() || self.settings.allow_plain;
        let limit = if open { DEFAULT_LIMIT } else { HANDSHAKE_LIMIT };
        let Some((first, mut reader)) = connection.first_frame(limit)? else { return Ok(()) };
        reader.set_limit(DEFAULT_LIMIT);
        reader.set_patience(self.settings.patience)?;
        if !handshake::is_hello(&first) {
            ensure!(open, "refused, since it sent no token; --allow-plain admits plain clients");
            connection.admit();
            return self.serve_plain(&first, &mut reader);
        }
        let served = self.serve_resuming(connection, &first, &mut reader);
        if let Err(reason) = &served {
            handshake::refuse(&connection.stream, &Refusal::from(reason));
        }
        served
    }

    /// Serves a plain client: its first frame is the header, and it always starts with the first row.
    fn serve_plain(&self, header: &Bytes, reader: &mut FrameReader<TcpStream>) -> anyhow::Result<()> {
        let lease = match self.admit(None, None) {
            Admitted::Send(lease) => lease,
            Admitted::Busy => bail!("refused, since another sender is sending"),
            Admitted::Complete | Admitted::Late => bail!("refused, since all rows are here already"),
        };
        ensure!(header[..] != [EOT], "it ended before the CSV's header");
        self.state.lock().intake.check_header(header)?;
        skip(reader, lease.next_row)?;
        self.take_rows(reader, header, None, &lease)
    }

    /// Serves our own sender: asks it for the next row, and sends it the outcome at the end.
    fn serve_resuming(
        &self,
        connection: &Connection,
        first: &[u8],
        reader: &mut FrameReader<TcpStream>,
    ) -> anyhow::Result<()> {
        let SenderHello { session, marks, typed, failed } =
            handshake::check(first, self.settings.token.as_ref())?;
        connection.admit();
        if let Some(reason) = failed {
            return self.note_failure(&session, reason);
        }
        let _pending = PendingOutcome::new(self);
        let handle = Arc::new(SenderHandle::new(&connection.stream, Arc::clone(&self.durable))?);
        let lease = match self.admit(session, Some(Arc::clone(&handle))) {
            Admitted::Send(lease) => lease,
            Admitted::Busy => {
                tracing::warn!("rows from {}: another sender is sending, so it has to wait", reader.peer());
                return handle.conclude(&SourceAnswer::Busy);
            }
            // The sender lost its connection after it had sent all rows.
            Admitted::Complete => return self.send_outcome(&handle),
            Admitted::Late => bail!("all rows of this job are here already, from another sender"),
        };
        handle.send(&SourceAnswer::NextRow(lease.next_row))?;
        let header = reader.next_frame_within(HANDSHAKE_TIME).map_err(|error| match error {
            FrameError::Deadline { .. } => anyhow!(error).context(Temporary("waiting for the header")),
            error => anyhow!(error),
        })?;
        let header = header.context("it left before the CSV's header")?;
        self.state.lock().intake.check_header(&header)?;
        if marks {
            reader.allow_marks();
        }
        let survey = if typed { Some(survey::receive(reader)?) } else { None };
        let decided = match survey {
            Some(survey) if self.settings.typed => self.decide(&header, &survey)?,
            None if self.settings.typed => {
                tracing::warn!(
                    "{} says no types of columns, so those of its first batch are taken; start it with --types infer",
                    reader.peer()
                );
                None
            }
            _ => None,
        };
        self.take_rows(reader, &header, decided, &lease)?;
        self.send_outcome(&handle)
    }

    /// Decides the types of the columns and the size of batches, unless the job has done so.
    ///
    /// # Errors
    /// The number of types is not that of the columns.
    fn decide(&self, header: &Bytes, survey: &Survey) -> anyhow::Result<Option<Decided>> {
        // One connection measures the model; another one, of a sender that has come back, takes what it finds.
        let _measuring = self.measuring.lock();
        let decided = self.state.lock().intake.decided().cloned();
        if decided.is_some() {
            return Ok(decided);
        }
        let (found, columns) = (survey.types.len(), records::count(header).unwrap_or(0));
        ensure!(found == columns, "{found} types for the {columns} columns of its header");
        let Settings { chunk_size, meter, room, .. } = &self.settings;
        let chunk_size = match (chunk_size, meter.as_ref().and_then(Meter::model)) {
            (Some(chunk_size), _) => *chunk_size,
            // Not while the state is locked, since this takes seconds.
            (None, Some(mut model)) => measure::chunk_size(&mut model, header, survey, *room),
            (None, None) => measure::DEFAULT,
        };
        Ok(Some(self.state.lock().intake.decide(Decided::new(&survey.types, chunk_size)).clone()))
    }

    /// Passes on a sender's report that it cannot continue.
    fn note_failure(&self, session: &Session, reason: String) -> anyhow::Result<()> {
        self.state.lock().intake.fail(session, reason)?;
        self.wake_source()
    }

    fn admit(&self, session: Session, handle: Option<Arc<SenderHandle>>) -> Admitted<'_> {
        let mut state = self.state.lock();
        let (lease, next_row, replaced) = match state.intake.admit(session, handle) {
            Admission::Send { lease, next_row, replaced } => (lease, next_row, replaced.flatten()),
            Admission::Busy => return Admitted::Busy,
            Admission::Complete => return Admitted::Complete,
            Admission::Late => return Admitted::Late,
        };
        self.deadline.clear();
        drop(state);
        if let Some(replaced) = replaced {
            // The replaced connection is broken, but its thread would notice only after reading all that is buffered.
            replaced.close();
        }
        self.changed.notify_all();
        Admitted::Send(Lease::new(self, lease, next_row))
    }

    fn take_rows(
        &self,
        reader: &mut FrameReader<TcpStream>,
        header: &Bytes,
        decided: Option<Decided>,
        lease: &Lease<'_>,
    ) -> anyhow::Result<()> {
        let mut decided = decided.or_else(|| self.state.lock().intake.decided().cloned());
        let chunk_size = decided.as_ref().map(|decided| decided.chunk_size).or(self.settings.chunk_size);
        let chunk_size = chunk_size.unwrap_or(measure::DEFAULT) as usize;
        loop {
            let (run, end) = reader.run(chunk_size, BATCH_BYTES)?;
            if end == RunEnd::Closed {
                bail!(
                    "the connection ended without the end of the rows (of a plain client, the byte 0x04); {} rows are \
                     here, waiting for the rest",
                    self.state.lock().intake.next_row()
                );
            }
            if run.frames > 0 {
                let (frames, rows) = (run.bytes, run.frames as u32);
                if self.settings.typed && decided.is_none() {
                    // A client that has not said the types: those of its first rows.
                    let types =
                        columns::of_records(survey::whole(&frames), records::count(header).unwrap_or(0));
                    let found = Decided::new(&types, chunk_size as u32);
                    decided = Some(self.state.lock().intake.decide(found).clone());
                }
                let (header, decided) = (header.clone(), decided.clone().unwrap_or_default());
                self.enqueue(Incoming::Rows { header, decided, frames, rows }, lease)?;
            }
            if end == RunEnd::End {
                return self.enqueue(Incoming::End, lease);
            }
        }
    }

    /// Waits for room in the queue, and adds to it, unless another connection has the lease by now.
    fn enqueue(&self, incoming: Incoming, lease: &Lease<'_>) -> anyhow::Result<()> {
        let mut state = self.state.lock();
        let must_wait = |state: &mut State| !state.intake.has_room() && state.intake.is_active(lease.id);
        self.changed.wait_while(&mut state, must_wait);
        state.intake.push(lease.id, incoming)?;
        drop(state);
        self.wake_source()
    }

    fn wake_source(&self) -> anyhow::Result<()> {
        self.wake.activate().ok().context("the source's worker has ended")
    }

    /// Waits for the job's outcome, and sends it to the sender.
    fn send_outcome(&self, handle: &SenderHandle) -> anyhow::Result<()> {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| state.outcome.is_none());
        let outcome = state.outcome.clone();
        drop(state);
        outcome.map_or(Ok(()), |outcome| handle.conclude(&outcome))
    }
}

/// [`Admission`], with a lease that ends on drop.
enum Admitted<'a> {
    Send(Lease<'a>),
    Busy,
    Complete,
    Late,
}

/// Reads and drops this many rows.
fn skip(reader: &mut FrameReader<TcpStream>, mut rows: u64) -> anyhow::Result<()> {
    while rows > 0 {
        let most = usize::try_from(rows).unwrap_or(usize::MAX).min(1000);
        let (run, end) = reader.run(most, BATCH_BYTES)?;
        rows -= run.frames as u64;
        ensure!(end == RunEnd::Full, "it ended {rows} rows before the next row");
    }
    Ok(())
}
