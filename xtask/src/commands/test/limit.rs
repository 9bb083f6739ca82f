//! A time limit for the whole run.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::commands::chaos::processes;

/// Time from SIGTERM to SIGKILL.
const GRACE_TIME: Duration = Duration::from_secs(5);

/// Ends all descendants of this process when the time is over, if there is a limit.
#[derive(Debug, Clone)]
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
                // Repeatedly, since a failure may be followed by another program.
                loop {
                    let parents = processes::parents(&processes::all());
                    end(&processes::descendants(&parents, std::process::id()));
                }
            });
        }
        Self { minutes, is_over }
    }

    /// Nothing more may be started.
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

/// Ends parents before their children: they would otherwise report that a child failed.
fn end(processes: &[u32]) {
    let all = |signal| {
        for process in processes {
            // It may have ended by now.
            let _ = kill(Pid::from_raw(*process as i32), signal);
        }
    };
    all(Signal::SIGTERM);
    std::thread::sleep(GRACE_TIME);
    all(Signal::SIGKILL);
}
