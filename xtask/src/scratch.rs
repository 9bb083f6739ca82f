//! A folder for what this process needs on disk while it runs.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Context;
use tempfile::TempDir;

static FOLDER: OnceLock<TempDir> = OnceLock::new();

const PREFIX: &str = "xtask-";

/// The folder, which is made when it is first asked for.
pub(crate) fn folder() -> anyhow::Result<&'static Path> {
    if FOLDER.get().is_none() {
        sweep();
        let made = tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir();
        // Another thread may have made one just now; then this one goes again.
        let _ = FOLDER.set(made.context("making a folder for temporary files")?);
    }
    FOLDER.get().map(TempDir::path).context("there is no folder for temporary files")
}

/// An empty folder in it.
pub(crate) fn new_folder(name: &str) -> anyhow::Result<PathBuf> {
    let made = tempfile::Builder::new().prefix(name).tempdir_in(folder()?);
    Ok(made.context("making a folder for temporary files")?.keep())
}

/// Removes the folder, and ends the SSH connections whose sockets are in it. For a process that is about to end.
pub(crate) fn leave() {
    let Some(folder) = FOLDER.get() else { return };
    #[cfg(feature = "remote")]
    crate::host::ssh::end_connections(folder.path());
    // What cannot be removed now is removed by the next process.
    let _ = std::fs::remove_dir_all(folder.path());
}

/// Removes the folders of processes that were killed and could not do it themselves.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        let pid = pid.filter(|pid| pid.parse::<u32>().is_ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another user's cannot be removed, and is that one's to remove.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
