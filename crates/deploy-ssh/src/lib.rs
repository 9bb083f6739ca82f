//! The commands for hosts over SSH.
//!
//! | module | holds |
//! |---|---|
//! | [`commands`] | one module for each command |
//! | [`inventory`] | the hosts file, and the inventory that `up` writes |
//! | [`package`] | packs the programs, the model and Python packages |
//! | [`probe`] | lists what a host already has |
//! | `agents` | connected hosts and their agents: lock, status, stop |
//! | [`ssh`] | one host over one multiplexed connection: scripts, files, its agent |
//! | `parallel` | does the same work on all hosts at once |
//! | `control_socket` | ends ssh's shared connections |
//! | [`scratch`], [`runtime`] | temporary folders; the tokio runtime |

mod agents;
pub mod commands;
mod control_socket;
pub mod inventory;
pub mod package;
mod parallel;
pub mod probe;
pub mod runtime;
pub mod scratch;
pub mod ssh;

use std::process::ExitCode;

use anyhow::bail;
use deploy::request::Request;

pub use agents::{access, ensure_all_fetched};
pub use parallel::{all, each};

/// Runs the command that the user asked for.
///
/// # Errors
/// Those of the command; the error carries its exit code.
pub fn run(request: &Request) -> anyhow::Result<ExitCode> {
    let outcome = match request {
        Request::Plan(_) | Request::Job(_) => {
            bail!("this command is for hosts in the cloud; add --provider aws")
        }
        Request::Up(up) => commands::up::run(up),
        Request::RunCluster(run) => commands::run_cluster::run(run),
        Request::GetResults(get) => commands::get_results::run(get),
        Request::Status(status) => commands::status::run(status),
        Request::Logs(logs) => commands::logs::run(logs),
        Request::Ssh(ssh) => commands::shell::run(ssh),
        Request::Hub(hub) => commands::hub::run(hub),
        Request::Stop(stop) => commands::stop::run(stop),
        Request::Down(down) => commands::down::run(down),
    };
    scratch::remove();
    outcome
}
