//! `cargo xtask CMD`: arguments and dispatch. `deploy` and the programs `deploy-ssh` and `deploy-aws` do the work.

mod commands;
mod lab;
mod options;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Classify the rows of a CSV with a slow model, on one machine or many
///
/// Give an option as a flag, or as NAME=VALUE after the command, as in make:
/// cargo xtask run-locally INPUT_LINES=100000 N_WORKERS=4
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Setup(commands::setup::Args),
    RunLocally(Box<commands::run_locally::Args>),
    Jobs(commands::jobs::Args),
    Test(commands::test::Args),
    Bench(commands::bench::Args),
    Chaos(commands::chaos::Args),
    Lab(commands::lab::Args),
    #[command(flatten)]
    Hosts(commands::hosts::HostCommand),
}

/// All commands and their arguments.
#[cfg(test)]
fn command() -> clap::Command {
    Args::command()
}

/// Runs the command that the process's arguments name.
pub fn run() -> ExitCode {
    deploy::begin();
    let is_plan = std::env::args_os().nth(1).is_some_and(|word| word == "plan");
    let args = match parse() {
        Ok(args) => args,
        // For plan, exit code 2 means that there are changes.
        Err(error) if is_plan && error.use_stderr() => {
            // This fails if standard error is closed; there is no other place for it.
            let _ = error.print();
            return ExitCode::FAILURE;
        }
        Err(error) => error.exit(),
    };
    let outcome = match args.command {
        Command::Setup(args) => commands::setup::run(&args),
        Command::RunLocally(args) => commands::run_locally::run(&args),
        Command::Jobs(args) => commands::jobs::run(&args),
        Command::Test(args) => commands::test::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Chaos(args) => commands::chaos::run(&args),
        Command::Lab(args) => commands::lab::run(&args),
        Command::Hosts(command) => commands::hosts::run(&command),
    };
    let has_failed = outcome.is_err();
    let code = deploy::conclude(outcome);
    if is_plan && has_failed { ExitCode::FAILURE } else { code }
}

/// Parses the process's arguments.
fn parse() -> Result<Args, clap::Error> {
    let command = Args::command();
    let words = options::from_make(std::env::args_os(), &command)?;
    let matches = options::matches(command, &words)?;
    Args::from_arg_matches(&matches)
}
