//! What the source says to a sender.

use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use protocol::handshake::{self, SourceAnswer};

/// How often a sender is told that the source is alive. Its rows may wait in socket buffers for minutes when
/// the model is slow, and from its side that looks as if nobody were there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// How often it is looked whether more rows are durable, which a sender is told that cannot read its rows again.
const DURABLE_PAUSE: Duration = Duration::from_millis(50);

/// How long a sender may let the source wait that tells it something. It listens all the time, and what it is told is short.
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
    /// All has been said.
    silent: bool,
}

impl SenderHandle {
    /// Speaks to this sender; rows before `durable` are durable.
    pub(super) fn new(stream: &TcpStream, durable: Arc<AtomicU64>) -> anyhow::Result<Self> {
        // While something is being said, whoever else wants to say something waits, and so do others behind it.
        net::limit_writes(stream, WRITE_TIME).context("preparing a connection")?;
        let clone = || stream.try_clone().context("splitting a connection");
        let (stream, closed) = (clone()?, clone()?);
        let shared =
            Arc::new(Shared { state: Mutex::new(State { stream, silent: false }), changed: Condvar::new() });
        let living = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("sign of life".into())
            .spawn(move || living.live(&durable))
            .context("starting a thread")?;
        Ok(Self { shared, stream: closed })
    }

    /// Says something.
    pub(super) fn say(&self, answer: &SourceAnswer) -> anyhow::Result<()> {
        handshake::send_json(&self.shared.state().stream, answer).context("answering the sender")
    }

    /// Says how the job ended; after it, nothing more is said.
    pub(super) fn conclude(&self, answer: &SourceAnswer) -> anyhow::Result<()> {
        let mut state = self.shared.state();
        if state.silent {
            return Ok(());
        }
        state.silent = true;
        self.shared.changed.notify_all();
        handshake::send_json(&state.stream, answer).context("telling the sender how the job ended")
    }

    /// Closes the connection, so that whoever reads from it ends.
    pub(super) fn hang_up(&self) {
        // Before anything is waited for: others wait behind the one that hangs up, and a peer that does not listen may keep what
        // is being written to it for long. One that is closed already is as good.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.shared.state().silent = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for SenderHandle {
    fn drop(&mut self) {
        self.shared.state().silent = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self, durable: &AtomicU64) {
        let (mut said, mut told) = (Instant::now(), durable.load(Ordering::Relaxed));
        let mut state = self.state();
        while !state.silent {
            state = self.changed.wait_timeout(state, DURABLE_PAUSE).unwrap_or_else(PoisonError::into_inner).0;
            let now = durable.load(Ordering::Relaxed);
            let answer = match now > told {
                true => SourceAnswer::Durable(now),
                false if said.elapsed() >= SIGN_OF_LIFE => SourceAnswer::Waiting,
                false => continue,
            };
            (said, told) = (Instant::now(), now);
            if !state.silent && handshake::send_json(&state.stream, &answer).is_err() {
                // It is broken, or nobody listens; the thread that reads from it sees its end now.
                let _ = state.stream.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    }
}
