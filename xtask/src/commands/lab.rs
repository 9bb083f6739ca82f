//! Subcommand: cargo xtask lab

use std::process::ExitCode;

use clap::Subcommand;

use crate::lab::Lab;
use deploy::{console, project};

/// Hosts on this machine, to try out what needs several (as root, on Linux)
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    /// Its name, where there are several: up to six small letters and digits
    #[arg(long, default_value = "lab", global = true)]
    name: String,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the hosts, and a hosts file for them
    Up {
        /// How many
        #[arg(value_parser = clap::value_parser!(u8).range(1..=200))]
        hosts: u8,
    },
    /// End all that runs on them, and remove them
    Down,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let lab = Lab::new(&args.name, project::root()?.join("target/lab").join(&args.name))?;
    match args.action {
        Action::Up { hosts } => {
            lab.up(hosts)?;
            console::note(&format!(
                "{hosts} hosts are up; addresses, keys and fingerprints are in this file:"
            ));
            console::data(&lab.hosts_file().display().to_string());
        }
        Action::Down => {
            lab.down()?;
            console::note("the lab is down");
        }
    }
    Ok(ExitCode::SUCCESS)
}
