//! Sends the source's answers to a sender.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::{Condvar, Mutex};
use protocol::handshake::{self, SourceAnswer};

/// How often to send a sign of life. With a slow model, rows may wait in socket buffers for minutes, which looks to the
/// sender like a lost source.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// How often to check whether more rows are durable. A sender that cannot read its rows again keeps them until then.
const DURABLE_PAUSE: Duration = Duration::from_millis(50);
/// The longest that a write to a sender may take. Answers are short, and a sender reads them at any time.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// The sending side of a sender's connection. Sends a sign of life once a second, until this is dropped.
pub(super) struct SenderHandle {
    shared: Arc<Shared>,
    /// For closing the connection while a write to it blocks.
    stream: TcpStream,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    stream: TcpStream,
    /// Nothing more is sent.
    is_over: bool,
}

impl SenderHandle {
    /// Starts the signs of life. Rows before `durable` are acknowledged.
    pub(super) fn new(stream: &TcpStream, durable: Arc<AtomicU64>) -> anyhow::Result<Self> {
        net::limit_writes(stream, WRITE_TIME).context("preparing a connection")?;
        let clone = || stream.try_clone().context("splitting a connection");
        let (stream, closed) = (clone()?, clone()?);
        let state = Mutex::new(State { stream, is_over: false });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let signs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("sign of life".into())
            .spawn(move || signs.run(&durable))
            .context("starting a thread")?;
        Ok(Self { shared, stream: closed })
    }

    pub(super) fn send(&self, answer: &SourceAnswer) -> anyhow::Result<()> {
        handshake::send_json(&self.shared.state.lock().stream, answer).context("answering the sender")
    }

    /// Sends the last answer. Nothing is sent after it.
    pub(super) fn conclude(&self, answer: &SourceAnswer) -> anyhow::Result<()> {
        let mut state = self.shared.state.lock();
        if state.is_over {
            return Ok(());
        }
        state.is_over = true;
        self.shared.changed.notify_all();
        handshake::send_json(&state.stream, answer).context("sending the last answer to the sender")
    }

    /// Closes the connection, which ends the thread that reads from it.
    pub(super) fn close(&self) {
        // Before locking, since another thread may hold the lock in a blocked write. It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.shared.end();
    }
}

impl Drop for SenderHandle {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl Shared {
    fn end(&self) {
        self.state.lock().is_over = true;
        self.changed.notify_all();
    }

    fn run(&self, durable: &AtomicU64) {
        let (mut last_sent, mut acknowledged) = (Instant::now(), durable.load(Ordering::Relaxed));
        let mut state = self.state.lock();
        while !state.is_over {
            self.changed.wait_for(&mut state, DURABLE_PAUSE);
            let now = durable.load(Ordering::Relaxed);
            let answer = match now > acknowledged {
                true => SourceAnswer::Durable(now),
                false if last_sent.elapsed() >= SIGN_OF_LIFE => SourceAnswer::Waiting,
                false => continue,
            };
            (last_sent, acknowledged) = (Instant::now(), now);
            if !state.is_over && handshake::send_json(&state.stream, &answer).is_err() {
                // Ends the thread that reads from it.
                let _ = state.stream.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}
