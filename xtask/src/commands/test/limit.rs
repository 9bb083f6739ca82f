//! A time by which the run has ended, whatever it was at.

use std::collections::HashMap;
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
                    end(&descendants(&parents(), std::process::id()));
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

/// All processes, and who has started each.
fn parents() -> HashMap<u32, u32> {
    processes::all().iter().map(|process| (process.pid, process.parent)).collect()
}

/// Those that come from `root`, parents first.
fn descendants(parents: &HashMap<u32, u32>, root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        found.extend(parents.iter().filter(|(_, its)| **its == parent).map(|(process, _)| *process));
    }
    found.split_off(1)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn parents_come_before_their_children() {
        let parents = HashMap::from([(2, 1), (3, 2), (4, 3), (5, 2), (6, 1), (1, 0)]);
        let found = descendants(&parents, 2);
        assert_eq!(found.len(), 3, "{found:?}");
        let place = |process| found.iter().position(|found| *found == process).unwrap();
        assert!(place(3) < place(4) && place(5) < 3, "{found:?}");
    }

    #[test]
    fn who_was_started_is_found() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let found = descendants(&parents(), std::process::id());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(found.contains(&child.id()), "{found:?}");
    }
}
