//! What the source says to a sender.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::{Condvar, Mutex};
use protocol::handshake::{self, SourceAnswer};

/// How often a sender is told that the source is alive. Its rows may wait in socket buffers for minutes when the model is slow,
/// which looks to the sender like a source that is gone.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// How often the source looks whether more rows are durable; a sender that cannot read its rows again keeps them until then.
const DURABLE_PAUSE: Duration = Duration::from_millis(50);
/// The longest that a write to a sender may take. A sender reads all the time, and what it is told is short.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// The way back to a sender; says that the source is alive, once a second, until this is dropped.
pub(super) struct SenderHandle {
    shared: Arc<Shared>,
    /// The connection, to be closed while something is still being written to it.
    stream: TcpStream,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    stream: TcpStream,
    /// Nothing more is said.
    is_over: bool,
}

impl SenderHandle {
    /// Speaks to the sender at the other end of `stream`; rows before `durable` are durable.
    pub(super) fn new(stream: &TcpStream, durable: Arc<AtomicU64>) -> anyhow::Result<Self> {
        net::limit_writes(stream, WRITE_TIME).context("preparing a connection")?;
        let clone = || stream.try_clone().context("splitting a connection");
        let (stream, closed) = (clone()?, clone()?);
        let state = Mutex::new(State { stream, is_over: false });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let living = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("sign of life".into())
            .spawn(move || living.run(&durable))
            .context("starting a thread")?;
        Ok(Self { shared, stream: closed })
    }

    pub(super) fn send(&self, answer: &SourceAnswer) -> anyhow::Result<()> {
        handshake::send_json(&self.shared.state.lock().stream, answer).context("answering the sender")
    }

    /// Says how the job ended; after it, nothing more is said.
    pub(super) fn conclude(&self, answer: &SourceAnswer) -> anyhow::Result<()> {
        let mut state = self.shared.state.lock();
        if state.is_over {
            return Ok(());
        }
        state.is_over = true;
        self.shared.changed.notify_all();
        handshake::send_json(&state.stream, answer).context("telling the sender how the job ended")
    }

    /// Closes the connection, which ends the thread that reads from it.
    pub(super) fn close(&self) {
        // Before the lock: another thread may be writing to a peer that does not read. It may be closed already.
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
        let (mut spoke, mut told) = (Instant::now(), durable.load(Ordering::Relaxed));
        let mut state = self.state.lock();
        while !state.is_over {
            self.changed.wait_for(&mut state, DURABLE_PAUSE);
            let now = durable.load(Ordering::Relaxed);
            let answer = match now > told {
                true => SourceAnswer::Durable(now),
                false if spoke.elapsed() >= SIGN_OF_LIFE => SourceAnswer::Waiting,
                false => continue,
            };
            (spoke, told) = (Instant::now(), now);
            if !state.is_over && handshake::send_json(&state.stream, &answer).is_err() {
                // The thread that reads from it sees its end now.
                let _ = state.stream.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}
