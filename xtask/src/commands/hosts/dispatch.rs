//! Which program does a command for hosts. It is built when it is first needed, and takes this process's place.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use deploy::request::{Logs, Request};
use deploy::{console, exit, project};

use super::{HostCommand, ModelName};

/// Does hosts that SSH reaches.
const SSH: &str = "deploy-ssh";
/// Does hosts from EC2 as well.
const AWS: &str = "deploy-aws";

/// Runs the command.
pub(crate) fn run(command: &HostCommand) -> anyhow::Result<ExitCode> {
    let request = command.request().map_err(exit::refused)?;
    if let Request::Logs(logs) = &request
        && !logs.inventory.exists()
    {
        return show_local_logs(logs);
    }
    let name = if request.is_in_cloud()? { AWS } else { SSH };
    if name == AWS && !project::release_folder()?.join(AWS).exists() {
        console::note("the AWS SDK takes some minutes to build, once");
    }
    let program = project::build_program(name).map_err(exit::refused)?;
    let mut child = Command::new(&program);
    child.arg(request.to_arg()?);
    if let Some(path) = command.model().and_then(ModelName::python_path) {
        child.env("PYTHONPATH", path);
    }
    Err(child.exec()).with_context(|| format!("starting {}", program.display()))
}

/// Without hosts, the logs are those of the last job on this machine.
fn show_local_logs(logs: &Logs) -> anyhow::Result<ExitCode> {
    let folder = project::default_folder("log")?;
    let mut files: Vec<OsString> = Vec::new();
    if folder.exists() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                files.push(path.into());
            }
        }
    }
    ensure!(
        !files.is_empty() && logs.host.is_none(),
        "there are no hosts ({} is not there), and no logs of a job on this machine in {}; logs that run-locally --log wrote \
         elsewhere are files there",
        logs.inventory.display(),
        folder.display()
    );
    files.sort();
    let mut tail = Command::new("tail");
    tail.args(["-n", &logs.lines.to_string()]).args(logs.follow.then_some("-F")).args(files);
    Err(tail.exec()).context("starting tail")
}
