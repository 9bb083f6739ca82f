//! Reads the source's answers on its own thread, so that a failed job or a lost source is noticed even while the main thread
//! waits for input.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use protocol::Temporary;
use protocol::frame::{DEFAULT_LIMIT, FrameReader};
use protocol::handshake::{self, SourceAnswer};
use telemetry::report::Ending;

use crate::session::Failure;

/// The source sends something every second. After this much silence, the connection counts as lost.
const SILENCE: Duration = Duration::from_secs(30);
/// After the job has failed, how long the main thread may wait for input before the process ends.
const FINAL_PAUSE: Duration = Duration::from_secs(1);
/// How often to probe for a lost source while the main thread waits for input.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The answers of one connection.
pub(crate) struct Answers {
    durable: Arc<AtomicU64>,
    answers: Receiver<Result<SourceAnswer, Failure>>,
    /// Dropping it tells the thread that the connection is closed.
    _closing: Sender<()>,
}

/// The state of the thread.
struct Listener {
    reader: FrameReader<TcpStream>,
    durable: Arc<AtomicU64>,
    answers: Sender<Result<SourceAnswer, Failure>>,
    closed: Receiver<()>,
    address: String,
    patience: Duration,
}

impl Answers {
    /// Reads from a connection to the source at `address`. After the last answer, ends the process unless the connection is
    /// dropped within `patience`: the main thread is then waiting for input that is no longer needed.
    pub(crate) fn listen(stream: &TcpStream, address: &str, patience: Duration) -> anyhow::Result<Self> {
        let stream = stream.try_clone().context("splitting the connection to the source")?;
        let reader = FrameReader::new(stream, format!("the source at {address}"), DEFAULT_LIMIT);
        let (sender, answers) = channel();
        let (closing, closed) = channel::<()>();
        let durable = Arc::new(AtomicU64::new(0));
        let listener = Listener {
            reader,
            durable: Arc::clone(&durable),
            answers: sender,
            closed,
            address: address.to_owned(),
            patience,
        };
        let run = move || listener.run();
        std::thread::Builder::new().name("answers".into()).spawn(run).context("starting a thread")?;
        Ok(Self { durable, answers, _closing: closing })
    }

    /// Rows before this one are durable.
    pub(crate) fn durable(&self) -> &AtomicU64 {
        &self.durable
    }

    /// Waits for the next answer other than [`SourceAnswer::Waiting`] and [`SourceAnswer::Durable`].
    pub(crate) fn next(&self) -> Result<SourceAnswer, Failure> {
        self.answers
            .recv()
            .unwrap_or_else(|_| Err(Failure::Lost(anyhow!("the source sends no more answers"))))
    }
}

impl Listener {
    fn run(mut self) {
        let last = loop {
            match answer(&mut self.reader) {
                Ok(SourceAnswer::Waiting) => {}
                Ok(SourceAnswer::Durable(row)) => self.durable.store(row, Ordering::Relaxed),
                // Sending fails once the connection has been dropped.
                Ok(answer @ SourceAnswer::NextRow(_)) => drop(self.answers.send(Ok(answer))),
                last => break last,
            }
        };
        let limit = if matches!(last, Err(Failure::Final(_))) { FINAL_PAUSE } else { self.patience };
        let is_lost = matches!(last, Err(Failure::Lost(_)));
        let reason = match &last {
            Ok(answer) => format!("the source ended with {answer:?}"),
            Err(Failure::Lost(error) | Failure::Final(error) | Failure::Input(error)) => format!("{error:#}"),
        };
        let _ = self.answers.send(last);
        self.await_close(is_lost, limit);
        if self.closed.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            end_process(&format!("{reason}; the input has no more rows for now, so the sender ends"));
        }
    }

    /// Waits until the connection is dropped, or `limit` has passed without a source.
    fn await_close(&self, is_lost: bool, limit: Duration) {
        let mut deadline = Instant::now() + limit;
        // Bounded, since another program may be listening at the address now.
        let end = Instant::now() + limit.saturating_mul(10);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.closed.recv_timeout(PROBE_INTERVAL.min(left)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let may_probe = is_lost && Instant::now() < end;
            if may_probe && net::connect("the source", &self.address, PROBE_INTERVAL).is_ok() {
                // The source is back. The main thread reconnects when it has a row to send.
                deadline = end.min(Instant::now() + limit);
            } else if Instant::now() >= deadline {
                return;
            }
        }
    }
}

/// Reads the next answer, which comes within [`SILENCE`] unless the source is lost.
fn answer(reader: &mut FrameReader<TcpStream>) -> Result<SourceAnswer, Failure> {
    let payload = reader.next_frame_within(SILENCE).map_err(|e| Failure::Lost(e.into()))?;
    let Some(payload) = payload else {
        return Err(Failure::Lost(anyhow!("{} closed the connection", reader.peer())));
    };
    match handshake::answer(&payload, reader.peer()) {
        Ok(SourceAnswer::Failed(reason)) => Err(Failure::Final(anyhow!("the job failed: {reason}"))),
        Ok(answer) => Ok(answer),
        Err(error) if error.is::<Temporary>() => Err(Failure::Lost(error)),
        Err(error) => Err(Failure::Final(error)),
    }
}

/// Ends the process, since its main thread waits for input and cannot be interrupted.
fn end_process(reason: &str) -> ! {
    tracing::error!("{reason}");
    telemetry::reporter::end(Ending::Failed(reason.to_owned()));
    std::process::exit(1)
}
