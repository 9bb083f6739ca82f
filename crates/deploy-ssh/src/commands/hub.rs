//! `cargo xtask hub`

use std::process::ExitCode;

use agent::protocol::Status;
use anyhow::{Context, ensure};
use deploy::job::{HUB, Hub};
use deploy::request;

use super::end_on_interrupt;
use crate::agents::{connect, load, status_of};
use crate::ssh::Ssh;

/// Opens a tunnel to the hub's page, and stays until it is interrupted.
pub(crate) fn run(args: &request::Hub) -> anyhow::Result<ExitCode> {
    end_on_interrupt("")?;
    let (inventory, access) = load(&args.inventory)?;
    let metrics = connect(inventory.host(&inventory.metrics)?, &access, &inventory.agent)?;
    let hub = find(&metrics, &status_of(&metrics)?)?;
    let hub = hub.with_context(|| {
        format!(
            "no Monitoring Hub runs on {}: cargo xtask run-cluster starts one, which stays until cargo xtask stop or down",
            inventory.metrics
        )
    })?;
    ensure!(
        hub.page().is_some(),
        "the Monitoring Hub on {} has no page to show; end it with: cargo xtask stop",
        inventory.metrics
    );
    hub.stay(&metrics)?;
    Ok(ExitCode::SUCCESS)
}

/// Connects to the hub on the metrics host, and opens a tunnel to its page; `None` if no hub runs.
pub(crate) fn find(metrics: &Ssh, status: &Status) -> anyhow::Result<Option<Hub>> {
    if !runs(status) {
        return Ok(None);
    }
    Hub::found(metrics, metrics.watch(HUB)?).map(Some)
}

pub(crate) fn runs(status: &Status) -> bool {
    status.programs.iter().any(|program| program.name == HUB && program.running.is_some())
}
