//! A deadline for a wait of the running dataflow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::{Condvar, Mutex};

/// Ends the process when a wait takes longer than its patience.
#[derive(Debug, Clone)]
pub struct Deadline(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The current wait: its description, and when it began.
    waiting: Mutex<Option<(String, Instant)>>,
    changed: Condvar,
}

impl Deadline {
    /// Starts without a wait.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(patience: Duration) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared { waiting: Mutex::default(), changed: Condvar::new() });
        let waits = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("deadline".into())
            .spawn(move || waits.run(patience))
            .context("starting a thread")?;
        Ok(Self(shared))
    }

    /// Starts a wait, which the error describes by `what`; restarts the current wait if it has the same description.
    pub fn wait_for(&self, what: &str) {
        let mut waiting = self.0.waiting.lock();
        match &mut *waiting {
            // The common case, once per acknowledgement. The thread checks again at the old deadline, so it need not wake
            // now.
            Some((same, since)) if same == what => *since = Instant::now(),
            other => {
                *other = Some((what.to_owned(), Instant::now()));
                self.0.changed.notify_all();
            }
        }
    }

    /// Ends the current wait.
    pub fn clear(&self) {
        *self.0.waiting.lock() = None;
    }
}

impl Shared {
    fn run(&self, patience: Duration) {
        let mut waiting = self.waiting.lock();
        loop {
            let waited = waiting.as_ref().map(|(_, since)| since.elapsed());
            if let (Some((what, _)), Some(waited)) = (&*waiting, waited)
                && waited >= patience
            {
                crate::fail(format_args!("{what}: nothing for {patience:?}, so the job fails"));
            }
            match waited {
                Some(waited) => drop(self.changed.wait_for(&mut waiting, patience - waited)),
                None => self.changed.wait(&mut waiting),
            }
        }
    }
}
