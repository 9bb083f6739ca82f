//! The process that keeps one program: starts it, starts it again when it dies, and notes how it ended for good. It belongs
//! to no terminal and to no connection.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use process::exit::End;
use process::supervisor::{Event, Launch, Supervisor};

use crate::protocol::Program;
use crate::records::{self, Process, Record, Records};

/// Keeps the program of this name, of which the host's folder has the launch, until it ends for good or this process is asked
/// to end.
///
/// # Errors
/// A program that cannot be started; it is also noted as its end.
pub fn supervise(folder: &Path, name: &str) -> anyhow::Result<()> {
    let records = Records::new(folder);
    // Whoever started this one leads its session; this one shall have a session of its own.
    nix::unistd::setsid().context("leaving the session")?;
    let kept = keep_program(folder, &records, name);
    let end = match &kept {
        Ok(end) => end.clone(),
        Err(error) => End::Unknown(format!("{error:#}")),
    };
    records.save_end(name, &end)?;
    kept.map(drop)
}

fn keep_program(folder: &Path, records: &Records, name: &str) -> anyhow::Result<End> {
    let program: Option<Program> = records::load(&records.launch_file(name))?;
    let program = program.with_context(|| format!("nothing says how to start {name}"))?;
    let path = folder.join(&program.path);
    ensure!(path.exists(), "there is no {}", path.display());
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
    let me = Process::of(std::process::id()).context("this process is not in /proc")?;
    let mut deaths = Vec::new();
    supervisor.supervise(&launch, |event| {
        match event {
            Event::Started(pid) => {
                let process = Process::of(*pid).context("the program is not in /proc")?;
                let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                let program = program.clone();
                records.save(&Record { program, process, supervisor: me, since, deaths: deaths.clone() })?;
            }
            Event::Died(end) => deaths.push(end.clone()),
        }
        Ok(())
    })
}

/// Where a program's output goes.
pub(crate) fn log_file(folder: &Path, name: &str) -> std::path::PathBuf {
    folder.join("log").join(format!("{name}.log"))
}
