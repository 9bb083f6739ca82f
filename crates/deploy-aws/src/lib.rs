//! Hosts from EC2: a stack that is found by tag, compared with what it should be, and brought there, or taken down.
//!
//! | step | modules |
//! |---|---|
//! | what is wanted | [`settings`], [`desired`] |
//! | discover | [`discover`], [`placement`], [`prices`] |
//! | plan | [`plan`], pure |
//! | apply | [`apply`], [`launch`], [`instances`], [`alarms`], [`destroy`] |
//! | commands | [`up`], [`down`], [`status`], [`job`] |
//!
//! Only this crate calls AWS. `deploy-ssh` makes the machines ready and runs jobs on them.

mod alarms;
mod apply;
mod aws;
mod boot;
mod desired;
mod destroy;
mod discover;
mod down;
mod errors;
mod instances;
mod job;
mod launch;
mod placement;
mod plan;
mod prices;
mod reach;
mod settings;
mod sms;
mod stack_id;
mod state;
mod status;
mod target;
mod up;

use std::process::ExitCode;

use deploy::request::Request;

/// Does what the user asks.
///
/// # Errors
/// Those of the command; the error knows its exit code.
pub fn run(request: &Request) -> anyhow::Result<ExitCode> {
    let outcome = match request {
        Request::Plan(plan) => up::plan(plan),
        Request::Up(up) => up::up(up),
        Request::Down(down) => down::down(down),
        Request::Status(status) => status::status(status),
        Request::Job(job) => job::job(job),
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
