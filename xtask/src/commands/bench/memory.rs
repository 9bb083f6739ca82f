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

fn family(ancestor: u32) -> Vec<(u32, u64)> {
    let all = processes::all();
    let mut family = vec![ancestor];
    let mut looked_at = 0;
    while let Some(&parent) = family.get(looked_at) {
        family.extend(all.iter().filter(|process| process.parent == parent).map(|process| process.pid));
        looked_at += 1;
    }
    let members = all.iter().filter(|process| process.pid != ancestor && family.contains(&process.pid));
    let members = members.filter(|process| !BUILDERS.contains(&process.program()));
    members.filter_map(|process| Some((process.pid, most_of(process.pid)?))).collect()
}

/// The most memory that a process has had, if it is still there.
fn most_of(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kibibytes << 10)
}
