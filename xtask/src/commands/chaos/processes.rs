//! A job's processes, as this machine shows them.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Something that a fault can hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// What it is, whichever of several.
    pub(super) role: String,
    /// Which it is: a program's name, or a cable's.
    pub(super) name: String,
    /// Its process id, if it is a process.
    pub(super) pid: u32,
}

impl Target {
    fn process(name: &str, pid: u32) -> Self {
        let role = match name {
            "initializer" | "receiver" | "sender" | "hub" => name,
            _ => "classifier",
        };
        Self { role: role.to_owned(), name: name.to_owned(), pid }
    }

    /// Sends it a signal; it was there a moment ago, and that it is gone is fine.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid as i32), signal);
    }
}

/// The programs that the command with this process id has started, and their Python boxes.
pub(super) fn started_by(pid: u32) -> Vec<Target> {
    let all = all();
    let programs = all.iter().filter(|process| process.parent == pid);
    let named = programs.filter_map(|process| Some(Target::process(&process.name()?, process.pid)));
    with_boxes(named.collect(), &all)
}

/// The programs that the records in a host's folder tell of, and their Python boxes.
pub(super) fn recorded_in(folder: &Path) -> Vec<Target> {
    let all = all();
    // What is not there, or is being written just now, will be found the next time.
    let entries = std::fs::read_dir(folder.join("run")).into_iter().flatten().flatten();
    let records = entries.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "pid"));
    let recorded = records.filter_map(|entry| {
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok()?;
        let pid = u32::try_from(record["process"]["pid"].as_u64()?).ok()?;
        all.iter().find(|process| process.pid == pid)?;
        Some(Target::process(record["program"]["name"].as_str()?, pid))
    });
    with_boxes(recorded.collect(), &all)
}

fn with_boxes(mut programs: Vec<Target>, all: &[Process]) -> Vec<Target> {
    let of_one = |program: &Target| {
        let boxes = all.iter().filter(|process| process.parent == program.pid && process.is_python());
        let name = format!("a box of {}", program.name);
        boxes
            .map(|process| Target { role: "box".into(), name: name.clone(), pid: process.pid })
            .collect::<Vec<_>>()
    };
    let boxes: Vec<_> = programs.iter().flat_map(of_one).collect();
    programs.extend(boxes);
    programs
}

/// A process that runs, whosever it is.
pub(in crate::commands) struct Process {
    pub(in crate::commands) pid: u32,
    /// Who has started it.
    pub(in crate::commands) parent: u32,
    words: Vec<String>,
}

impl Process {
    fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let (state, parent) = (fields.next()?, fields.next()?.parse().ok()?);
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = String::from_utf8_lossy(&words).split('\0').map(str::to_owned).collect();
        (state != "Z").then_some(Self { pid, parent, words })
    }

    pub(in crate::commands) fn program(&self) -> &str {
        self.words.first().map_or("", |word| word.rsplit('/').next().unwrap_or_default())
    }

    fn is_python(&self) -> bool {
        self.program().starts_with("python")
    }

    /// What the job calls it, if it is one of its programs.
    fn name(&self) -> Option<String> {
        match self.program() {
            "classifier" => {
                let flag = self.words.iter().position(|word| word == "--name")?;
                self.words.get(flag + 1).cloned()
            }
            program @ ("receiver" | "sender" | "hub") => Some(program.to_owned()),
            _ => None,
        }
    }
}

/// All processes of this machine.
pub(in crate::commands) fn all() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Process::of).collect()
}
