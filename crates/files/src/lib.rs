//! Files that are written whole or not at all, and other small file system helpers. An [`anyhow::Error`] names the file.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;

/// Replaces the file at `path` atomically: after a crash or a loss of power, either the old file or the new one exists.
///
/// # Errors
/// The file cannot be written.
pub fn replace_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let context = || format!("writing {}", path.display());
    let mut name = path.file_name().with_context(context)?.to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = std::fs::File::create(&new).with_context(context)?;
    file.write_all(bytes).with_context(context)?;
    file.sync_all().with_context(context)?;
    std::fs::rename(&new, path).with_context(context)?;
    sync_folder(path).with_context(context)
}

/// Writes a new file that only its owner may read; an existing one is removed first.
///
/// # Errors
/// The file cannot be written.
pub fn write_secret_file(path: &Path, text: &str) -> anyhow::Result<()> {
    let context = || format!("writing {}", path.display());
    remove_if_there(path)?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(context)?;
    file.write_all(text.as_bytes()).with_context(context)
}

/// Removes a file if it exists.
///
/// # Errors
/// The file cannot be removed.
pub fn remove_if_there(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Reads a file; `None` if it does not exist.
///
/// # Errors
/// The file cannot be read.
pub fn read_if_there(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
    }
}

/// Syncs the folder of `path`, so that created, renamed and removed names in it are durable.
///
/// # Errors
/// The folder cannot be opened or synced.
pub fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

/// At most `count` of the last lines of a file, without holding the rest of it in memory.
///
/// # Errors
/// The file cannot be read.
pub fn last_lines(path: &Path, count: usize) -> std::io::Result<Vec<String>> {
    let mut last = VecDeque::new();
    for line in BufReader::new(std::fs::File::open(path)?).split(b'\n') {
        last.push_back(String::from_utf8_lossy(&line?).into_owned());
        if last.len() > count {
            last.pop_front();
        }
    }
    Ok(last.into())
}
