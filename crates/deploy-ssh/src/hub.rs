//! Subcommand: cargo xtask hub

use std::process::ExitCode;

use agent::protocol::Status;
use anyhow::{Context, ensure};

use super::{command, end_on_interrupt, load, status_of};
use crate::ssh::Ssh;
use deploy::job::{HUB, Hub};
use deploy::request;

/// Runs the command.
pub(super) fn run(args: &request::Hub) -> anyhow::Result<ExitCode> {
    end_on_interrupt("")?;
    let (inventory, access) = load(&args.inventory)?;
    let metrics = command(inventory.host(&inventory.metrics)?, &access, &inventory.agent)?;
    let hub = find(&metrics, &status_of(&metrics)?)?;
    let hub = hub.with_context(|| {
        format!(
            "no Monitoring Hub runs on {}: cargo xtask run-cluster starts one, which stays until cargo xtask stop or down",
            inventory.metrics
        )
    })?;
    ensure!(hub.page().is_some(), "there is nothing to be shown");
    hub.stay(&metrics)?;
    Ok(ExitCode::SUCCESS)
}

/// The hub that runs on the metrics host, with a tunnel to its page; `None` if there is none.
pub(super) fn find(metrics: &Ssh, status: &Status) -> anyhow::Result<Option<Hub>> {
    if !runs(status) {
        return Ok(None);
    }
    Hub::found(metrics, metrics.watch(HUB)?).map(Some)
}

/// Whether a hub runs on a host.
pub(super) fn runs(status: &Status) -> bool {
    status.programs.iter().any(|program| program.name == HUB && program.running.is_some())
}
