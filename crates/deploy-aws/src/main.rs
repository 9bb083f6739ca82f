//! `deploy-aws REQUEST`: does what `cargo xtask` wants of hosts from EC2.

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
    // The exit code 2 of a plan says that there are changes; all others are 1.
    if is_plan && has_failed { ExitCode::FAILURE } else { code }
}
