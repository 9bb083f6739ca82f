//! Chooses the program that executes a command for hosts, builds it if necessary, and replaces this process with it.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use deploy::request::{Logs, Request};
use deploy::{console, exit, project};

use super::{HostCommand, ModelName};

/// For hosts that SSH reaches.
const SSH: &str = "deploy-ssh";
/// For hosts from EC2 as well.
const AWS: &str = "deploy-aws";

pub(crate) fn run(command: &HostCommand) -> anyhow::Result<ExitCode> {
    let request = command.request().map_err(exit::refused)?;
    if let Request::Logs(logs) = &request {
        if !logs.inventory.exists() {
            return show_local_logs(logs);
        }
        let (folder, files) = local_logs()?;
        if !files.is_empty() {
            console::note(&format!("logs of the last job on this machine are in {}", folder.display()));
        }
    }
    let name = if request.is_in_cloud()? { AWS } else { SSH };
    if name == AWS && !project::release_folder()?.join(AWS).exists() {
        console::note("building the AWS SDK, once; this takes some minutes");
    }
    let program = project::build_program(name).map_err(exit::refused)?;
    let mut child = Command::new(&program);
    child.arg(request.to_arg()?);
    if let Some(path) = command.model().and_then(ModelName::python_path) {
        child.env("PYTHONPATH", path);
    }
    Err(child.exec()).with_context(|| format!("starting {}", program.display()))
}

/// Shows the logs of the last job on this machine.
fn show_local_logs(logs: &Logs) -> anyhow::Result<ExitCode> {
    let (folder, files) = local_logs()?;
    ensure!(
        !files.is_empty() && logs.host.is_none(),
        "there are no hosts ({} does not exist), and no logs of a job on this machine in {}; logs of \
         run-locally --log are in the folder that it was given",
        logs.inventory.display(),
        folder.display()
    );
    let mut tail = Command::new("tail");
    tail.args(["-n", &logs.lines.to_string()]).args(logs.follow.then_some("-F")).args(files);
    Err(tail.exec()).context("starting tail")
}

/// The folder for logs of jobs on this machine, and the logs in it.
fn local_logs() -> anyhow::Result<(PathBuf, Vec<PathBuf>)> {
    let folder = project::default_folder("log")?;
    let mut files = Vec::new();
    if folder.exists() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok((folder, files))
}
