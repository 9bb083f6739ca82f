//! Samples the memory of a job's processes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;

use crate::commands::chaos::processes;

/// Time between samples. The kernel keeps each process's peak, so no peak is missed between them.
const PAUSE: Duration = Duration::from_millis(50);
/// Programs that build the job's programs, and do not count.
const BUILDERS: [&str; 3] = ["cargo", "rustc", "rustup"];

/// A thread that samples the descendants of a process until [`Memory::most`].
pub(super) struct Memory {
    is_over: Arc<AtomicBool>,
    sampler: JoinHandle<u64>,
}

impl Memory {
    /// Starts to sample the descendants of `process`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(super) fn watch(process: u32) -> anyhow::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let sampler = std::thread::Builder::new().name("memory".into()).spawn(move || {
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
        Ok(Self { is_over, sampler: sampler.context("starting a thread")? })
    }

    /// Stops sampling; returns the sum of the processes' peaks, in bytes.
    pub(super) fn most(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.sampler.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Process id and peak memory in bytes of each descendant of `ancestor`.
fn family(ancestor: u32) -> Vec<(u32, u64)> {
    let all = processes::all();
    let family = processes::descendants(&processes::parents(&all), ancestor);
    let members = all.iter().filter(|process| family.contains(&process.pid));
    let members = members.filter(|process| !BUILDERS.contains(&process.program()));
    // A process that has ended by now was sampled before.
    members
        .filter_map(|process| Some((process.pid, processes::memory(process.pid, "VmHWM")? << 10)))
        .collect()
}
