//! Which program does a command for hosts. It is built when it is first needed, and takes this process's place.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::Context;
use deploy::{console, exit, project};

use super::HostCommand;

/// Does hosts that SSH reaches.
const SSH: &str = "deploy-ssh";
/// Does hosts from EC2 as well.
const AWS: &str = "deploy-aws";

/// Runs the command.
pub(crate) fn run(command: &HostCommand) -> anyhow::Result<ExitCode> {
    let request = command.request().map_err(exit::refused)?;
    let name = if request.is_in_cloud()? { AWS } else { SSH };
    if name == AWS && !project::release_folder()?.join(AWS).exists() {
        console::note("the AWS SDK takes some minutes to build, once");
    }
    let program = project::build_program(name).map_err(exit::refused)?;
    let error = Command::new(&program).arg(request.to_arg()?).exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}
