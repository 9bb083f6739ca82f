//! How much memory a job's processes have.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;

use crate::commands::chaos::processes;

/// How often it is looked at. Each process knows the most that it has had.
const PAUSE: Duration = Duration::from_millis(50);
/// What builds a job's programs is not part of it.
const BUILDERS: [&str; 3] = ["cargo", "rustc", "rustup"];

/// Looks at the processes that come from one, until somebody asks.
pub(super) struct Memory {
    is_over: Arc<AtomicBool>,
    looking: JoinHandle<u64>,
}

impl Memory {
    /// From now on, at what comes from this process.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn watch(process: u32) -> anyhow::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let looking = std::thread::Builder::new().name("memory".into()).spawn(move || {
            // By process id, in bytes.
            let mut most = BTreeMap::new();
            while !seen.load(Ordering::Relaxed) {
                for (pid, bytes) in family(process) {
                    most.insert(pid, bytes);
                }
                std::thread::sleep(PAUSE);
            }
            most.values().sum()
        });
        Ok(Self { is_over, looking: looking.context("starting a thread")? })
    }

    /// The most that each of them has had, all together, in bytes.
    pub(super) fn most(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.looking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// The most memory that each process has had that comes from this one, in bytes.
fn family(ancestor: u32) -> Vec<(u32, u64)> {
    let all = processes::all();
    let family = processes::descendants(&processes::parents(&all), ancestor);
    let members = all.iter().filter(|process| family.contains(&process.pid));
    let members = members.filter(|process| !BUILDERS.contains(&process.program()));
    // One that is gone by now was seen before.
    members
        .filter_map(|process| Some((process.pid, processes::memory(process.pid, "VmHWM")? << 10)))
        .collect()
}
