//! What is known of programs, on disk. A process is known by its id and the time it started, since ids are given
//! again.

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

/// How long a process may take to be gone that was killed.
const KILL_TIME: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);
/// How much room the note of a program's end has; the words in it are a signal's or an exit code's, or an error's.
const END_ROOM: usize = 4096;

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since the host did.
    started: u64,
}

impl Process {
    /// The process that has this id now, which may have ended if it is this one's child; `None` if there is none.
    pub fn of(pid: u32) -> Option<Self> {
        stat(pid).map(|(_, started)| Self { pid, started })
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| started == self.started && !matches!(state, 'Z' | 'X'))
    }

    /// Sends a signal to the process and all of its group; that it is gone already is fine.
    fn signal(&self, signal: Signal) {
        if self.is_alive() {
            let _ = killpg(Pid::from_raw(self.pid as i32), signal);
        }
    }
}

/// The state of the process with this id (Z: it has ended, and its parent has not noticed yet), and when it started; `None`
/// if there is none.
fn stat(pid: u32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything. Behind it: the state, and 18 fields on, the start.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// A program that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What was started.
    pub program: Program,
    /// The program's process, which leads a process group.
    pub process: Process,
    /// The process that keeps it, which leads another.
    pub supervisor: Process,
    /// When it was started, in seconds since 1970.
    pub since: u64,
    /// How it died before it was started again, each time that it did.
    pub deaths: Vec<End>,
}

/// The files about programs.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// Those in the host's folder.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.join("run") }
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn file(&self, name: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{name}.{kind}"))
    }

    /// Where the supervisor finds what it is to start.
    pub fn launch_file(&self, name: &str) -> PathBuf {
        self.file(name, "launch")
    }

    /// Forgets what an earlier program of this name left.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn forget(&self, name: &str) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.folder)
            .with_context(|| format!("making the folder {}", self.folder.display()))?;
        for kind in ["launch", "pid", "reserve", "end"] {
            remove_if_there(&self.file(name, kind))?;
        }
        Ok(())
    }

    /// Notes what is to be started.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save_launch(&self, program: &Program) -> anyhow::Result<()> {
        save(&self.launch_file(&program.name), program)
    }

    /// Notes that a program was started.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, record: &Record) -> anyhow::Result<()> {
        save(&self.file(&record.program.name, "pid"), record)
    }

    /// The record of a program, if it was started.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn load(&self, name: &str) -> anyhow::Result<Option<Record>> {
        load(&self.file(name, "pid"))
    }

    /// Makes room for the note how a program ends: that may be because the disk is full.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn reserve_end(&self, name: &str) -> anyhow::Result<()> {
        let path = self.file(name, "reserve");
        std::fs::write(&path, [b' '; END_ROOM]).with_context(|| format!("writing {}", path.display()))
    }

    /// Notes how a program ended, in the room that was made for it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save_end(&self, name: &str, end: &End) -> anyhow::Result<()> {
        let (room, path) = (self.file(name, "reserve"), self.file(name, "end"));
        let context = || format!("writing {}", room.display());
        let text = serde_json::to_vec(end).context("encoding a program's end")?;
        // What is left of the room behind the text stays blank.
        let mut file =
            File::options().write(true).create(true).truncate(false).open(&room).with_context(context)?;
        file.write_all(&text).with_context(context)?;
        std::fs::rename(&room, &path).with_context(|| format!("renaming {}", room.display()))
    }

    /// How a program ended, if it has.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn load_end(&self, name: &str) -> anyhow::Result<Option<End>> {
        load(&self.file(name, "end"))
    }

    /// All programs that were started, by name.
    ///
    /// # Errors
    /// Files that cannot be read.
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

    /// Whether a program runs, or will again in a moment: between two of its lives there is only its supervisor.
    pub fn is_running(&self, record: &Record) -> bool {
        let has_ended = || !matches!(self.load_end(&record.program.name), Ok(None));
        record.process.is_alive() || (record.supervisor.is_alive() && !has_ended())
    }

    /// Ends a program: politely at first, and after the grace by force. Waits until it and its supervisor are gone.
    ///
    /// # Errors
    /// When a process stays although it was killed.
    pub fn stop(&self, record: &Record, grace: Duration) -> anyhow::Result<()> {
        let name = &record.program.name;
        // The supervisor passes it on, and does not start the program again.
        record.supervisor.signal(Signal::SIGTERM);
        await_gone(&record.supervisor, grace);
        // It may have been started again just before. The supervisor, if it is there, notes the end.
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
        "ending {what}: process {} is still there {KILL_TIME:?} after it was killed",
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
        std::thread::sleep(PAUSE);
    }
    true
}

fn save<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    let text = serde_json::to_vec(value).with_context(|| format!("encoding {}", path.display()))?;
    replace_file(path, &text)
}

pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let Some(text) = read_if_there(path)? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).with_context(|| format!("understanding {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_known_by_id_and_start() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(process.is_alive());
        // Another one that would be given the same id later.
        assert!(!Process { started: process.started + 1, ..process }.is_alive());
        child.kill().unwrap();
        // Gone also while its parent has not noticed.
        assert!(await_gone(&process, Duration::from_secs(20)));
        child.wait().unwrap();
        assert!(!process.is_alive());
    }
}
