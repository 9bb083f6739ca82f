//! Finds a job's processes in `/proc`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process or a cable that a fault can hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Its kind, such as classifier; several targets may have the same.
    pub(super) role: String,
    /// The name of the program or cable.
    pub(super) name: String,
    /// 0 for a cable.
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

    /// Sends a signal. The process may have ended by now, which is fine.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid as i32), signal);
    }
}

/// A job's programs, and the models of its classifiers: Python processes, which outlive the classifiers that have started them.
#[derive(Debug, Default)]
pub(super) struct Finder {
    /// The classifiers that were found so far, by process id.
    classifiers: HashMap<u32, String>,
}

impl Finder {
    /// The programs that the process `pid` has started, and their models.
    pub(super) fn started_by(&mut self, pid: u32) -> Vec<Target> {
        let all = all();
        let programs = all.iter().filter(|process| process.parent == pid);
        let named = programs.filter_map(|process| Some(Target::process(&process.name()?, process.pid)));
        self.with_models(named.collect(), &all)
    }

    /// The running programs that are recorded in these folders of hosts, and their models.
    pub(super) fn recorded_in(&mut self, folders: impl Iterator<Item = PathBuf>) -> Vec<Target> {
        let all = all();
        let recorded = folders.flat_map(|folder| recorded_in(&folder, &all)).collect();
        self.with_models(recorded, &all)
    }

    fn with_models(&mut self, mut programs: Vec<Target>, all: &[Process]) -> Vec<Target> {
        for program in &programs {
            self.classifiers.insert(program.pid, program.name.clone());
        }
        let models = all.iter().filter(|process| process.is_python()).filter_map(|process| {
            // Above a process that has loaded the model there is a guard.
            let guard = all.iter().find(|guard| guard.pid == process.parent && guard.is_guard())?;
            let name = format!("a model of {}", self.classifiers.get(&guard.started_by_classifier()?)?);
            Some(Target { role: "model".into(), name, pid: process.pid })
        });
        programs.extend(models.collect::<Vec<_>>());
        programs
    }
}

/// The running programs that are recorded in a host's folder.
fn recorded_in(folder: &Path, all: &[Process]) -> Vec<Target> {
    // A record that is missing or half written is found the next time.
    let entries = std::fs::read_dir(folder.join("run")).into_iter().flatten().flatten();
    let records = entries.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "pid"));
    let recorded = records.filter_map(|entry| {
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok()?;
        let pid = u32::try_from(record["process"]["pid"].as_u64()?).ok()?;
        all.iter().find(|process| process.pid == pid)?;
        Some(Target::process(record["program"]["name"].as_str()?, pid))
    });
    recorded.collect()
}

/// A process of this machine.
pub(in crate::commands) struct Process {
    pub(in crate::commands) pid: u32,
    pub(in crate::commands) parent: u32,
    words: Vec<String>,
}

impl Process {
    fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may contain any character.
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

    fn is_guard(&self) -> bool {
        self.program() == "classifier" && self.words.get(1).is_some_and(|word| word == "guard")
    }

    /// The process id of the classifier that has started this guard, which is in the guard's mark.
    fn started_by_classifier(&self) -> Option<u32> {
        let environment = std::fs::read(format!("/proc/{}/environ", self.pid)).ok()?;
        let environment = String::from_utf8_lossy(&environment);
        let mark =
            environment.split('\0').find_map(|variable| variable.strip_prefix("CLASSIFIER_PROCESS="))?;
        mark.split('-').next()?.parse().ok()
    }

    /// Its name in the job, if it is one of a job's programs.
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

/// Each process's parent, by process id.
pub(in crate::commands) fn parents(all: &[Process]) -> HashMap<u32, u32> {
    all.iter().map(|process| (process.pid, process.parent)).collect()
}

/// The descendants of `root`, parents before their children.
pub(in crate::commands) fn descendants(parents: &HashMap<u32, u32>, root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        found.extend(parents.iter().filter(|(_, its)| **its == parent).map(|(process, _)| *process));
    }
    found.split_off(1)
}

/// The field `name` of `/proc/PID/status` in KiB, if the process still exists.
pub(in crate::commands) fn memory(pid: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    field.trim().trim_end_matches(" kB").parse().ok()
}

pub(in crate::commands) fn all() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Process::of).collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn parents_come_before_their_children() {
        let parents = HashMap::from([(2, 1), (3, 2), (4, 3), (5, 2), (6, 1), (1, 0)]);
        let found = descendants(&parents, 2);
        assert_eq!(found.len(), 3, "{found:?}");
        let position = |process| found.iter().position(|found| *found == process).unwrap();
        assert!(position(3) < position(4) && position(5) < 3, "{found:?}");
    }

    #[test]
    fn a_started_process_is_found() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let found = descendants(&parents(&all()), std::process::id());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(found.contains(&child.id()), "{found:?}");
    }
}
