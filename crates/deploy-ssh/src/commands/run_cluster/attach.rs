//! `run-cluster --attach`: watches a job whose `run-cluster` has ended.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use agent::protocol::{Reply, Request, Status};
use anyhow::{Context, bail, ensure};

use deploy::job::{self, After, Found, HUB, Hub, Program, Watched};
use deploy::request::RunCluster;
use deploy::{console, exit};

use super::objects::{self, Objects};
use super::{Description, Timing, conclude, end, hub, is_packed, lifetime, recall, receiver_runs_for, show};
use crate::agents::{SHORT, connect, load, lock_all, status_of};
use crate::commands::end_on_interrupt;
use crate::inventory::Inventory;
use crate::parallel::each;
use crate::ssh::Ssh;

/// How many of the last lines of a receiver that has ended are shown.
const LAST_LINES: usize = 12;

pub(super) fn run(args: &RunCluster) -> anyhow::Result<ExitCode> {
    end_on_interrupt(
        "the job continues; cargo xtask run-cluster --attach shows it again, and cargo xtask stop ends it",
    )?;
    let start = Instant::now();
    let (inventory, access) = load(&args.inventory)?;
    let reached = each(&inventory.used_hosts()?, |host| connect(host, &access, &inventory.agent));
    let mut hosts = Vec::new();
    for host in reached {
        match host {
            Ok(host) => hosts.push(host),
            // The first is the metrics host; without it there is nothing to show.
            Err(error) if hosts.is_empty() => return Err(error),
            Err(error) => console::note(&format!("{error:#}; the job may continue without this host")),
        }
    }
    lock_all(&hosts, "cargo xtask run-cluster --attach")?;
    let metrics = hosts.first().context("the inventory has no hosts")?;
    let statuses: Vec<Status> = hosts.iter().map(status_of).collect::<anyhow::Result<_>>()?;
    if statuses[0].summary.is_some() && receiver_runs_for(&statuses[0]).is_none() {
        ensure!(
            is_packed(metrics)?,
            "the job is done, and its receiver was ended while it packed or uploaded the results; cargo xtask run-cluster --resume goes on there"
        );
        return conclude(metrics, &args.inventory, &Timing { forming: None, packing: None, start });
    }
    ensure_runs(metrics, &statuses[0]).map_err(exit::refused)?;
    let description = recall(metrics)?;
    if let Some(description) = &description {
        show("watching ", description, &[], inventory.machines.len());
    }
    let objects = description.as_ref().and_then(|description| {
        sign(description, args, metrics).unwrap_or_else(|error| {
            console::note(&format!(
                "requests to S3 are not signed again, so the job goes on only as long as the signatures that it has: {error:#}"
            ));
            None
        })
    });
    let deliver = |signed: &Path| objects::deliver(signed, metrics);
    let signatures = objects.as_ref().and_then(|objects| objects.signatures(&deliver));
    let uploads = description.as_ref().is_some_and(|description| description.results.upload.is_some());
    let after = if uploads { After::Uploading } else { After::Packing };
    let rows = description.and_then(|description| description.input.rows());
    let found = find(&inventory, &hosts, &statuses)?;
    // Without a hub, progress comes from the receiver.
    let hub = hub::find(metrics, &statuses[0]).unwrap_or_else(|error| {
        console::note(&format!("the Monitoring Hub cannot be shown: {error:#}"));
        None
    });
    if let Some(hub) = &hub {
        hub.print_url();
    }
    let page = hub.as_ref().and_then(Hub::page);
    let lifetime = lifetime(&inventory);
    let watched = Watched { rows, after, token: None, page, lifetime: lifetime.as_ref() };
    let packing = job::attach(metrics, found, &watched, signatures);
    let packing = end(&hosts, packing)?;
    drop(objects);
    conclude(metrics, &args.inventory, &Timing { forming: None, packing: Some(packing), start })
}

/// Signs the job's requests to S3 again, if there are any.
fn sign(job: &Description, args: &RunCluster, metrics: &Ssh) -> anyhow::Result<Option<Objects>> {
    let mut objects = Objects::new(objects::inputs(&job.input), &job.results, &args.inventory)?;
    objects.iter_mut().try_for_each(|objects| objects.sign_again(&job.name, &job.results, metrics))?;
    Ok(objects)
}

fn ensure_runs(metrics: &Ssh, status: &Status) -> anyhow::Result<()> {
    let Some(receiver) = status.programs.iter().find(|program| program.name == "receiver") else {
        bail!("there is no job on the hosts; start one with: cargo xtask run-cluster");
    };
    let Some(end) = receiver.end.as_ref().filter(|_| receiver.running.is_none()) else { return Ok(()) };
    let tail = metrics.request(&Request::Tail { name: "receiver".into(), lines: LAST_LINES }, SHORT)?;
    let Reply::Lines(lines) = tail else { bail!("the agent answered {tail:?} to a request for log lines") };
    bail!(
        "no job is running: the receiver has ended ({}); cargo xtask run-cluster --resume continues with the job. The receiver's \
         last lines:\n    {}",
        end,
        lines.join("\n    ")
    )
}

/// The job's programs; the receiver is the first.
fn find<'a>(inventory: &Inventory, hosts: &'a [Ssh], statuses: &[Status]) -> anyhow::Result<Found<'a>> {
    let mut found = Found::new();
    for (host, status) in hosts.iter().zip(statuses) {
        for program in status.programs.iter().filter(|program| program.name != HUB) {
            let watched = Program::new(&program.name, host, host.watch(&program.name)?);
            let has_failed = program.end.as_ref().is_some_and(|end| !end.is_success());
            found.push(if has_failed { watched.failed_unseen() } else { watched });
        }
    }
    found.sort_by_key(|program| program.name() != "receiver");
    let has_receiver = found.first().is_some_and(|program| program.name() == "receiver");
    ensure!(
        has_receiver,
        "there is no receiver on {}; start a job with: cargo xtask run-cluster",
        inventory.metrics
    );
    Ok(found)
}
