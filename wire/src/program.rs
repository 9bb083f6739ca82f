//! What a program and the one that started it tell each other, beside the network: a ready file, and a
//! lifeline.

use std::collections::{BTreeMap, VecDeque};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Written by a program when it is ready to be used: its process id, and where it listens. Whoever
/// started it need not know free ports beforehand, and need not knock at ports to see if they are open.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Ready {
    /// The program's process id.
    pub pid: u32,
    /// Its addresses, by what they are for (`rows`, `results`, `control` …).
    pub addresses: BTreeMap<String, SocketAddr>,
}

impl Ready {
    /// This process, listening at `addresses`.
    pub fn new<const N: usize>(addresses: [(&str, SocketAddr); N]) -> Self {
        let addresses = addresses.into_iter().map(|(what, at)| (what.to_owned(), at)).collect();
        Self { pid: std::process::id(), addresses }
    }

    /// Writes the file, whole or not at all. Without a path nothing is asked for, and nothing happens.
    ///
    /// # Errors
    /// Those of writing the file.
    pub fn write(&self, path: Option<&Path>) -> anyhow::Result<()> {
        let Some(path) = path else { return Ok(()) };
        let text = serde_json::to_vec(self).context("encoding a ready file")?;
        replace_file(path, &text)
    }

    /// Reads the file; `None` while it is not there.
    ///
    /// # Errors
    /// A file that cannot be read or is not a ready file.
    pub fn read(path: &Path) -> anyhow::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("{} is not a ready file", path.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
        }
    }
}

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
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).with_context(context),
        _ => {}
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(context)?;
    file.write_all(text.as_bytes()).with_context(context)
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

/// Prints why a program failed, in one line, and gives its exit code.
pub fn failure(name: &str, error: &anyhow::Error) -> std::process::ExitCode {
    eprintln!("{name}: {error:#}");
    std::process::ExitCode::FAILURE
}

/// Ends this process when its standard input ends: whoever started it holds the other end of the pipe, and
/// however that process dies, nothing of it stays behind.
pub fn exit_with_stdin(name: &'static str) {
    std::thread::spawn(move || {
        let mut sink = [0; 64];
        while !matches!(std::io::stdin().read(&mut sink), Ok(0) | Err(_)) {}
        eprintln!("{name}: whoever started this program is gone, so it ends");
        std::process::exit(3);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_file_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready");
        assert_eq!(Ready::read(&path).unwrap(), None);
        let ready = Ready::new([("rows", "127.0.0.1:8888".parse().unwrap())]);
        ready.write(Some(&path)).unwrap();
        assert_eq!(Ready::read(&path).unwrap(), Some(ready));
        std::fs::write(&path, "{").unwrap();
        assert!(Ready::read(&path).is_err());
    }
}
