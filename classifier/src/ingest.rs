//! Port 8888: rows in, cut to batches.
//!
//! One sender at a time. A thread reads its frames, counts them to batches, and puts these into a short queue; when
//! the source does not take them, the thread waits, TCP's window closes, and the sender waits as well. Batches
//! are whole or not taken: a connection that breaks in the middle of a batch is asked for that batch's
//! rows again.

mod lease;
mod sender_handle;

use std::collections::VecDeque;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use net::acceptor::{self, Connection};
use protocol::Temporary;
use protocol::frame::{DEFAULT_LIMIT, EOT, FrameError, FrameReader, RunEnd};
use protocol::handshake::{self, HANDSHAKE_LIMIT, HANDSHAKE_TIME, Refusal, SenderHello, SourceAnswer};
use protocol::token::Token;
use timely::scheduling::SyncActivator;

use crate::deadline::Deadline;
use lease::{Turn, Untold};
use sender_handle::SenderHandle;

/// Bytes of rows that wait for the source; a single batch may be larger.
const QUEUE: usize = 2 << 20;
/// A batch is closed before its rows come to this many bytes, however few they are.
const BATCH_BYTES: usize = 4 << 20;

/// What the port is to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Rows in a batch.
    pub chunk_size: usize,
    /// The job's token.
    pub token: Option<Token>,
    /// Whether plain clients may send although a token is asked for.
    pub allow_plain: bool,
    /// How long a connected sender may send nothing.
    pub patience: Duration,
}

/// Where the rows begin.
#[derive(Debug, Clone, Copy, Default)]
pub struct Start {
    /// Rows before this one are not wanted any more.
    pub next_row: u64,
    /// A hash of their header, if there are any.
    pub header: Option<u64>,
}

/// From the port to the source.
#[derive(Debug)]
pub enum Incoming {
    /// The next rows.
    Rows {
        /// The CSV's header.
        header: Bytes,
        /// The rows, as frames.
        frames: Bytes,
        /// How many they are.
        rows: u32,
    },
    /// There are no more rows.
    End,
}

/// The source's end of the port.
pub struct Ingest(Arc<Shared>);

struct Shared {
    settings: Settings,
    state: Mutex<State>,
    changed: Condvar,
    deadline: Deadline,
    /// Activates the source.
    wake: SyncActivator,
    /// Rows before this one are durable.
    durable: Arc<AtomicU64>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Incoming>,
    queued_bytes: usize,
    /// The sender whose turn it is.
    sender: Option<Sending>,
    /// Turns there were; each has its number.
    turns: u64,
    /// Rows before this one are in the queue or with the source.
    next_row: u64,
    header: Option<Bytes>,
    /// A hash of the header of rows that are durable since before this process.
    durable_header: Option<u64>,
    /// Who has sent the last row, when somebody has.
    ended_by: Option<Session>,
    outcome: Option<SourceAnswer>,
    /// The name of the sender that was let in last.
    last: Session,
    /// Why it cannot go on, if it has come to say so.
    failure: Option<String>,
    /// Senders that have not been told the outcome.
    untold: usize,
}

/// The name that a sender gave itself, if it did; a connection that gives the same one is the same sender, come back.
type Session = Option<String>;

/// What is to be done with a sender that has come.
enum Admission<'a> {
    /// It is its turn.
    In(Turn<'a>),
    /// Another one is sending.
    Busy,
    /// All rows are here, from this one.
    AllHere(Session),
}

/// Whose turn it is.
struct Sending {
    turn: u64,
    session: Session,
    handle: Option<Arc<SenderHandle>>,
}

impl Ingest {
    /// Serves the port; `wake` is activated when something has come.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        listener: TcpListener,
        settings: Settings,
        start: Start,
        deadline: Deadline,
        wake: SyncActivator,
    ) -> anyhow::Result<Self> {
        let state =
            Mutex::new(State { next_row: start.next_row, durable_header: start.header, ..State::default() });
        let durable = Arc::new(AtomicU64::new(start.next_row));
        let shared = Arc::new(Shared { settings, state, changed: Condvar::new(), deadline, wake, durable });
        shared.deadline.wait_for("waiting for a sender to connect");
        let port = Arc::clone(&shared);
        let serve = move |connection: Connection| {
            if let Err(error) = port.serve(&connection) {
                connection.complain(format_args!("rows from {}: {error:#}", connection.peer));
            }
            // Clones of the stream may live on elsewhere; the peer should see the end now.
            let _ = connection.stream.shutdown(std::net::Shutdown::Both);
        };
        let broken = |error| crate::fail(format_args!("accepting senders: {error}"));
        acceptor::open("rows", listener, serve, broken)?;
        Ok(Self(shared))
    }

    /// What has come, if anything has.
    pub fn next(&self) -> Option<Incoming> {
        let mut state = self.0.state();
        let incoming = state.queue.pop_front()?;
        if let Incoming::Rows { frames, .. } = &incoming {
            let was_full = state.queued_bytes >= QUEUE;
            state.queued_bytes -= frames.len();
            if was_full {
                self.0.changed.notify_all();
            }
        }
        Some(incoming)
    }

    /// Why the sender cannot go on, if it has said so since this was asked last.
    pub fn take_failure(&self) -> Option<String> {
        self.0.state().failure.take()
    }

    /// Rows before this one are durable, which senders are told.
    pub fn durable(&self, row: u64) {
        self.0.durable.store(row, Ordering::Relaxed);
    }

    /// Tells the sender that waits for it how the job ended: the rows in it, or why it failed.
    pub fn conclude(&self, outcome: Result<u64, String>) -> Conclusion {
        let mut state = self.0.state();
        let outcome = match outcome {
            Ok(rows) => SourceAnswer::Done(rows),
            Err(reason) => SourceAnswer::Failed(reason),
        };
        state.outcome = Some(outcome.clone());
        let handle = state.sender.as_ref().and_then(|sender| sender.handle.clone());
        drop(state);
        if let Some(handle) = handle
            && matches!(outcome, SourceAnswer::Failed(_))
        {
            // It reads this when it finds that its rows are not taken any more. If it is gone, so is its interest.
            let _ = handle.conclude(&outcome);
        }
        self.0.changed.notify_all();
        Conclusion(Arc::clone(&self.0))
    }
}

/// The outcome is on its way to the sender.
pub struct Conclusion(Arc<Shared>);

impl Conclusion {
    /// Waits until all senders are told, or `limit` is over.
    pub fn wait(&self, limit: Duration) {
        let _ = self
            .0
            .changed
            .wait_timeout_while(self.0.state(), limit, |state| state.untold > 0)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, connection: &Connection) -> anyhow::Result<()> {
        let open = self.settings.token.is_none() || self.settings.allow_plain;
        let limit = if open { DEFAULT_LIMIT } else { HANDSHAKE_LIMIT };
        let Some((first, mut reader)) = connection.first_frame(limit)? else { return Ok(()) };
        reader.set_limit(DEFAULT_LIMIT);
        reader.set_patience(self.settings.patience)?;
        if !handshake::is_hello(&first) {
            ensure!(open, "refused, since it opened without a token; --allow-plain lets plain clients in");
            connection.admit();
            return self.serve_plain(&first, &mut reader);
        }
        let served = self.serve_resuming(connection, &first, &mut reader);
        if let Err(reason) = &served {
            handshake::refuse(&connection.stream, &Refusal::from(reason));
        }
        served
    }

    /// A client that knows nothing of us: its first frame is the header, and it starts over with the first row.
    fn serve_plain(&self, header: &Bytes, reader: &mut FrameReader<TcpStream>) -> anyhow::Result<()> {
        let turn = match self.admit(None, None) {
            Admission::In(turn) => turn,
            Admission::Busy => bail!("refused, since another sender is sending"),
            Admission::AllHere(_) => bail!("refused, since all rows are here already"),
        };
        ensure!(header[..] != [EOT], "it ended before the CSV's header");
        self.check_header(header)?;
        skip(reader, turn.next_row)?;
        self.take_rows(reader, header, &turn)
    }

    /// A client of ours: it is told which row is next, and in the end how the job went.
    fn serve_resuming(
        &self,
        connection: &Connection,
        first: &[u8],
        reader: &mut FrameReader<TcpStream>,
    ) -> anyhow::Result<()> {
        let SenderHello { session, marks, failed } = handshake::check(first, self.settings.token.as_ref())?;
        connection.admit();
        if let Some(reason) = failed {
            return self.note_failure(&session, reason);
        }
        let _untold = Untold::new(self);
        let handle = Arc::new(SenderHandle::new(&connection.stream, Arc::clone(&self.durable))?);
        let turn = match self.admit(session.clone(), Some(Arc::clone(&handle))) {
            Admission::In(turn) => turn,
            Admission::Busy => {
                tracing::warn!("rows from {}: another sender is sending, so it has to wait", reader.peer());
                return handle.conclude(&SourceAnswer::Busy);
            }
            Admission::AllHere(sender) => {
                // It lost its connection when it had sent everything; another one's rows would be lost.
                ensure!(
                    session.is_some() && session == sender,
                    "all rows of this job are here already, from another sender"
                );
                return self.tell_outcome(&handle);
            }
        };
        handle.say(&SourceAnswer::NextRow(turn.next_row))?;
        let header = reader.next_frame_within(HANDSHAKE_TIME).map_err(|error| match error {
            FrameError::Deadline { .. } => anyhow!(error).context(Temporary("waiting for the header")),
            error => anyhow!(error),
        })?;
        let header = header.context("it left before the CSV's header")?;
        self.check_header(&header)?;
        if marks {
            reader.allow_marks();
        }
        self.take_rows(reader, &header, &turn)?;
        self.tell_outcome(&handle)
    }

    /// A sender has come to say that it cannot go on.
    fn note_failure(&self, session: &Session, reason: String) -> anyhow::Result<()> {
        let mut state = self.state();
        ensure!(
            session.is_some() && *session == state.last && state.ended_by.is_none(),
            "it cannot go on, and has not begun: {reason}"
        );
        state.failure = Some(reason);
        drop(state);
        self.wake.activate().ok().context("the source's worker has ended")
    }

    /// Lets a sender in, if it is the only one, or the same one come back.
    fn admit(&self, session: Session, handle: Option<Arc<SenderHandle>>) -> Admission<'_> {
        let mut state = self.state();
        if let Some(sender) = &state.ended_by {
            return Admission::AllHere(sender.clone());
        }
        if let Some(old) = &state.sender {
            if session.is_none() || old.session != session {
                return Admission::Busy;
            }
            // Its old connection is broken, and that is not seen here before all that is buffered is read.
            if let Some(handle) = &old.handle {
                handle.hang_up();
            }
        }
        state.turns += 1;
        let turn = state.turns;
        state.last.clone_from(&session);
        state.sender = Some(Sending { turn, session, handle });
        self.deadline.rest();
        self.changed.notify_all();
        Admission::In(Turn { port: self, number: turn, next_row: state.next_row })
    }

    /// Checks a sender's header; if rows were taken before, it must be theirs.
    fn check_header(&self, header: &Bytes) -> anyhow::Result<()> {
        records::check_header(header).map_err(|error| anyhow!("the CSV's header {error}"))?;
        let state = self.state();
        ensure!(
            state.durable_header.is_none_or(|known| known == protocol::hash::short(header)),
            "its header is {:?}, and rows with another header are durable already",
            String::from_utf8_lossy(header)
        );
        let Some(expected) = &state.header else { return Ok(()) };
        ensure!(
            expected == header,
            "its header is {:?}, and the rows before had {:?}",
            String::from_utf8_lossy(header),
            String::from_utf8_lossy(expected)
        );
        Ok(())
    }

    fn take_rows(
        &self,
        reader: &mut FrameReader<TcpStream>,
        header: &Bytes,
        turn: &Turn<'_>,
    ) -> anyhow::Result<()> {
        loop {
            let (run, end) = reader.run(self.settings.chunk_size, BATCH_BYTES)?;
            if end == RunEnd::Closed {
                bail!(
                    "the connection ended without the end of the rows (of a plain client, the byte 0x04); {} rows are \
                     taken, and the rest is waited for",
                    self.state().next_row
                );
            }
            if run.frames > 0 {
                let (frames, rows) = (run.bytes, run.frames as u32);
                self.put(Incoming::Rows { header: header.clone(), frames, rows }, turn)?;
            }
            if end == RunEnd::End {
                return self.put(Incoming::End, turn);
            }
        }
    }

    /// Puts something into the queue, when there is room, and if the turn has not passed to another connection.
    fn put(&self, incoming: Incoming, turn: &Turn<'_>) -> anyhow::Result<()> {
        let has_turn = |state: &State| state.sender.as_ref().is_some_and(|s| s.turn == turn.number);
        let mut state = self
            .changed
            .wait_while(self.state(), |state| state.queued_bytes >= QUEUE && has_turn(state))
            .unwrap_or_else(PoisonError::into_inner);
        ensure!(has_turn(&state), "the same sender has come back on another connection");
        match &incoming {
            Incoming::Rows { header, frames, rows } => {
                state.queued_bytes += frames.len();
                state.next_row += u64::from(*rows);
                state.header.get_or_insert_with(|| header.clone());
            }
            Incoming::End => {
                state.ended_by = state.sender.as_ref().map(|sender| sender.session.clone());
                tracing::info!("all {} rows are here", state.next_row);
            }
        }
        state.queue.push_back(incoming);
        drop(state);
        self.wake.activate().ok().context("the source's worker has ended")
    }

    /// Waits for the job's end, and tells the sender.
    fn tell_outcome(&self, handle: &SenderHandle) -> anyhow::Result<()> {
        let state = self
            .changed
            .wait_while(self.state(), |state| state.outcome.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        let outcome = state.outcome.clone();
        drop(state);
        outcome.map_or(Ok(()), |outcome| handle.conclude(&outcome))
    }
}

fn skip(reader: &mut FrameReader<TcpStream>, mut rows: u64) -> anyhow::Result<()> {
    while rows > 0 {
        let most = usize::try_from(rows).unwrap_or(usize::MAX).min(1000);
        let (run, end) = reader.run(most, BATCH_BYTES)?;
        rows -= run.frames as u64;
        ensure!(end == RunEnd::Full, "it ended {rows} rows before the first row that is wanted");
    }
    Ok(())
}
