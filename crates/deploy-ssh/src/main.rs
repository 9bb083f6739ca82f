//! `deploy-ssh REQUEST`: runs a command of `cargo xtask` for hosts over SSH.

use std::process::ExitCode;

use deploy::request::Request;

fn main() -> ExitCode {
    deploy::begin();
    deploy::conclude(Request::of_process().and_then(|request| deploy_ssh::run(&request)))
}
