//! `deploy-aws REQUEST`: runs a command of `cargo xtask` for hosts from EC2.

use std::process::ExitCode;

use deploy::exit;
use deploy::request::Request;

fn main() -> ExitCode {
    deploy::begin();
    let request = match Request::of_process() {
        Ok(request) => request,
        Err(error) => return exit::fail(&error),
    };
    let is_plan = matches!(request, Request::Plan(_));
    let outcome = deploy_aws::run(&request);
    let has_failed = outcome.is_err();
    let code = deploy::conclude(outcome);
    // A plan exits with 2 if there are changes, so an error is always 1.
    if is_plan && has_failed { ExitCode::FAILURE } else { code }
}
