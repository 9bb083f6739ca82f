//! Subcommands: cargo xtask stop and down

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use agent::protocol::{FOLDER, Reply, Request};
use anyhow::{Context, anyhow, bail, ensure};
use files::remove_if_there;

use super::probe::{Probed, probe};
use super::{
    SHORT, access, all, command, each, end_on_interrupt, ensure_fetched, ensure_idle, load, lock_all,
    running, status_of, stop_all, stop_job,
};
use crate::hosts::{HostEntry, Inventory};
use crate::ssh::Ssh;
use deploy::console;
use deploy::request::{Down, Stop};

/// How long the receiver may take to make durable what it has.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// How long programs may take to end that are of no more use.
const DOWN_GRACE: Duration = Duration::from_secs(1);
/// Where the receiver's last words are looked for.
const LAST_LINES: usize = 50;
/// Removing an application and results may take a while.
const REMOVE_TIME: Duration = Duration::from_secs(120);

/// Ends the job.
pub(super) fn stop(args: &Stop) -> anyhow::Result<ExitCode> {
    end_on_interrupt("interrupted; whether the job has ended is shown by cargo xtask status")?;
    let (inventory, access) = load(&args.inventory)?;
    let used = inventory.used_hosts()?;
    let connect = |host: &HostEntry| command(host, &access, &inventory.agent);
    // A host that cannot be reached must not keep the others at work.
    let mut hosts = each(&used, connect);
    let metrics = hosts.remove(0);
    let before = metrics.as_ref().map_err(|error| anyhow!("{error:#}")).and_then(status_of);
    // The receiver first, so that it ends because it was told to, and not because the cluster is gone; and the hub last, which is to
    // hear of it.
    let first = metrics.and_then(|host| stop_job(&host, STOP_GRACE).map(|()| host));
    let (reached, unreached): (Vec<_>, Vec<_>) = hosts.into_iter().partition(Result::is_ok);
    let reached: Vec<_> = reached.into_iter().flatten().collect();
    let mut stopped = each(&reached, |host| stop_all(host, STOP_GRACE));
    stopped.extend(unreached.into_iter().map(|host| host.map(drop)));
    let others = all(stopped);
    let first = first.and_then(|host| stop_all(&host, STOP_GRACE).map(|()| host));
    let metrics = match (first, others) {
        (Ok(metrics), Ok(_)) => metrics,
        (Ok(_), Err(error)) => return Err(error.context("the job is ended, but not on all hosts")),
        (Err(error), Ok(_)) => {
            return Err(error.context("the classifiers are ended, but not sender and receiver"));
        }
        (Err(first), Err(others)) => bail!("{first:#}\n{others:#}"),
    };
    let (metrics, before) = (&metrics, before?);
    let was_running = !running(&before).is_empty();
    if !was_running {
        console::note("no job was running");
    }
    let status = status_of(metrics)?;
    if let Some(summary) = status.summary {
        console::data(&format!("the job is done: {} rows", console::count(summary.rows)));
        return Ok(ExitCode::SUCCESS);
    }
    let tail = Request::Tail { name: "receiver".into(), lines: LAST_LINES };
    // Without a job there was no receiver, and there is nothing to tell of it.
    if let Ok(Reply::Lines(lines)) = metrics.request(&tail, SHORT) {
        // Its connections may have had something to say after it.
        let mut messages = lines.iter().map(|line| process::log::message(line));
        if let Some(message) = messages.find(|message| message.starts_with("stopped; ")) {
            console::data(&message);
            console::note(&format!(
                "what was received is in {FOLDER}/output on {}, until the next run-cluster or down; cargo xtask get-results \
                 --partial fetches it",
                metrics.entry().name
            ));
            return Ok(ExitCode::SUCCESS);
        }
    }
    if was_running {
        let rows = before.progress.map_or(0, |progress| progress.rows);
        console::data(&format!("stopped; {} rows were durable", console::count(rows)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes what is on the hosts.
pub(super) fn down(args: &Down) -> anyhow::Result<ExitCode> {
    end_on_interrupt("interrupted; another cargo xtask down goes on")?;
    let path = args.inventory.clone();
    // Also what an `up` has left that did not come to its end.
    let inventory = Inventory::load(&path)?;
    if let Some(stack) = &inventory.stack {
        bail!("the hosts of {} are the stack {stack} in the cloud, and are destroyed there", path.display());
    }
    let access = access(&path, inventory.ssh_config.clone());
    let used = inventory.used_hosts()?;
    let mut hosts = used.clone();
    hosts.extend(inventory.left.iter().filter(|host| !used.contains(host)).cloned());
    let (mut reached, mut unreached) = (Vec::new(), Vec::new());
    for (host, probed) in hosts.iter().zip(each(&hosts, |host| probe(host, &access))) {
        match probed {
            Ok(probed) => reached.push(probed),
            Err(error) => unreached.push((host.clone(), error)),
        }
    }
    clear(&reached, args.force, args.discard_results)?;
    if !unreached.is_empty() && !args.force {
        let count = reached.len();
        let (left, errors): (Vec<_>, Vec<_>) = unreached.into_iter().unzip();
        // Without roles there is nothing to run a job on; what is left is for another `down`, or for an `up` with others.
        let (metrics, hosts) = (left[0].name.clone(), left.clone());
        Inventory { metrics, machines: Vec::new(), ready: false, hosts, left, ..inventory }.save(&path)?;
        let cleared =
            format!("{count} hosts are cleared, but not these; cargo xtask down --force forgets them");
        return all::<()>(errors.into_iter().map(Err).collect()).map(|_| ExitCode::FAILURE).context(cleared);
    }
    for (host, error) in unreached {
        console::note(&format!("{} is forgotten, with what is on it: {error:#}", host.name));
    }
    let known_hosts = &access.known_hosts;
    if known_hosts.exists() {
        std::fs::remove_dir_all(known_hosts)
            .with_context(|| format!("removing {}", known_hosts.display()))?;
    }
    for file in [path.with_file_name("urls.txt"), path] {
        remove_if_there(&file)?;
    }
    console::note(&format!("nothing of ours is left on {} hosts", reached.len()));
    Ok(ExitCode::SUCCESS)
}

/// Ends our programs on hosts and removes our folder, and looks that both are gone.
pub(super) fn clear(hosts: &[Probed], force: bool, discards: bool) -> anyhow::Result<()> {
    // A machine may be there twice, under an old name and a new one.
    let mut seen = BTreeSet::new();
    let hosts: Vec<_> = hosts.iter().filter(|host| host.id().is_none_or(|id| seen.insert(id))).collect();
    let commanded = all(each(&hosts, |host| {
        // Any will do, of whatever build.
        let Some(agent) = host.agents().next() else { return Ok(None) };
        host.ssh.command(agent)?;
        Ok(Some(&host.ssh))
    }))?;
    let commanded: Vec<&Ssh> = commanded.into_iter().flatten().collect();
    let idle = || all(each(&commanded, |ssh| ensure_idle(ssh))).map(drop);
    let free = lock_all(commanded.iter().copied(), "cargo xtask down").and_then(|()| idle());
    if !force {
        free.context("cargo xtask down --force removes all the same")?;
    }
    if !discards {
        all(each(&commanded, |ssh| {
            ensure_fetched(ssh.entry(), &status_of(ssh)?, "cargo xtask down --discard-results")
        }))?;
    }
    all(each(&commanded, |ssh| {
        stop_all(ssh, DOWN_GRACE)?;
        ssh.tell(&Request::Remove, REMOVE_TIME)
    }))?;
    all(each(&hosts, |host| {
        // A folder without an agent is what an `up` has left that was broken off at its very beginning.
        let left =
            host.ssh.run(&format!("rm -rf {FOLDER}; ls -d {FOLDER} 2>/dev/null || true"), REMOVE_TIME)?;
        ensure!(left.trim().is_empty(), "on {}: {} is still there", host.ssh.entry().name, left.trim());
        Ok(())
    }))?;
    Ok(())
}
