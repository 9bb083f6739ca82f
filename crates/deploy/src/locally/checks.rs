//! Checks before a local job takes a row.

use std::path::Path;
use std::time::Duration;

use anyhow::{anyhow, ensure};
use protocol::result_files::published;

use super::LocalJob;
use crate::host::local::Local;
use crate::host::{Host, Launch};
use crate::{interrupt, job};

/// The pause between two polls of a check.
const CHECK_PAUSE: Duration = Duration::from_millis(1);
/// How many of the last lines of a check are shown.
const LAST_LINES: usize = 20;
/// Has a program check its arguments, so that a mistake does not cost the results of the job before; returns its last lines.
pub(super) fn check(
    job: &LocalJob,
    host: &Local,
    program: &'static str,
    args: Vec<String>,
    run_folder: &Path,
) -> anyhow::Result<String> {
    let name = format!("{program}-check");
    let launch = Launch {
        ready_file: run_folder.join(format!("{name}.ready")),
        name,
        program,
        args,
        environment: job.job.environment.clone(),
        stdin: false,
        restart: false,
    };
    let mut running = host.start(&launch)?;
    let end = loop {
        interrupt::check()?;
        if let Some(end) = running.try_wait()? {
            break end;
        }
        std::thread::sleep(CHECK_PAUSE);
    };
    let lines = running.last_lines(LAST_LINES)?;
    if end.is_success() {
        let messages: Vec<_> = lines.iter().map(|line| process::log::message(line)).collect();
        return Ok(messages.join("\n"));
    }
    let said = job::in_own_words(&lines, |_| true);
    Err(said.unwrap_or_else(|| anyhow!("the {program} ended ({end})")))
}

/// Whether both paths exist, and are the same file or folder.
pub(super) fn same(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// # Errors
/// The input is a file in the output folder that a job's link would replace.
pub(super) fn refuse_to_replace(input: &Path, output: &Path) -> anyhow::Result<()> {
    let is_replaced = |name: &str| {
        let file = output.join(name);
        file.symlink_metadata().is_ok_and(|found| !found.is_symlink()) && same(&file, input)
    };
    ensure!(
        !published().any(|name| is_replaced(&name)),
        "the input {} would be replaced by the results; move it, or choose another folder with --output",
        input.display()
    );
    Ok(())
}
