//! `supervisor`: see `supervisor --help`.

use std::io::BufReader;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Starts, keeps and ends a job's programs on a host. `cargo xtask` ships it and commands it; there is no need to
/// start it by hand.
///
/// It works in the current folder.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer requests, as JSON lines, from standard input on standard output
    Serve,
    /// Start the program of this name, which a request has described, and keep it until it ends
    Keep {
        /// Its name
        name: String,
    },
}

fn main() -> ExitCode {
    wire::program::end_on_panic();
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => wire::program::failure("supervisor", &error),
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    // Absolute, since a folder cannot be removed by the name of ".".
    let here = std::env::current_dir().context("asking for the current folder")?;
    match command {
        Command::Serve => {
            supervisor::serve::serve(&here, BufReader::new(std::io::stdin()), std::io::stdout())
        }
        Command::Keep { name } => supervisor::keep::keep(&here, &name),
    }
}
