//! Port 8888: rows in, cut to batches.
//!
//! One sender at a time. A thread reads its frames, counts them to batches, and hands these over through a
//! short queue; when the source does not take them, the thread waits, TCP's window closes, and the sender waits
//! as well. Batches are whole or not taken: a connection that breaks in the middle of a batch is asked
//! for that batch's rows again.

use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use timely::scheduling::SyncActivator;
use wire::frame::{DEFAULT_LIMIT, EOT, FrameReader, RunEnd};
use wire::net;
use wire::opening::{self, OPENING_LIMIT, OPENING_TIME, Refusal, SenderOpening, SourceAnswer};
use wire::token::Token;

use crate::watch::Watch;

/// Batches that wait for the source.
const QUEUE: usize = 64;
/// A batch is closed before its rows come to this many bytes, however few they are.
const BATCH_BYTES: usize = 4 << 20;
/// How often a sender that waits for the end is told that the source is alive.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// What the port is to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Rows in a batch.
    pub chunk_size: usize,
    /// The job's token.
    pub token: Option<Token>,
    /// Whether plain clients may send although a token is asked for.
    pub allow_plain: bool,
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
pub struct Ingest {
    incoming: Receiver<Incoming>,
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    state: Mutex<State>,
    changed: Condvar,
    watch: Watch,
}

struct State {
    sending: bool,
    /// Rows before this one are handed to the source.
    next_row: u64,
    header: Option<Bytes>,
    ended: bool,
    outcome: Option<Result<u64, String>>,
    /// A sender that is still sending, and can be told that there is no use in it.
    sender: Option<TcpStream>,
    /// Senders that have not been told the outcome.
    untold: usize,
}

impl Ingest {
    /// Serves the port; `wake` is activated when something has come. Rows before `next_row` are not
    /// wanted any more.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        listener: TcpListener,
        settings: Settings,
        next_row: u64,
        watch: Watch,
        wake: SyncActivator,
    ) -> anyhow::Result<Self> {
        let state = State {
            sending: false,
            next_row,
            header: None,
            ended: false,
            outcome: None,
            sender: None,
            untold: 0,
        };
        let shared = Arc::new(Shared { settings, state: Mutex::new(state), changed: Condvar::new(), watch });
        let (queue, incoming) = sync_channel(QUEUE);
        let port = Arc::clone(&shared);
        port.watch.wait_for("waiting for a sender to connect");
        std::thread::Builder::new()
            .name("rows".into())
            .spawn(move || port.accept(&listener, &queue, &wake))
            .context("starting a thread")?;
        Ok(Self { incoming, shared })
    }

    /// What has come, if anything has.
    pub fn next(&self) -> Option<Incoming> {
        self.incoming.try_recv().ok()
    }

    /// Tells the sender that waits for it how the job ended: the rows in it, or why it failed.
    pub fn conclude(&self, outcome: Result<u64, String>) -> Conclusion {
        let mut state = self.shared.state();
        if let (Err(reason), false, Some(sender)) = (&outcome, state.ended, &state.sender) {
            // It reads this when it finds that its rows are not taken any more. If it is gone, so is its interest.
            let _ = opening::send_json(sender, &SourceAnswer::Failed(reason.clone()));
        }
        state.outcome = Some(outcome);
        drop(state);
        self.shared.changed.notify_all();
        Conclusion(Arc::clone(&self.shared))
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

    fn accept(self: &Arc<Self>, listener: &TcpListener, queue: &SyncSender<Incoming>, wake: &SyncActivator) {
        loop {
            let (stream, peer) = match net::accept(listener) {
                Ok(accepted) => accepted,
                Err(error) => crate::fail(format_args!("accepting senders: {error}")),
            };
            let (port, queue, wake) = (Arc::clone(self), queue.clone(), wake.clone());
            std::thread::spawn(move || {
                if let Err(error) = port.serve(&stream, &peer.to_string(), &queue, &wake) {
                    eprintln!("classifier: rows from {peer}: {error:#}");
                }
                let _ = stream.shutdown(std::net::Shutdown::Both);
            });
        }
    }

    fn serve(
        &self,
        stream: &TcpStream,
        peer: &str,
        queue: &SyncSender<Incoming>,
        wake: &SyncActivator,
    ) -> anyhow::Result<()> {
        let open = self.settings.token.is_none() || self.settings.allow_plain;
        let limit = if open { DEFAULT_LIMIT } else { OPENING_LIMIT };
        let mut reader = FrameReader::new(stream.try_clone().context("splitting a connection")?, peer, limit);
        let Some(first) = reader.next_frame_within(OPENING_TIME)? else { return Ok(()) };
        if !opening::is_opening(&first) {
            ensure!(open, "refused, since it opened without a token; --allow-plain lets plain clients in");
            return self.serve_plain(&first, &mut reader, queue, wake);
        }
        let served = self.serve_resuming(stream, &first, &mut reader, queue, wake);
        if let Err(reason) = &served {
            opening::refuse(stream, &Refusal { refused: format!("{reason:#}") });
        }
        served
    }

    /// A client that knows nothing of us: its first frame is the header, and it starts over with the first row.
    fn serve_plain(
        &self,
        header: &Bytes,
        reader: &mut FrameReader<TcpStream>,
        queue: &SyncSender<Incoming>,
        wake: &SyncActivator,
    ) -> anyhow::Result<()> {
        let turn = self.admit()?;
        self.check_header(header)?;
        skip(reader, turn.next_row)?;
        self.take_rows(reader, header, queue, wake)
    }

    /// A client of ours: it is told which row is next, and in the end how the job went.
    fn serve_resuming(
        &self,
        stream: &TcpStream,
        first: &[u8],
        reader: &mut FrameReader<TcpStream>,
        queue: &SyncSender<Incoming>,
        wake: &SyncActivator,
    ) -> anyhow::Result<()> {
        let SenderOpening {} = opening::check(first, self.settings.token.as_ref())?;
        let _untold = Untold::new(self);
        if self.state().ended {
            // It lost its connection when it had sent everything.
            return self.tell_outcome(stream);
        }
        let turn = self.admit()?;
        reader.set_limit(DEFAULT_LIMIT);
        opening::send_json(stream, &SourceAnswer::NextRow(turn.next_row))?;
        self.state().sender = Some(stream.try_clone().context("splitting a connection")?);
        let header = reader.next_frame_within(OPENING_TIME)?.context("it left before the CSV's header")?;
        self.check_header(&header)?;
        self.take_rows(reader, &header, queue, wake)?;
        self.tell_outcome(stream)
    }

    /// Lets a sender in, if it is the only one.
    fn admit(&self) -> anyhow::Result<Turn<'_>> {
        let mut state = self.state();
        ensure!(!state.ended, "refused, since all rows are here already");
        ensure!(!state.sending, "refused, since another sender is sending");
        state.sending = true;
        self.watch.rest();
        Ok(Turn { port: self, next_row: state.next_row })
    }

    /// Checks a sender's header; if rows were taken before, it must be theirs.
    fn check_header(&self, header: &Bytes) -> anyhow::Result<()> {
        ensure!(header[..] != [EOT], "it ended before the CSV's header");
        ensure!(!header.is_empty(), "the CSV's header is empty");
        std::str::from_utf8(header).context("the CSV's header is not UTF-8")?;
        records::join(header, 0, &mut Vec::new()).context("the CSV's header is malformed")?;
        let state = self.state();
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
        queue: &SyncSender<Incoming>,
        wake: &SyncActivator,
    ) -> anyhow::Result<()> {
        loop {
            let (run, end) = reader.run(self.settings.chunk_size, BATCH_BYTES)?;
            if end == RunEnd::Closed {
                let taken = self.state().next_row;
                bail!(
                    "the connection ended without the end of the rows (the byte 0x04); {taken} rows are taken, and \
                     the rest is waited for"
                );
            }
            if run.frames > 0 {
                let incoming =
                    Incoming::Rows { header: header.clone(), frames: run.bytes, rows: run.frames as u32 };
                pass(queue, wake, incoming)?;
                let mut state = self.state();
                state.next_row += run.frames as u64;
                state.header.get_or_insert_with(|| header.clone());
            }
            if end == RunEnd::Eot {
                let mut state = self.state();
                state.ended = true;
                eprintln!("classifier: all {} rows are here", state.next_row);
                drop(state);
                return pass(queue, wake, Incoming::End);
            }
        }
    }

    /// Waits for the job's end, and tells the sender.
    fn tell_outcome(&self, stream: &TcpStream) -> anyhow::Result<()> {
        let mut state = self.state();
        let told = loop {
            if let Some(outcome) = &state.outcome {
                let answer = match outcome {
                    Ok(rows) => SourceAnswer::Done(*rows),
                    Err(reason) => SourceAnswer::Failed(reason.clone()),
                };
                break opening::send_json(stream, &answer);
            }
            state = self.changed.wait_timeout(state, SIGN_OF_LIFE).unwrap_or_else(PoisonError::into_inner).0;
            if state.outcome.is_none() {
                drop(state);
                if let Err(error) = opening::send_json(stream, &SourceAnswer::Waiting) {
                    break Err(error);
                }
                state = self.state();
            }
        };
        told.context("telling the sender how the job ended")
    }
}

/// A sender's time; ends when it is dropped.
struct Turn<'a> {
    port: &'a Shared,
    next_row: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.port.state();
        state.sending = false;
        state.sender = None;
        if !state.ended {
            self.port.watch.wait_for("waiting for a sender to come back with the rest of the rows");
        }
        self.port.changed.notify_all();
    }
}

/// A sender that is to be told the outcome; until this is dropped, the process should stay.
struct Untold<'a>(&'a Shared);

impl<'a> Untold<'a> {
    fn new(port: &'a Shared) -> Self {
        port.state().untold += 1;
        Self(port)
    }
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        self.0.state().untold -= 1;
        self.0.changed.notify_all();
    }
}

fn pass(queue: &SyncSender<Incoming>, wake: &SyncActivator, incoming: Incoming) -> anyhow::Result<()> {
    queue.send(incoming).ok().context("the source has ended")?;
    wake.activate().ok().context("the source's worker has ended")
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
