//! Hosts from EC2: a stack that is found by tag, compared with what it should be, and brought there, or taken down.
//!
//! [`desired`] says what a stack is, [`look`] what there is of it, [`plan`] what has to change; [`apply`] changes it. How a
//! host is used once it is there is not known here: that is `remote`'s.

#[cfg(feature = "aws")]
mod alarms;
#[cfg(feature = "aws")]
mod apply;
#[cfg(feature = "aws")]
mod aws;
mod boot;
mod desired;
#[cfg(feature = "aws")]
mod destroy;
#[cfg(feature = "aws")]
mod down;
mod errors;
#[cfg(feature = "aws")]
mod instances;
#[cfg(feature = "aws")]
mod job;
#[cfg(feature = "aws")]
mod launch;
#[cfg(feature = "aws")]
mod look;
#[cfg(feature = "aws")]
mod place;
mod plan;
mod prices;
mod reach;
mod settings;
#[cfg(feature = "aws")]
mod sms;
mod stack_id;
mod state;
#[cfg(feature = "aws")]
mod status;
#[cfg(feature = "aws")]
mod target;
#[cfg(feature = "aws")]
mod up;

#[cfg(feature = "aws")]
pub(crate) use run::run;

#[cfg(feature = "aws")]
mod run {
    use std::process::ExitCode;

    use super::{down, job, reach, status, up};
    use crate::commands::remote::Remote;
    use crate::scratch;

    /// Runs a command for hosts in the cloud.
    pub(crate) fn run(command: &Remote) -> anyhow::Result<ExitCode> {
        let outcome = match command {
            Remote::Plan(args) => up::plan(args),
            Remote::Up(args) => up::up(args),
            Remote::Down(args) => down::down(args),
            Remote::Status(args) => status::status(args),
            Remote::Job(args) => job::job(args),
            Remote::RunCluster(_)
            | Remote::GetResults(_)
            | Remote::Logs(_)
            | Remote::Ssh(_)
            | Remote::Hub(_)
            | Remote::Stop(_) => crate::remote::run(command),
        };
        let outcome = outcome.map_err(|error| match reach::advice(command.place(), &error) {
            Some(advice) => error.context(advice),
            None => error,
        });
        scratch::leave();
        outcome
    }
}
