//! `agent`: see `agent --help`.

use std::io::BufReader;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Start, supervise and end a job's programs on a host
///
/// cargo xtask ships and controls it; there is no need to start it by hand. It works in the current folder.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: process::log::Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read requests from standard input, and write replies to standard output, as JSON lines
    Serve,
    /// Start a program that a request has described, and supervise it until it ends
    Supervise { name: String },
}

fn main() -> ExitCode {
    let args = Args::parse();
    process::begin("agent", args.log.log_format, process::log::LevelFilter::INFO);
    match run(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => process::exit::failure(&error),
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    // Absolute, since a folder cannot be removed as `.`.
    let here = std::env::current_dir().context("finding the current folder")?;
    match command {
        Command::Serve => agent::serve::serve(&here, BufReader::new(std::io::stdin()), std::io::stdout()),
        Command::Supervise { name } => agent::supervise::supervise(&here, &name),
    }
}
