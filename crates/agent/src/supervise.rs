//! The process that supervises one program: starts it, restarts it when it dies, and records its final end. The process is
//! independent of terminals and connections.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use process::exit::End;
use process::supervisor::{Event, Launch, Supervisor};

use crate::protocol::Program;
use crate::records::{self, Process, Record, Records};

/// Starts the program from its launch file, and supervises it until it ends for good or this process gets a signal to end.
///
/// # Errors
/// The program cannot be started; that is also recorded as its end.
pub fn supervise(folder: &Path, name: &str) -> anyhow::Result<()> {
    let records = Records::new(folder);
    // The agent's session ends with its connection, and this process must not.
    nix::unistd::setsid().context("leaving the session")?;
    let outcome = run(folder, &records, name);
    let end = match &outcome {
        Ok(end) => end.clone(),
        Err(error) => End::Unknown(format!("{error:#}")),
    };
    records.save_end(name, &end)?;
    outcome.map(drop)
}

fn run(folder: &Path, records: &Records, name: &str) -> anyhow::Result<End> {
    let program: Option<Program> = records::load(&records.launch_file(name))?;
    let program = program.with_context(|| format!("{name} has no launch file"))?;
    let path = folder.join(&program.path);
    ensure!(path.exists(), "{} does not exist; ship it with: cargo xtask up", path.display());
    let launch = Launch {
        path,
        args: program.args.clone(),
        environment: program.environment.clone(),
        folder: Some(folder.to_owned()),
        log: log_file(folder, name),
        ready_file: folder.join(&program.ready_file),
        restart: program.restart,
        stdin: false,
    };
    let supervisor = Supervisor::default();
    let stopping = supervisor.clone();
    process::signals::on_end_signals(move || stopping.ask_to_stop())?;
    let me = Process::of(std::process::id()).context("this process is missing in /proc")?;
    let mut deaths = Vec::new();
    supervisor.supervise(&launch, |event| {
        match event {
            Event::Started(pid) => {
                let process = Process::of(*pid).context("the program is missing in /proc")?;
                let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                let program = program.clone();
                records.save(&Record { program, process, supervisor: me, since, deaths: deaths.clone() })?;
            }
            Event::Died(end) => deaths.push(end.clone()),
        }
        Ok(())
    })
}

/// The file for a program's output.
pub(crate) fn log_file(folder: &Path, name: &str) -> std::path::PathBuf {
    folder.join("log").join(format!("{name}.log"))
}
