//! A time by which the run has ended, whatever it was at.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::commands::chaos::processes;

/// How long those that are asked to end have for it.
const FAREWELL: Duration = Duration::from_secs(5);

/// Ends what this process has started when the time is over, unless there is no limit.
pub(super) struct Limit {
    minutes: Option<u64>,
    is_over: Arc<AtomicBool>,
}

impl Limit {
    pub(super) fn start(minutes: Option<u64>) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        if let Some(minutes) = minutes {
            let is_over = Arc::clone(&is_over);
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_secs(60 * minutes));
                is_over.store(true, Ordering::SeqCst);
                // Again and again: something may be started for what has just failed.
                loop {
                    let parents = processes::parents(&processes::all());
                    end(&processes::descendants(&parents, std::process::id()));
                }
            });
        }
        Self { minutes, is_over }
    }

    /// What is not running is not to be started.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minutes {
            Some(minutes) => write!(f, "{minutes} minutes"),
            None => f.write_str("any time"),
        }
    }
}

/// Callers before those that they called, who would otherwise have something to say about it.
fn end(processes: &[u32]) {
    let all = |signal| {
        for process in processes {
            // It may be gone by now.
            let _ = kill(Pid::from_raw(*process as i32), signal);
        }
    };
    all(Signal::SIGTERM);
    std::thread::sleep(FAREWELL);
    all(Signal::SIGKILL);
}
