//! Subcommand: cargo xtask test

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Install what the tests need, and run them all
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) fn run(_args: &Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("{:?}", PathBuf::from(Path::new("x")))
}
