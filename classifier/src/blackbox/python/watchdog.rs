//! Kills a Python process that takes too long, takes too much memory, or is stopped: whoever waits for its answer then reads
//! the end of its pipe.

use std::fmt;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;

/// How often the process is looked at while somebody waits for it.
const PAUSE: Duration = Duration::from_millis(100);
/// A process that somebody has stopped is killed after this time.
const STOPPED_TIME: Duration = Duration::from_secs(2);

/// The watchdog of one process.
#[derive(Default)]
pub(super) struct Watchdog {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// When it must have answered, and how long that was; none while nobody waits.
    deadline: Option<(Instant, Duration)>,
    fired: Option<Reason>,
    retired: bool,
    /// It must be woken, since nothing was waited for of late. (Not for each batch, which would cost as much as a quick one.)
    asleep: bool,
}

/// Why a process was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It took longer than this.
    Late(Duration),
    /// It had more than so many MiB of memory.
    Greedy(u64),
    /// Somebody had stopped it.
    Stopped,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(limit) => write!(f, "took longer than {limit:?}"),
            Self::Greedy(limit) => write!(f, "took more than {limit} MiB of memory"),
            Self::Stopped => f.write_str("was stopped by somebody"),
        }
    }
}

impl Watchdog {
    /// Watches over a process, which may have so many MiB of memory.
    pub(super) fn start(self: &Arc<Self>, child: Arc<Mutex<Child>>, most_memory: u64) -> anyhow::Result<()> {
        let watching = Arc::clone(self);
        std::thread::Builder::new()
            .name("python watchdog".into())
            .spawn(move || watching.watch(&child, most_memory))
            .context("starting a thread")?;
        Ok(())
    }

    fn watch(&self, child: &Mutex<Child>, most_memory: u64) {
        let pid = child.lock().unwrap_or_else(PoisonError::into_inner).id();
        let mut stopped_since = None;
        let mut last_wait = Instant::now();
        let mut state = self.state();
        while !state.retired {
            let now = Instant::now();
            let Some((at, limit)) = state.deadline else {
                stopped_since = None;
                if now - last_wait > 2 * PAUSE {
                    state.asleep = true;
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.asleep = false;
                } else {
                    state = self.pause(state, PAUSE);
                }
                continue;
            };
            last_wait = now;
            if is_stopped(pid) {
                stopped_since.get_or_insert(now);
            } else {
                stopped_since = None;
            }
            let reason = if at <= now {
                Some(Reason::Late(limit))
            } else if memory_mib(pid) > Some(most_memory) {
                Some(Reason::Greedy(most_memory))
            } else {
                stopped_since.filter(|since| now - *since >= STOPPED_TIME).map(|_| Reason::Stopped)
            };
            if reason.is_some() {
                state.deadline = None;
                state.fired = reason;
                // If it is gone already, whoever waits for it knows.
                super::kill_group(&mut child.lock().unwrap_or_else(PoisonError::into_inner));
                continue;
            }
            state = self.pause(state, PAUSE.min(at - now));
        }
    }

    fn pause<'a>(&self, state: MutexGuard<'a, State>, pause: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, an answer is waited for, for so long; or for none.
    pub(super) fn set(&self, limit: Option<Duration>) {
        let mut state = self.state();
        state.deadline = limit.map(|limit| (Instant::now() + limit, limit));
        if state.asleep || limit.is_some_and(|limit| limit < PAUSE) {
            self.changed.notify_all();
        }
    }

    /// Why it has killed the process, if it has.
    pub(super) fn fired(&self) -> Option<Reason> {
        self.state().fired
    }

    /// The process is gone.
    pub(super) fn retire(&self) {
        self.state().retired = true;
        self.changed.notify_all();
    }
}

/// Resident memory of a process in MiB, where the system says it.
fn memory_mib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib / 1024)
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, fields)| fields.trim_start().starts_with('T'))
}
