//! Monitors a job from outside: how its output advances, and what memory and descriptors its processes use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::{Mutex, MutexGuard};

use super::processes::{self, Target};

/// Time between two looks at the checkpoint.
const PAUSE: Duration = Duration::from_millis(5);
/// Shortest time between two samples of the processes.
const SAMPLE_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct ProgressMonitor {
    /// When the number of durable rows grew.
    advances: Arc<Mutex<Vec<Instant>>>,
    samples: Mutex<Samples>,
}

#[derive(Default)]
struct Samples {
    last: Option<Instant>,
    /// By program: resident memory in KiB, and open descriptors.
    all: BTreeMap<String, Vec<(u64, usize)>>,
}

impl ProgressMonitor {
    /// Starts a thread that watches the checkpoint.
    pub(super) fn start(checkpoint: PathBuf) -> anyhow::Result<Self> {
        let advances = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::downgrade(&advances);
        let watch = move || {
            let mut before = 0;
            while let Some(noted) = noted.upgrade() {
                let rows = durable_rows(&checkpoint).unwrap_or(before);
                if rows > before {
                    noted.lock().push(Instant::now());
                }
                before = rows;
                drop(noted);
                std::thread::sleep(PAUSE);
            }
        };
        std::thread::Builder::new().name("progress".into()).spawn(watch).context("starting a thread")?;
        Ok(Self { advances, samples: Mutex::default() })
    }

    fn noted(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.advances.lock()
    }

    /// How often the output has advanced since `since`.
    pub(super) fn advances(&self, since: Instant) -> usize {
        self.noted().iter().rev().take_while(|at| **at >= since).count()
    }

    /// The longest time without an advance since `since`.
    pub(super) fn longest_gap(&self, since: Instant) -> Duration {
        let noted = self.noted();
        let mut before = since;
        let mut longest = Duration::ZERO;
        for &at in noted.iter().filter(|at| **at >= since) {
            longest = longest.max(at - before);
            before = at;
        }
        longest
    }

    /// Samples the processes, unless the last sample is less than [`SAMPLE_PAUSE`] ago.
    pub(super) fn sample(&self, processes: &[Target]) {
        let mut samples = self.samples.lock();
        if samples.last.is_some_and(|last| last.elapsed() < SAMPLE_PAUSE) {
            return;
        }
        samples.last = Some(Instant::now());
        for process in processes {
            if let Some(sample) = usage_of(process.pid) {
                samples.all.entry(process.name.clone()).or_default().push(sample);
            }
        }
    }

    /// A line for each process: its highest usage in the first third of its samples and in the last.
    pub(super) fn processes(&self) -> Vec<String> {
        let samples = self.samples.lock();
        let most = |part: &[(u64, usize)]| {
            let memory = part.iter().map(|(memory, _)| *memory).max().unwrap_or(0);
            (memory / 1024, part.iter().map(|(_, descriptors)| *descriptors).max().unwrap_or(0))
        };
        let line = |(name, all): (&String, &Vec<(u64, usize)>)| {
            let third = all.len() / 3;
            let ((memory, open), (memory_then, open_then)) =
                (most(&all[all.len() - third..]), most(&all[..third]));
            format!(
                "{name:<22} {memory_then} MiB and {open_then} descriptors in the first third, {memory} MiB and {open} in the last"
            )
        };
        samples.all.iter().filter(|(_, all)| all.len() >= 3).map(line).collect()
    }
}

/// The number of durable rows in the newest slot of the checkpoint.
fn durable_rows(checkpoint: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(checkpoint).ok()?;
    let slots = text.lines().filter_map(|line| {
        let (json, _) = line.trim_end().rsplit_once(' ')?;
        serde_json::from_str::<serde_json::Value>(json).ok()?["next_row"].as_u64()
    });
    slots.max()
}

/// Resident memory in KiB, and the number of open descriptors.
fn usage_of(pid: u32) -> Option<(u64, usize)> {
    let memory = processes::memory(pid, "VmRSS")?;
    Some((memory, std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count()))
}
