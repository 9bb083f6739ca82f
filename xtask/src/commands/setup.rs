//! Subcommand: cargo xtask setup

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use xshell::{Shell, cmd};

use deploy::keys;
use deploy::{console, project};

/// Build the programs, make folders and keys, list missing tools
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> anyhow::Result<ExitCode> {
    project::enter_root()?;
    for folder in ["output", "log"] {
        project::make_folder(Path::new(folder))?;
    }
    if !Path::new("ONCALL.json").exists() {
        std::fs::write("ONCALL.json", "[]\n").context("writing ONCALL.json")?;
        console::note("ONCALL.json: alarms call no one; add phone numbers such as \"+14155550100\"");
    }
    make_keys()?;
    project::build_programs()?;
    check_python()?;
    console::note("ready: cargo xtask run-locally");
    Ok(ExitCode::SUCCESS)
}

/// Only hosts over SSH and EC2 need keys.
fn make_keys() -> anyhow::Result<()> {
    let shell = Shell::new()?;
    if cmd!(shell, "ssh-keygen -?").quiet().ignore_status().output().is_err() {
        console::note(
            "no ssh-keygen: hosts over SSH and EC2 need it (run-locally does not); on Debian and Ubuntu: \
             apt-get install openssh-client",
        );
        return Ok(());
    }
    keys::make(Path::new("")).map(drop)
}

/// Only Python models need Python with pandas.
fn check_python() -> anyhow::Result<()> {
    let shell = Shell::new()?;
    let found = cmd!(shell, "python3 -c 'import pandas'").quiet().ignore_stderr().ignore_status().output();
    if !found.is_ok_and(|output| output.status.success()) {
        console::note(
            "no Python 3 with pandas: --model python:MODULE needs it (python3 -m pip install pandas)",
        );
    }
    Ok(())
}
