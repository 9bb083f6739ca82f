//! The output folder: one writer at a time, and the results of an earlier job.

mod earlier;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, anyhow};

pub use earlier::Earlier;

use crate::exit;

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
    if file.try_lock().is_err() {
        let mut holder = String::new();
        // Without it, the message just knows less.
        let _ = file.read_to_string(&mut holder);
        return Err(exit::busy(anyhow!(
            "another job (process {}) writes to {}; wait for it, or choose another folder (--output, --log)",
            holder.trim(),
            folder.display()
        )));
    }
    std::fs::write(&path, std::process::id().to_string())
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(file)
}
