//! Process trees, read from `/proc`: their memory, and how to end them.
//!
//! Reading `smaps_rollup` or `environ` takes a lock that a process in uninterruptible sleep may hold. Both are therefore
//! read on a separate thread, with a limit of [`PATIENCE`]. Reading the other files never blocks.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long to wait for a read that may block.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause before looking again for processes that were killed.
const PAUSE: Duration = Duration::from_millis(10);

/// A process's state, as the kernel's letter, and its parent.
fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Whether a signal or a debugger has stopped the process.
pub(super) fn is_stopped(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| matches!(state, 'T' | 't'))
}

/// Whether a process with this id exists, zombies included.
pub(super) fn exists(pid: u32) -> bool {
    state_and_parent(pid).is_some()
}

/// The parent of a process that exists.
pub(super) fn parent(pid: u32) -> Option<u32> {
    state_and_parent(pid).map(|(_, parent)| parent)
}

/// The ids of all processes.
fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The running descendants of these processes.
fn descendants(roots: &[u32]) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut ended = HashSet::new();
    for pid in pids() {
        if let Some((state, parent)) = state_and_parent(pid) {
            children.entry(parent).or_default().push(pid);
            if matches!(state, 'Z' | 'X') {
                ended.insert(pid);
            }
        }
    }
    let mut found = roots.to_vec();
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        found.extend(children.remove(parent).unwrap_or_default());
        next += 1;
    }
    found.drain(..roots.len());
    found.retain(|pid| !ended.contains(pid));
    found
}

fn kill_all(pids: &[u32]) {
    for pid in pids {
        // It may be gone already.
        let _ = kill(Pid::from_raw(*pid as i32), Signal::SIGKILL);
    }
}

/// Kills all descendants of this process repeatedly, until none is left or `patience` is over. Returns those that are left.
pub(super) fn end_descendants(pid: u32, patience: Duration) -> Vec<u32> {
    end(|| descendants(&[pid]), patience)
}

/// Kills a process that adopts its descendants, after all of these. Returns those that are left.
pub(super) fn end_with_descendants(pid: u32) -> Vec<u32> {
    let left = end_descendants(pid, PATIENCE);
    kill_all(&[pid]);
    left
}

fn end(find: impl Fn() -> Vec<u32>, patience: Duration) -> Vec<u32> {
    let deadline = Instant::now() + patience;
    loop {
        let left = find();
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        kill_all(&left);
        std::thread::sleep(PAUSE);
    }
}

/// Kills the processes that were started with `mark` in their environment, and their descendants. Processes inherit the mark, so
/// this also finds those whose parent is gone.
pub(super) fn end_marked(mark: &str) {
    let mark = mark.as_bytes().to_vec();
    let marked = move || {
        let own = std::process::id();
        let has_mark = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            *pid != own && environment.split(|&byte| byte == 0).any(|variable| variable == mark)
        };
        let mut found: Vec<_> = pids().into_iter().filter(has_mark).collect();
        found.extend(descendants(&found));
        found
    };
    // After the limit, the thread continues.
    on_a_thread(move || end(marked, PATIENCE));
}

/// Whether a process's descendants use more memory than `limit` MiB.
pub(super) fn takes_more_than(pid: u32, limit: u64) -> bool {
    let limit = limit.saturating_mul(1024);
    let pids = listed_children(pid);
    let resident: u64 = pids.iter().filter_map(|pid| kib(&format!("/proc/{pid}/status"), "VmRSS:")).sum();
    // This sum counts shared pages once per process. The exact figure is expensive, so it is read only if the sum is too
    // large.
    if resident <= limit {
        return false;
    }
    let proportional = on_a_thread(move || {
        let share = |pid: &u32| {
            kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
                .or_else(|| kib(&format!("/proc/{pid}/status"), "VmRSS:"))
        };
        pids.iter().filter_map(share).sum::<u64>()
    });
    proportional.unwrap_or(resident) > limit
}

/// Reads the figure of this name from a file of `/proc`, in KiB.
fn kib(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches("kB").trim_end().parse().ok()
}

/// A process's descendants by the kernel's lists of children. Fast, but may miss descendants of a process that ends
/// meanwhile.
fn listed_children(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        for thread in threads.flatten() {
            match fs::read_to_string(thread.path().join("children")) {
                Ok(list) => {
                    found.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
                }
                // The kernel has no such lists.
                Err(_) if thread.path().exists() => return descendants(&[pid]),
                // The thread has ended.
                Err(_) => {}
            }
        }
    }
    found.remove(0);
    found
}

/// Runs `work` on a separate thread. Returns `None` if it takes longer than [`PATIENCE`].
fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = mpsc::channel();
    let work = move || {
        // The receiver is gone when the limit is over.
        let _ = done.send(work());
    };
    std::thread::Builder::new().name("python processes".into()).spawn(work).ok()?;
    result.recv_timeout(PATIENCE).ok()
}
