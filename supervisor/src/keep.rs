//! The process that keeps one program: starts it, waits for it, and notes how it ended. It belongs to no terminal and
//! to no connection.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};

use crate::protocol::{End, Program};
use crate::records::{self, Process, Record, Records};

/// Keeps the program of this name, of which the host's folder has the launch.
///
/// # Errors
/// A program that cannot be started; it is also noted as its end.
pub fn keep(folder: &Path, name: &str) -> anyhow::Result<()> {
    let records = Records::new(folder);
    // Whoever started this one leads its session; this one shall have a session of its own.
    nix::unistd::setsid().context("leaving the session")?;
    let kept = start_and_wait(folder, &records, name);
    let end = match &kept {
        Ok(end) => end.clone(),
        Err(error) => End { success: false, status: format!("{error:#}") },
    };
    records.save_end(name, &end)?;
    kept.map(drop)
}

fn start_and_wait(folder: &Path, records: &Records, name: &str) -> anyhow::Result<End> {
    let program: Option<Program> = records::load(&records.launch_file(name))?;
    let program = program.with_context(|| format!("nothing says how to start {name}"))?;
    let log = log_file(folder, name);
    let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let errors = output.try_clone().context("duplicating a file")?;
    let path = folder.join(&program.path);
    ensure!(path.exists(), "there is no {}", path.display());
    let mut child = Command::new(&path)
        .args(&program.args)
        .envs(&program.environment)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {}", path.display()))?;
    let process = Process::of(child.id()).context("the program is not in /proc")?;
    let keeper = Process::of(std::process::id()).context("this process is not in /proc")?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    records.save(&Record { program, process, keeper, since })?;
    let status = child.wait().with_context(|| format!("waiting for {name}"))?;
    Ok(End { success: status.success(), status: status.to_string() })
}

/// Where a program's output goes.
pub(crate) fn log_file(folder: &Path, name: &str) -> std::path::PathBuf {
    folder.join("log").join(format!("{name}.log"))
}
