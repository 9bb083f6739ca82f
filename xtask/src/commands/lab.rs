//! Subcommand: cargo xtask lab

use std::process::ExitCode;

use clap::Subcommand;

use crate::lab::Lab;
use deploy::{console, project};

/// Make several hosts on this machine, to try a cluster (as root)
///
/// Each host is a network namespace with its own SSH server. "lab up" writes a list of the hosts, for "up --hosts".
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    /// Name of the lab, up to six lower-case letters and digits
    #[arg(long, default_value = "lab", global = true)]
    name: String,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the hosts, and a hosts file that lists them
    Up {
        /// Number of hosts
        #[arg(value_parser = clap::value_parser!(u8).range(1..=200))]
        hosts: u8,
    },
    /// End everything that runs on the hosts, and remove them
    Down,
}

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
