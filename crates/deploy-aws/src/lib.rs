//! Hosts from EC2: discovers a stack by tag and name, plans the changes to it, and applies them.
//!
//! | step | modules |
//! |---|---|
//! | commands | [`commands`]: plan and up, down, status, job |
//! | what the user wants | [`settings`], [`desired`], [`stack_id`] |
//! | discover | [`discover`]: the stack's state, placement, prices |
//! | plan | [`plan`], pure |
//! | apply | [`apply`]: launch, instances, alarms, destroy |
//! | calls | [`aws`], [`errors`], `polling`; [`sms`] and [`reach`] explain failures that AWS does not explain |
//!
//! Only this crate calls AWS. `deploy-ssh` makes the machines ready and runs jobs on them.

mod apply;
mod aws;
mod commands;
mod desired;
mod discover;
mod errors;
mod plan;
mod polling;
mod reach;
mod settings;
mod sms;
mod stack_id;

use std::process::ExitCode;

use deploy::request::Request;

/// Runs the command that the user asked for.
///
/// # Errors
/// Those of the command; the error carries its exit code.
pub fn run(request: &Request) -> anyhow::Result<ExitCode> {
    let outcome = match request {
        Request::Plan(plan) => commands::up::plan(plan),
        Request::Up(up) => commands::up::up(up),
        Request::Down(down) => commands::down::down(down),
        Request::Status(status) => commands::status::status(status),
        Request::Job(job) => commands::job::job(job),
        Request::RunCluster(_)
        | Request::GetResults(_)
        | Request::Logs(_)
        | Request::Ssh(_)
        | Request::Hub(_)
        | Request::Stop(_) => deploy_ssh::run(request),
    };
    let outcome = outcome.map_err(|error| match reach::advice(request.inventory(), &error) {
        Some(advice) => error.context(advice),
        None => error,
    });
    deploy_ssh::scratch::remove();
    outcome
}
