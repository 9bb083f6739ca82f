//! `cargo xtask stop`

use std::borrow::Cow;
use std::process::ExitCode;
use std::time::Duration;

use agent::protocol::{FOLDER, Reply, Request};
use anyhow::{anyhow, bail};
use deploy::console;
use deploy::request::Stop;

use super::end_on_interrupt;
use crate::agents::{SHORT, connect, load, running, status_of, stop_all, stop_job};
use crate::inventory::HostEntry;
use crate::parallel::{all, each};
use crate::ssh::Ssh;

/// How long the receiver may take to make durable what it has.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// How many of the receiver's last lines are searched for its last message.
const LAST_LINES: usize = 50;

/// Ends the job on all hosts.
pub(crate) fn run(args: &Stop) -> anyhow::Result<ExitCode> {
    end_on_interrupt("interrupted; cargo xtask status shows whether the job has ended")?;
    let (inventory, access) = load(&args.inventory)?;
    let used = inventory.used_hosts()?;
    // A host that cannot be reached must not keep the others running.
    let mut hosts = each(&used, |host: &HostEntry| connect(host, &access, &inventory.agent));
    let metrics = hosts.remove(0);
    let before = metrics.as_ref().map_err(|error| anyhow!("{error:#}")).and_then(status_of);
    let metrics = stop_in_order(metrics, hosts)?;
    let before = before?;
    let was_running = !running(&before).is_empty();
    if !was_running {
        console::note("no job was running");
    }
    let status = status_of(&metrics)?;
    if let Some(summary) = status.summary {
        console::data(&format!("the job is done: {} rows", console::count(summary.rows)));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(message) = last_message(&metrics) {
        console::data(&message);
        console::note(&format!(
            "what was received is in {FOLDER}/output on {}, until the next run-cluster or down; cargo xtask get-results \
             --partial fetches it, and cargo xtask run-cluster --resume continues the job",
            metrics.entry().name
        ));
    } else if was_running {
        let rows = before.progress.map_or(0, |progress| progress.rows);
        console::data(&format!("stopped; {} rows were durable", console::count(rows)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends the programs: the receiver first, so that it ends because it was told to and not because the cluster is gone; the hub
/// last, so that it learns of the end. Returns the metrics host.
fn stop_in_order(metrics: anyhow::Result<Ssh>, others: Vec<anyhow::Result<Ssh>>) -> anyhow::Result<Ssh> {
    let metrics = metrics.and_then(|host| stop_job(&host, STOP_GRACE).map(|()| host));
    let (reached, unreached): (Vec<_>, Vec<_>) = others.into_iter().partition(Result::is_ok);
    let reached: Vec<_> = reached.into_iter().flatten().collect();
    let mut stopped = each(&reached, |host| stop_all(host, STOP_GRACE));
    stopped.extend(unreached.into_iter().map(|host| host.map(drop)));
    let others = all(stopped);
    let metrics = metrics.and_then(|host| stop_all(&host, STOP_GRACE).map(|()| host));
    match (metrics, others) {
        (Ok(metrics), Ok(_)) => Ok(metrics),
        (Ok(_), Err(error)) => Err(error.context("the job has ended, but not on all hosts")),
        (Err(error), Ok(_)) => Err(error.context("the classifiers have ended, but not sender and receiver")),
        (Err(first), Err(others)) => bail!("{first:#}\n{others:#}"),
    }
}

/// The receiver's message that it was stopped; `None` if there was no job.
fn last_message(metrics: &Ssh) -> Option<String> {
    let tail = Request::Tail { name: "receiver".into(), lines: LAST_LINES };
    let Ok(Reply::Lines(lines)) = metrics.request(&tail, SHORT) else { return None };
    // Its connections may have logged something after it.
    let mut messages = lines.iter().map(|line| process::log::message(line));
    messages.find(|message| message.starts_with("stopped; ")).map(Cow::into_owned)
}
