//! Which build of this program runs a command, and for which hosts.

use std::process::ExitCode;

use anyhow::bail;

#[cfg(feature = "aws")]
use super::{Down, Place};
use super::{GetResults, Hub, Logs, Provider, Remote, Ssh, Status, Stop};
use crate::project;

impl Remote {
    /// Where the command's inventory is.
    #[cfg(feature = "aws")]
    pub(crate) fn place(&self) -> &Place {
        match self {
            Self::Plan(plan) => &plan.place,
            Self::Up(up) => &up.place,
            Self::Job(job) => &job.up.place,
            Self::RunCluster(run) => &run.place,
            Self::GetResults(GetResults { place, .. })
            | Self::Status(Status { place, .. })
            | Self::Logs(Logs { place, .. })
            | Self::Ssh(Ssh { place, .. })
            | Self::Hub(Hub { place, .. })
            | Self::Stop(Stop { place, .. })
            | Self::Down(Down { place, .. }) => place,
        }
    }

    /// Whether this is about hosts in the cloud.
    ///
    /// # Errors
    /// Hosts of the cloud are not to be taken for others: they would be cleared and forgotten, and go on to cost money.
    fn is_in_cloud(&self) -> anyhow::Result<bool> {
        // Where hosts come from, as the user says it, and where they come from if nothing is known of any.
        let (said, place, otherwise) = match self {
            Self::Plan(_) | Self::Job(_) => return Ok(true),
            Self::Up(up) if up.provider.is_some() || up.hosts.is_some() => {
                return Ok(up.provider == Some(Provider::Aws));
            }
            Self::Up(up) => (None, &up.place, true),
            Self::Down(down) => {
                let is_named = down.stack.is_some() || !down.region.is_empty();
                (down.provider.or(is_named.then_some(Provider::Aws)), &down.place, true)
            }
            Self::RunCluster(run) => (None, &run.place, false),
            Self::GetResults(GetResults { place, .. })
            | Self::Status(Status { place, .. })
            | Self::Logs(Logs { place, .. })
            | Self::Ssh(Ssh { place, .. })
            | Self::Hub(Hub { place, .. })
            | Self::Stop(Stop { place, .. }) => (None, place, false),
        };
        let inventory =
            place.inventory.clone().map_or_else(|| project::default_folder("inventory.toml"), Ok)?;
        // As the inventory is written; not every build of this program can understand all of it.
        let stack = files::read_if_there(&inventory)?.map(|text| {
            let text = String::from_utf8_lossy(&text).into_owned();
            text.lines().find_map(|line| line.strip_prefix("stack = ")).map(str::to_owned)
        });
        match (said, stack) {
            (Some(Provider::Ssh), Some(Some(stack))) => bail!(
                "the hosts of {} are the stack {stack} in the cloud, which --provider ssh would leave running; cargo xtask down \
                 destroys it",
                inventory.display()
            ),
            (Some(provider), _) => Ok(provider == Provider::Aws),
            (None, Some(stack)) => Ok(stack.is_some()),
            (None, None) => Ok(otherwise
                || matches!(self, Self::Status(_))
                    && files::read_if_there(&inventory.with_file_name("stack.toml"))?.is_some()),
        }
    }
}

/// Runs the command, in this build if it can, or else in one that can.
#[cfg(feature = "aws")]
pub(crate) fn run(command: &Remote) -> anyhow::Result<ExitCode> {
    if command.is_in_cloud()? { crate::cloud::run(command) } else { crate::remote::run(command) }
}

/// Runs the command, in this build if it can, or else in one that can.
#[cfg(all(feature = "remote", not(feature = "aws")))]
pub(crate) fn run(command: &Remote) -> anyhow::Result<ExitCode> {
    if command.is_in_cloud()? { run_in_build("aws") } else { crate::remote::run(command) }
}

/// Runs the command, in this build if it can, or else in one that can.
#[cfg(not(feature = "remote"))]
pub(crate) fn run(command: &Remote) -> anyhow::Result<ExitCode> {
    run_in_build(if command.is_in_cloud()? { "aws" } else { "remote" })
}

/// Builds this program with a feature, and lets that do the rest.
#[cfg(not(feature = "aws"))]
fn run_in_build(feature: &str) -> anyhow::Result<ExitCode> {
    use std::os::unix::process::CommandExt;

    use anyhow::Context;

    use crate::exit;

    let program = project::build_self(feature).map_err(exit::refused)?;
    let words = std::env::args_os().skip(1);
    let error = std::process::Command::new(&program).args(words).exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}
