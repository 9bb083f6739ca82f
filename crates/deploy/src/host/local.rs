//! This machine as a host.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use files::remove_if_there;
use process::exit::End;
use process::ready::Ready;
use process::supervisor::{Event, Supervisor};
use protocol::results::Progress;
use protocol::token::Token;

use super::{Host, Launch, MODEL, Running};
use crate::job;

/// The name of this machine as a host.
pub(crate) const THIS_MACHINE: &str = "this machine";
/// How long a program may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// This machine.
#[derive(Debug)]
pub struct Local {
    programs: PathBuf,
    logs: PathBuf,
    run: PathBuf,
}

impl Local {
    /// The folders of the programs, of their logs, and of their ready files.
    pub fn new(programs: PathBuf, logs: PathBuf, run: PathBuf) -> Self {
        Self { programs, logs, run }
    }

    /// The files with what the model has printed, in a job with this many classifiers.
    pub(crate) fn model_logs(&self, processes: usize) -> anyhow::Result<Vec<PathBuf>> {
        let names = (0..processes).map(job::classifier_name);
        names
            .map(|name| model_logs(&self.logs, &name))
            .collect::<anyhow::Result<Vec<_>>>()
            .map(|all| all.concat())
    }
}

impl Host for Local {
    fn name(&self) -> &str {
        THIS_MACHINE
    }

    fn address(&self) -> &str {
        "127.0.0.1"
    }

    fn has_fixed_ports(&self) -> bool {
        false
    }

    fn logs(&self) -> &Path {
        &self.logs
    }

    /// A thread of this process supervises the program, which ends with this process.
    fn start(&self, launch: &Launch) -> anyhow::Result<Box<dyn Running>> {
        let log = self.logs.join(format!("{}.log", launch.name));
        let context = || format!("starting {} on {}", launch.name, self.name());
        for left in [&launch.ready_file, &log] {
            remove_if_there(left).with_context(context)?;
        }
        for left in model_logs(&self.logs, &launch.name).with_context(context)? {
            std::fs::remove_file(&left)
                .with_context(|| format!("removing {}", left.display()))
                .with_context(context)?;
        }
        let supervised = process::supervisor::Launch {
            path: self.programs.join(launch.program),
            args: launch.args.clone(),
            environment: launch.environment.clone(),
            folder: None,
            log: log.clone(),
            ready_file: launch.ready_file.clone(),
            restart: launch.restart,
            stdin: launch.stdin,
        };
        let supervisor = Supervisor::default();
        let (sender, events) = channel();
        let own = supervisor.clone();
        let supervise = move || {
            own.supervise(&supervised, |event| {
                // The receiving end is closed only when the program is being ended.
                let _ = sender.send(event.clone());
                Ok(())
            })
        };
        let thread =
            std::thread::Builder::new().name("supervisor".into()).spawn(supervise).with_context(context)?;
        let name = launch.name.clone();
        let mut program = LocalProgram { name, supervisor, thread: Some(thread), events, end: None, log };
        // If the program cannot be started, its supervisor ends without an event, and its thread returns the error.
        if program.events.recv().is_err()
            && let Some(thread) = program.thread.take()
        {
            program.join(thread)?;
        }
        Ok(Box::new(program))
    }

    fn ready(&self, name: &str) -> anyhow::Result<Option<Ready>> {
        Ready::read(&self.run.join(format!("{name}.ready")))
    }

    fn observe(&self, results: &str, token: Option<&Token>) -> anyhow::Result<Receiver<Progress>> {
        let (sender, progress) = channel();
        let (results, token) = (results.to_owned(), token.cloned());
        std::thread::Builder::new()
            .name("observer".into())
            .spawn(move || {
                net::observer::keep_observing(&results, token.as_ref(), |progress| {
                    sender.send(progress).is_ok()
                });
            })
            .context("starting a thread")?;
        Ok(progress)
    }

    fn reach(&self, address: SocketAddr) -> anyhow::Result<SocketAddr> {
        Ok(address)
    }

    fn away(&self) -> Option<Duration> {
        None
    }
}

/// The files in this folder that have what the model of a classifier has printed, in the order of its workers.
fn model_logs(folder: &Path, name: &str) -> anyhow::Result<Vec<PathBuf>> {
    let begin = format!("{name}.{MODEL}");
    let mut found = Vec::new();
    let reading = || format!("reading the folder {}", folder.display());
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(reading)?,
    };
    for entry in entries {
        let entry = entry.with_context(reading)?;
        let file_name = entry.file_name();
        let rest = file_name.to_str().and_then(|name| name.strip_prefix(&begin)).unwrap_or_default();
        let worker = rest.strip_suffix(".1").unwrap_or(rest).strip_suffix(".log");
        if let Some(worker) = worker.and_then(|worker| worker.parse::<u32>().ok()) {
            found.push((worker, entry.path()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

struct LocalProgram {
    name: String,
    supervisor: Supervisor,
    /// Ends with the program.
    thread: Option<JoinHandle<anyhow::Result<End>>>,
    events: Receiver<Event>,
    end: Option<End>,
    log: PathBuf,
}

impl LocalProgram {
    fn join(&mut self, thread: JoinHandle<anyhow::Result<End>>) -> anyhow::Result<()> {
        let end = thread.join().unwrap_or_else(|_| Err(anyhow!("its supervisor's thread panicked")));
        self.end = Some(end.with_context(|| format!("supervising {}", self.name))?);
        Ok(())
    }
}

impl Running for LocalProgram {
    fn try_wait(&mut self) -> anyhow::Result<Option<End>> {
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) {
            self.join(thread)?;
        }
        Ok(self.end.clone())
    }

    fn deaths(&mut self) -> Vec<End> {
        let died = |event| if let Event::Died(end) = event { Some(end) } else { None };
        self.events.try_iter().filter_map(died).collect()
    }

    fn leave(&mut self) {
        // It cannot outlive this process.
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.supervisor.stop(GRACE).with_context(|| format!("ending {}", self.name))?;
        self.join(thread)
    }

    fn last_lines(&self, count: usize) -> anyhow::Result<Vec<String>> {
        files::last_lines(&self.log, count).with_context(|| format!("reading {}", self.log.display()))
    }

    fn log(&self) -> String {
        self.log.display().to_string()
    }
}

impl Drop for LocalProgram {
    fn drop(&mut self) {
        // A program that has already ended is fine, and other errors cannot be reported here.
        let _ = self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::path::Path;

    fn launch(folder: &Path, program: &'static str) -> Launch {
        Launch {
            name: "a".to_owned(),
            program,
            args: Vec::new(),
            environment: BTreeMap::new(),
            ready_file: folder.join("a.ready"),
            stdin: false,
            restart: true,
        }
    }

    #[test]
    fn a_program_that_cannot_be_started_is_an_error_each_time() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("no-program"), "").unwrap();
        let here = || dir.path().to_owned();
        let host = Local::new(here(), here(), here());
        // Repeated, since the supervisor's thread may end a moment after it closes its channel.
        for _ in 0..300 {
            for (program, cause) in [("missing", "No such file"), ("no-program", "Permission denied")] {
                let error = host.start(&launch(dir.path(), program)).err().unwrap();
                let text = format!("{error:#}");
                assert!(text.contains(program) && text.contains(cause), "{text}");
            }
        }
    }

    #[test]
    fn a_program_without_a_log_to_write_to_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let host = Local::new("/bin".into(), dir.path().join("nowhere"), dir.path().to_owned());
        let error = format!("{:#}", host.start(&launch(dir.path(), "true")).err().unwrap());
        assert!(error.contains("opening the log") && error.contains("nowhere/a.log"), "{error}");
    }
}
