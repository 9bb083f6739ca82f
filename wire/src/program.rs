//! What a program and the one that started it tell each other, beside the network: a ready file, and a
//! lifeline.

use std::collections::{BTreeMap, VecDeque};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Written by a program when it is ready to be used: where it listens. Whoever
/// started it need not know free ports beforehand, and need not knock at ports to see if they are open.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Ready {
    /// Its addresses, by what they are for (`rows`, `results`, `control` …).
    pub addresses: BTreeMap<String, SocketAddr>,
    /// Of a sender, [which file](crate::identity::Identity) it sends, so that its next life sends no other one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
}

impl Ready {
    /// A program that listens at `addresses`.
    pub fn new<const N: usize>(addresses: [(&str, SocketAddr); N]) -> Self {
        let addresses = addresses.into_iter().map(|(what, at)| (what.to_owned(), at)).collect();
        Self { addresses, input: None }
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

    /// What this program's own ready file says of its life before this one, if there was one.
    ///
    /// # Errors
    /// As [`Ready::read`].
    pub fn before(path: Option<&Path>) -> anyhow::Result<Option<Self>> {
        Ok(path.map(Self::read).transpose()?.flatten())
    }

    /// Reads the file; `None` while it is not there.
    ///
    /// # Errors
    /// A file that cannot be read or is not a ready file.
    pub fn read(path: &Path) -> anyhow::Result<Option<Self>> {
        let Some(text) = read_if_there(path)? else { return Ok(None) };
        let ready = serde_json::from_slice(&text);
        ready.map(Some).with_context(|| format!("{} is not a ready file", path.display()))
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

/// Prints a line of talk to standard error. When nobody can read it any more (a pipe that is closed, a full disk), that is
/// no reason to end: the work matters more than the talk.
pub fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// [`say`](program::say) with a format.
#[macro_export]
macro_rules! say {
    ($($format:tt)*) => { $crate::program::say(format_args!($($format)*)) };
}

/// Prints why a program failed, in one line, and gives its exit code: [`TEMPORARY`] if [`Temporary`] is among the
/// causes.
pub fn failure(name: &str, error: &anyhow::Error) -> std::process::ExitCode {
    crate::say!("{name}: {error:#}");
    if error.is::<Temporary>() { TEMPORARY.into() } else { std::process::ExitCode::FAILURE }
}

/// The exit code of a program that could not go on because of something that passes, such as another program that died:
/// it may be started again (`EX_TEMPFAIL` of sysexits.h).
pub const TEMPORARY: u8 = 75;

/// Context for an error that passes: who is started again may do better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Temporary(
    /// What was being done.
    pub &'static str,
);

impl std::fmt::Display for Temporary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// The exit code of a Rust program whose main thread panicked.
pub const PANICKED: u8 = 101;

/// From now on a panic on any thread ends this process at once, so that a peer never waits for a half-dead one.
pub fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(PANICKED.into());
    }));
}

/// The longest time that a program can be told to wait: ten years, in seconds.
pub const LONGEST_WAIT: u64 = 10 * 365 * 24 * 3600;

/// The variable in the environment that says that standard input is a [lifeline](heed_lifeline).
pub const LIFELINE: &str = "EXIT_WITH_STDIN";
/// Its value where standard input is a socket, and whoever holds the other end wants signs of life.
pub const WATCHED: &str = "watched";
/// How often a sign of life is given.
pub const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

/// Ends this process when its standard input ends, if [`LIFELINE`] is set: whoever started it holds the other end of the
/// pipe, and however that process dies, nothing of it stays behind. If it wants to know, gives it signs of life: a process that
/// is stopped, or on a host that is, cannot.
pub fn heed_lifeline(name: &'static str) {
    let Some(kind) = std::env::var_os(LIFELINE) else { return };
    if kind == WATCHED
        && let Ok(stdin) = std::io::stdin().as_fd().try_clone_to_owned()
    {
        let mut keeper = UnixStream::from(stdin);
        std::thread::spawn(move || {
            // That nobody hears it is seen by the other thread.
            while keeper.write_all(b".").is_ok() {
                std::thread::sleep(SIGN_OF_LIFE);
            }
        });
    }
    std::thread::spawn(move || {
        let mut sink = [0; 64];
        while !matches!(std::io::stdin().read(&mut sink), Ok(0) | Err(_)) {}
        crate::say!("{name}: whoever started this program is gone, so it ends");
        std::process::exit(3);
    });
}

/// What to do when somebody wants this program to end: SIGINT and SIGTERM; and SIGHUP, unless the program was started
/// with that ignored, as nohup does.
///
/// # Errors
/// Those of the system.
pub fn on_end_signals(act: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    on_signals(move |_| act())
}

/// As [`on_end_signals`], with a difference made between the terminal's being closed and the other signals.
///
/// # Errors
/// Those of the system.
pub fn on_signals(act: impl Fn(EndSignal) + Send + 'static) -> anyhow::Result<()> {
    let mut wanted = vec![SIGINT, SIGTERM];
    if !ignores_hangup() {
        wanted.push(SIGHUP);
    }
    let mut signals = Signals::new(wanted).context("waiting for signals")?;
    let kind = |signal| if signal == SIGHUP { EndSignal::Hangup } else { EndSignal::End };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().for_each(|signal| act(kind(signal))))
        .context("starting a thread")?;
    Ok(())
}

/// A signal to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndSignal {
    /// The terminal was closed (SIGHUP).
    Hangup,
    /// Somebody wants this program to end (SIGINT, SIGTERM).
    End,
}

/// Whether SIGHUP is ignored; where the system does not say, it is not.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & (1 << (SIGHUP - 1)) != 0)
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
