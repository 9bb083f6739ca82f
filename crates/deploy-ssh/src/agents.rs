//! Connected hosts and their agents: lock them, ask for their status, end their programs.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use agent::protocol::{Holder, Reply, Request, Status};
use anyhow::{anyhow, bail};
use deploy::job::HUB;
use deploy::{console, exit};

use crate::inventory::{HostEntry, Inventory};
use crate::parallel::{all, each};
use crate::ssh::{Access, Ssh};

/// Paths in the metrics host's folder.
pub(crate) const OUTPUT: &str = "output";
pub(crate) const ARCHIVE: &str = "output/results.tgz";
/// Time limit for a request that takes a host milliseconds.
pub(crate) const SHORT: Duration = Duration::from_secs(30);

/// How to log in to the hosts of an inventory.
pub fn access(inventory_path: &Path, config: Option<PathBuf>) -> Access {
    // Beside the inventory, since both belong together.
    Access { config, known_hosts: inventory_path.with_extension("known_hosts") }
}

/// Reads the inventory; returns also how to log in to its hosts.
pub(crate) fn load(path: &Path) -> anyhow::Result<(Inventory, Access)> {
    let inventory = Inventory::load(path)?;
    let access = access(path, inventory.ssh_config.clone());
    Ok((inventory, access))
}

/// Connects to a host, and starts its agent. `agent` names the build.
pub(crate) fn connect(host: &HostEntry, access: &Access, agent: &str) -> anyhow::Result<Ssh> {
    let ssh = Ssh::connect(host, access)?;
    ssh.start_agent(agent)?;
    Ok(ssh)
}

pub(crate) fn connect_all(hosts: &[HostEntry], access: &Access, agent: &str) -> anyhow::Result<Vec<Ssh>> {
    all(each(hosts, |host| connect(host, access, agent)))
}

/// Locks hosts one after the other. If two commands start at the same time, one of them gets all hosts.
///
/// # Errors
/// Another command has the lock (busy), or two hosts are one machine.
pub(crate) fn lock_all<'a>(hosts: impl IntoIterator<Item = &'a Ssh>, what: &str) -> anyhow::Result<()> {
    let who = format!("{} on {}, with {what} (process {})", user(), hostname(), std::process::id());
    let since = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let us = who.clone();
    let request = Request::Lock(Holder { who, since });
    for host in hosts {
        match host.request(&request, SHORT)? {
            Reply::Empty => {}
            Reply::Held(Holder { who, .. }) if who == us => {
                bail!("{} is the same machine as another host of the inventory", host.entry().name)
            }
            Reply::Held(Holder { who, since }) => {
                return Err(exit::busy(anyhow!(
                    "{} is commanded by {who}, since {since}; wait for that to end (cargo xtask status shows how far it is), \
                     or end its job with: cargo xtask stop",
                    host.entry().name
                )));
            }
            other => bail!("on {}: the agent answered {other:?} to a lock", host.entry().name),
        }
    }
    Ok(())
}

fn user() -> String {
    duct::cmd!("id", "-un").stderr_null().read().unwrap_or_else(|_| "an unknown user".into())
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "another machine".into() } else { name.trim().to_owned() }
}

pub(crate) fn status_of(host: &Ssh) -> anyhow::Result<Status> {
    match host.request(&Request::Status, SHORT)? {
        Reply::Status(status) => Ok(*status),
        other => bail!("on {}: the agent answered {other:?} to a request for its status", host.entry().name),
    }
}

/// The running programs of the job, without the hub, which outlives the job.
pub(crate) fn running(status: &Status) -> Vec<&str> {
    let running = status.programs.iter().filter(|program| program.running.is_some());
    running.map(|program| program.name.as_str()).filter(|name| *name != HUB).collect()
}

/// Refuses to lose results that were not fetched. `otherwise` is the command that discards them.
pub(crate) fn ensure_fetched(host: &HostEntry, status: &Status, otherwise: &str) -> anyhow::Result<()> {
    let Some(rows) = status.unfetched else { return Ok(()) };
    let partial = if status.summary.is_some() { "" } else { " --partial" };
    Err(exit::refused(anyhow!(
        "{} has results of {} rows that were not fetched, or only in part; fetch them with: cargo xtask get-results{partial}; or \
         discard them: {otherwise}",
        host.name,
        console::count(rows)
    )))
}

/// As [`ensure_fetched`], for the metrics host of an inventory. If that host cannot be reached, nothing can be fetched, and
/// this only prints a note.
///
/// # Errors
/// There are results that were not fetched.
pub fn ensure_all_fetched(inventory: &Inventory, access: &Access, otherwise: &str) -> anyhow::Result<()> {
    let metrics = inventory.host(&inventory.metrics)?;
    let status = connect(metrics, access, &inventory.agent).and_then(|host| status_of(&host));
    match status {
        Ok(status) => ensure_fetched(metrics, &status, otherwise),
        Err(error) => {
            console::note(&format!("cannot check for results that were not fetched: {error:#}"));
            Ok(())
        }
    }
}

/// Refuses to disturb a running job.
pub(crate) fn ensure_idle(ssh: &Ssh) -> anyhow::Result<()> {
    let status = status_of(ssh)?;
    let running = running(&status);
    if running.is_empty() {
        return Ok(());
    }
    Err(exit::busy(anyhow!(
        "a job is running on {} ({}); wait for its end, or end it with: cargo xtask stop",
        ssh.entry().name,
        running.join(", ")
    )))
}

/// Ends all our programs on a host.
pub(crate) fn stop_all(host: &Ssh, grace: Duration) -> anyhow::Result<()> {
    stop(host, None, grace)
}

/// Ends all programs of the job on a host; the hub continues.
pub(crate) fn stop_job(host: &Ssh, grace: Duration) -> anyhow::Result<()> {
    stop(host, Some(HUB), grace)
}

fn stop(host: &Ssh, spared: Option<&str>, grace: Duration) -> anyhow::Result<()> {
    let grace_ms = grace.as_millis() as u64;
    let request = Request::Stop { name: None, spared: spared.map(str::to_owned), grace_ms };
    host.send(&request, grace + SHORT)
}
