//! Folders for what this process needs on disk while it runs.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, anyhow};
use tempfile::TempDir;

/// For files, which may be large: where `TMPDIR` says.
static FOLDER: OnceLock<TempDir> = OnceLock::new();
/// For sockets, whose addresses must be short.
static SOCKETS: OnceLock<TempDir> = OnceLock::new();

const PREFIX: &str = "xtask-";

/// Where sockets may be, the best first. An address has room for 107 bytes, and ssh needs 17 of them behind the name: too few for
/// many a `TMPDIR`, in which `%` would mean something else besides.
const FOR_SOCKETS: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];
/// The longest path of a folder that sockets of ours have room in.
const LONGEST: usize = 40;

/// A folder, which is made when it is first asked for.
fn folder(
    of: &'static OnceLock<TempDir>,
    make: impl FnOnce() -> anyhow::Result<TempDir>,
) -> anyhow::Result<&'static Path> {
    if of.get().is_none() {
        deploy::interrupt::before_leaving(leave);
        // Another thread may have made one just now; then this one goes again.
        let _ = of.set(make()?);
    }
    of.get().map(TempDir::path).context("there is no folder for temporary files")
}

/// For folders that nobody else is to enter.
fn private() -> Permissions {
    Permissions::from_mode(0o700)
}

fn make_in(parent: &Path) -> anyhow::Result<TempDir> {
    sweep(parent);
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let made = tempfile::Builder::new().prefix(&prefix).permissions(private()).tempdir_in(parent);
    made.with_context(|| format!("making a folder for temporary files in {}", parent.display()))
}

/// An empty folder for files.
pub fn new_folder(name: &str) -> anyhow::Result<PathBuf> {
    let folder = folder(&FOLDER, || make_in(&std::env::temp_dir()))?;
    let made = tempfile::Builder::new().prefix(name).tempdir_in(folder);
    Ok(made.context("making a folder for temporary files")?.keep())
}

/// An empty folder for a socket, which only this user can enter. Its path is short and plain, whatever `TMPDIR` is.
pub fn socket_folder() -> anyhow::Result<PathBuf> {
    let folder = folder(&SOCKETS, make_for_sockets)?;
    let made = tempfile::Builder::new().prefix("c").permissions(private()).tempdir_in(folder);
    Ok(made.with_context(|| format!("making a folder for a socket in {}", folder.display()))?.keep())
}

fn make_for_sockets() -> anyhow::Result<TempDir> {
    // That of the session, where /tmp cannot be written.
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

/// Whether an address of a socket has room in it, and ssh takes it for what it is.
fn is_short_and_plain(folder: &Path) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_.-".contains(c);
    folder.to_str().is_some_and(|path| path.len() <= LONGEST && path.chars().all(plain))
}

/// Removes the folders, and ends the SSH connections whose sockets are there. For a process that is about to end.
pub fn leave() {
    if let Some(sockets) = SOCKETS.get() {
        crate::ssh::end_connections(sockets.path());
    }
    for folder in [&SOCKETS, &FOLDER].into_iter().filter_map(OnceLock::get) {
        // What cannot be removed now is removed by the next process.
        let _ = std::fs::remove_dir_all(folder.path());
    }
}

/// Removes the folders of processes that were killed and could not do it themselves.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_have_room_wherever_temporary_files_are() {
        let folder = socket_folder().unwrap();
        // What ssh calls a socket while it makes it.
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
