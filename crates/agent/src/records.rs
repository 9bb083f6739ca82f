//! Files about programs. A process is identified by its id and its start time, since the system reuses ids.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use files::{read_if_there, remove_if_there, replace_file};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use process::exit::End;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::protocol::Program;

/// How long a process may take to disappear after SIGKILL.
const KILL_TIME: Duration = Duration::from_secs(10);
const POLL_PAUSE: Duration = Duration::from_millis(5);
/// Bytes reserved for the record of a program's end: a signal, an exit code or an error message.
const RESERVED_BYTES: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    started: u64,
}

impl Process {
    /// The process that has this id now, which may be a child of ours that has ended. `None` if there is none.
    pub fn of(pid: u32) -> Option<Self> {
        stat(pid).map(|(_, started)| Self { pid, started })
    }

    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| started == self.started && !matches!(state, 'Z' | 'X'))
    }

    /// Sends a signal to the process and its group; does nothing if it has ended.
    fn signal(&self, signal: Signal) {
        if self.is_alive() {
            let _ = killpg(Pid::from_raw(self.pid as i32), signal);
        }
    }
}

/// The state of the process with this id (`Z` for a zombie), and when it started; `None` if there is none.
fn stat(pid: u32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, can contain any characters. The state follows it, and the start time is the line's field 22.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// A started program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub program: Program,
    /// The leader of its process group.
    pub process: Process,
    /// The leader of another process group.
    pub supervisor: Process,
    /// When it was started, in seconds since 1970.
    pub since: u64,
    /// One for each restart.
    pub deaths: Vec<End>,
}

/// The files about programs: `run/` in the host's folder.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.join("run") }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn file(&self, name: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{name}.{kind}"))
    }

    /// The file with the program that a supervisor is to start.
    pub fn launch_file(&self, name: &str) -> PathBuf {
        self.file(name, "launch")
    }

    /// Removes the records of an earlier program of this name.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn forget(&self, name: &str) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.folder)
            .with_context(|| format!("creating the folder {}", self.folder.display()))?;
        for kind in ["launch", "pid", "reserve", "end"] {
            remove_if_there(&self.file(name, kind))?;
        }
        Ok(())
    }

    /// # Errors
    /// The file cannot be written.
    pub fn save_launch(&self, program: &Program) -> anyhow::Result<()> {
        save(&self.launch_file(&program.name), program)
    }

    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, record: &Record) -> anyhow::Result<()> {
        save(&self.file(&record.program.name, "pid"), record)
    }

    /// The record of a program; `None` if it was not started.
    ///
    /// # Errors
    /// The file cannot be read or parsed.
    pub fn load(&self, name: &str) -> anyhow::Result<Option<Record>> {
        load(&self.file(name, "pid"))
    }

    /// Reserves space for [`Self::save_end`], since the program may end because the disk is full.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn reserve_end(&self, name: &str) -> anyhow::Result<()> {
        let path = self.file(name, "reserve");
        std::fs::write(&path, [b' '; RESERVED_BYTES]).with_context(|| format!("writing {}", path.display()))
    }

    /// Records how a program ended, in the reserved space.
    ///
    /// # Errors
    /// The file cannot be written or renamed.
    pub fn save_end(&self, name: &str, end: &End) -> anyhow::Result<()> {
        let (reserved, path) = (self.file(name, "reserve"), self.file(name, "end"));
        let context = || format!("writing {}", reserved.display());
        let text = serde_json::to_vec(end).context("encoding a program's end")?;
        // The rest of the reserved space stays blank, which JSON allows.
        let mut file =
            File::options().write(true).create(true).truncate(false).open(&reserved).with_context(context)?;
        file.write_all(&text).with_context(context)?;
        std::fs::rename(&reserved, &path).with_context(|| format!("renaming {}", reserved.display()))
    }

    /// How a program ended; `None` if it has not.
    ///
    /// # Errors
    /// The file cannot be read or parsed.
    pub fn load_end(&self, name: &str) -> anyhow::Result<Option<End>> {
        load(&self.file(name, "end"))
    }

    /// All programs that were started, in the order of their names.
    ///
    /// # Errors
    /// A file cannot be read or parsed.
    pub fn all(&self) -> anyhow::Result<Vec<Record>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.with_context(|| format!("reading the folder {}", self.folder.display()))?,
        };
        let mut records: Vec<Record> = Vec::new();
        for entry in entries {
            let path = entry.with_context(|| format!("reading the folder {}", self.folder.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "pid") {
                records.extend(load::<Record>(&path)?);
            }
        }
        records.sort_by(|a, b| a.program.name.cmp(&b.program.name));
        Ok(records)
    }

    /// Whether a program runs or is being restarted: in between, only its supervisor runs.
    pub fn is_running(&self, record: &Record) -> bool {
        let has_ended = || !matches!(self.load_end(&record.program.name), Ok(None));
        record.process.is_alive() || (record.supervisor.is_alive() && !has_ended())
    }

    /// Ends a program with SIGTERM, and with SIGKILL if it still runs after the grace. Waits until it and its supervisor are
    /// gone.
    ///
    /// # Errors
    /// A process does not disappear after SIGKILL.
    pub fn stop(&self, record: &Record, grace: Duration) -> anyhow::Result<()> {
        let name = &record.program.name;
        // The supervisor passes the signal on, and does not restart the program.
        record.supervisor.signal(Signal::SIGTERM);
        await_gone(&record.supervisor, grace);
        // The program may have been restarted just before. Its supervisor, if it still runs, records the end.
        let newest = self.load(name)?.map_or(record.process, |newest| newest.process);
        kill(&newest, name)?;
        await_gone(&record.supervisor, KILL_TIME);
        kill(&record.supervisor, &format!("the supervisor of {name}"))
    }
}

fn kill(process: &Process, what: &str) -> anyhow::Result<()> {
    process.signal(Signal::SIGKILL);
    anyhow::ensure!(
        await_gone(process, KILL_TIME),
        "ending {what}: process {} still runs {KILL_TIME:?} after it was killed",
        process.pid
    );
    Ok(())
}

fn await_gone(process: &Process, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while process.is_alive() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL_PAUSE);
    }
    true
}

fn save<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    let text = serde_json::to_vec(value).with_context(|| format!("encoding {}", path.display()))?;
    replace_file(path, &text)
}

pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let Some(text) = read_if_there(path)? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).with_context(|| format!("parsing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_identified_by_id_and_start_time() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(process.is_alive());
        // A later process with the same id.
        assert!(!Process { started: process.started + 1, ..process }.is_alive());
        child.kill().unwrap();
        // A zombie counts as gone.
        assert!(await_gone(&process, Duration::from_secs(20)));
        child.wait().unwrap();
        assert!(!process.is_alive());
    }
}
