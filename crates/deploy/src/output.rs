//! The output folder: one writer at a time, and the folders of its jobs.

mod jobs;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

pub use jobs::{JobFolder, Jobs, Record, State};

use crate::{console, exit, interrupt};

/// How often to try to lock a folder, after pauses that grow by this.
const LOOKS: u32 = 4;
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// The pause between two tries to lock a folder, while waiting for another command.
const PAUSE: Duration = Duration::from_millis(200);

/// Locks a folder that a command writes to, until the file is dropped.
///
/// # Errors
/// Busy if another command has locked it; names that command's process.
pub fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join(".lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("the folder {} cannot be written", folder.display()))?;
    // Another command may look at the lock for a moment.
    let is_taken = (0..LOOKS).all(|look| {
        std::thread::sleep(LOOK_PAUSE * look);
        file.try_lock().is_err()
    });
    if is_taken {
        let mut holder = String::new();
        // Without it, the message just knows less.
        let _ = file.read_to_string(&mut holder);
        return Err(exit::busy(anyhow!(
            "another job (process {}) is already running, and writes to {}; wait for it (run-locally --wait), or choose \
             another folder (--output, --log)",
            holder.trim(),
            folder.display()
        )));
    }
    std::fs::write(&path, std::process::id().to_string())
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(file)
}

/// As [`lock`], but waits for another command, for at most this long.
///
/// # Errors
/// Those of [`lock`], or the user interrupted.
pub fn lock_within(folder: &Path, limit: Duration) -> anyhow::Result<File> {
    let start = Instant::now();
    let mut is_announced = false;
    loop {
        match lock(folder) {
            Err(error) if exit::is_busy(&error) && start.elapsed() < limit => {
                if !is_announced {
                    is_announced = true;
                    console::note(&format!("waiting, since {error}"));
                }
            }
            outcome => return outcome,
        }
        interrupt::check()?;
        std::thread::sleep(PAUSE);
    }
}

/// Whether a command has locked this folder.
pub fn is_locked(folder: &Path) -> bool {
    File::open(folder.join(".lock")).is_ok_and(|file| file.try_lock_shared().is_err())
}
