//! `deploy-ssh REQUEST`: does what `cargo xtask` wants of hosts that SSH reaches.

use std::process::ExitCode;

use deploy::request::Request;

fn main() -> ExitCode {
    deploy::begin();
    deploy::conclude(Request::of_process().and_then(|request| deploy_ssh::run(&request)))
}
