//! Files that are whole or not there, and other small dealings with the file system. Errors name the file.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;

/// Replaces `path` by a file of these bytes: after a crash or a loss of power, either the old file is
/// there or the new one.
///
/// # Errors
/// Names the file.
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

/// Writes a new file that only its owner may read, in place of an old one.
///
/// # Errors
/// Names the file.
pub fn write_secret_file(path: &Path, text: &str) -> anyhow::Result<()> {
    let context = || format!("writing {}", path.display());
    remove_if_there(path)?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(context)?;
    file.write_all(text.as_bytes()).with_context(context)
}

/// Removes a file, unless it is not there.
///
/// # Errors
/// Names the file.
pub fn remove_if_there(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Reads a file; `None` if it is not there.
///
/// # Errors
/// Names the file.
pub fn read_if_there(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
    }
}

/// Makes the names in the folder of `path` durable.
///
/// # Errors
/// Those of the file system.
pub fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

/// The last lines of a file, which may be long.
///
/// # Errors
/// Those of reading it.
pub fn last_lines(path: &Path, count: usize) -> std::io::Result<Vec<String>> {
    let mut last = VecDeque::new();
    for line in BufReader::new(std::fs::File::open(path)?).split(b'\n') {
        if last.len() == count {
            last.pop_front();
        }
        last.push_back(String::from_utf8_lossy(&line?).into_owned());
    }
    Ok(last.into())
}
