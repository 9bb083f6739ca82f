//! Temporary folders of this process.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, anyhow};
use tempfile::TempDir;

use crate::control_socket;

/// For files, which may be large; in `TMPDIR`.
static FOLDER: OnceLock<TempDir> = OnceLock::new();
/// For sockets, whose paths must be short.
static SOCKETS: OnceLock<TempDir> = OnceLock::new();

const PREFIX: &str = "xtask-";

/// Folders for sockets, in order of preference. The path of a socket has at most 107 bytes, and ssh appends 17: `TMPDIR` is
/// often too long, and may have `%`, which ssh expands.
const FOR_SOCKETS: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];
/// The longest path of a folder for sockets, in bytes.
const MAX_PATH: usize = 40;

/// Creates a folder at the first call.
fn folder(
    of: &'static OnceLock<TempDir>,
    make: impl FnOnce() -> anyhow::Result<TempDir>,
) -> anyhow::Result<&'static Path> {
    if of.get().is_none() {
        deploy::interrupt::before_leaving(remove);
        // If another thread was quicker, this folder is removed again.
        let _ = of.set(make()?);
    }
    of.get().map(TempDir::path).context("there is no folder for temporary files")
}

fn private() -> Permissions {
    Permissions::from_mode(0o700)
}

fn make_in(parent: &Path) -> anyhow::Result<TempDir> {
    sweep(parent);
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let made = tempfile::Builder::new().prefix(&prefix).permissions(private()).tempdir_in(parent);
    made.with_context(|| format!("creating a folder for temporary files in {}", parent.display()))
}

/// Creates an empty folder for files.
///
/// # Errors
/// It cannot be created.
pub fn new_folder(name: &str) -> anyhow::Result<PathBuf> {
    let folder = folder(&FOLDER, || make_in(&std::env::temp_dir()))?;
    let made = tempfile::Builder::new().prefix(name).tempdir_in(folder);
    Ok(made.context("creating a folder for temporary files")?.keep())
}

/// Creates an empty folder for a socket, which only this user can enter. Its path is short and plain, whatever `TMPDIR` is.
pub(crate) fn socket_folder() -> anyhow::Result<PathBuf> {
    let folder = folder(&SOCKETS, make_for_sockets)?;
    let made = tempfile::Builder::new().prefix("c").permissions(private()).tempdir_in(folder);
    Ok(made.with_context(|| format!("creating a folder for a socket in {}", folder.display()))?.keep())
}

fn make_for_sockets() -> anyhow::Result<TempDir> {
    // The session's folder, for systems where /tmp is not writable.
    let of_session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let of_session = of_session.filter(|folder| folder.is_absolute() && is_short_and_plain(folder));
    let mut last = anyhow!("there is no folder for it");
    for parent in FOR_SOCKETS.iter().map(PathBuf::from).chain(of_session) {
        match make_in(&parent) {
            Ok(made) => return Ok(made),
            Err(error) => last = error,
        }
    }
    Err(last
        .context("sockets of SSH connections need a folder with a short path; let this user write to /tmp"))
}

/// Whether the path leaves room for a socket's name, and has no character that ssh would expand.
fn is_short_and_plain(folder: &Path) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_.-".contains(c);
    folder.to_str().is_some_and(|path| path.len() <= MAX_PATH && path.chars().all(plain))
}

/// Removes the folders, and ends the SSH connections whose sockets are in them. For a process that is about to exit.
pub fn remove() {
    if let Some(sockets) = SOCKETS.get() {
        control_socket::end_all(sockets.path());
    }
    for folder in [&SOCKETS, &FOLDER].into_iter().filter_map(OnceLock::get) {
        // The next process removes what is left.
        let _ = std::fs::remove_dir_all(folder.path());
    }
}

/// Removes the folders of processes that were killed.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        let pid = pid.filter(|pid| pid.parse::<u32>().is_ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another user's folder cannot be removed, and need not be.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_paths_are_short_wherever_temporary_files_are() {
        let folder = socket_folder().unwrap();
        // ssh's temporary name for a socket.
        let path = folder.join("s.0123456789abcdef");
        assert!(path.as_os_str().len() < 80 && is_short_and_plain(&PathBuf::from("/run/user/1000")));
        std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mode = folder.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        for odd in ["/run/%h", "/run/a b", "/run/user/a-very-long-name-for-a-runtime-folder"] {
            assert!(!is_short_and_plain(Path::new(odd)), "{odd}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
