//! `cargo xtask down`, for hosts of a file

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use agent::protocol::{FOLDER, Request};
use anyhow::{Context, bail, ensure};
use deploy::console;
use deploy::objects::{self, UPLOADS};
use deploy::request::Down;
use files::remove_if_there;

use super::end_on_interrupt;
use crate::agents::{access, ensure_fetched, ensure_idle, lock_all, status_of, stop_all};
use crate::inventory::Inventory;
use crate::parallel::{all, each};
use crate::probe::{Probed, probe};
use crate::ssh::Ssh;

/// How long programs may take to end. Their work is discarded.
const DOWN_GRACE: Duration = Duration::from_secs(1);
/// How long a host may take to remove an application and results.
const REMOVE_TIME: Duration = Duration::from_secs(120);

/// Removes everything of ours from the hosts, and then the inventory.
pub(crate) fn run(args: &Down) -> anyhow::Result<ExitCode> {
    end_on_interrupt("interrupted; another cargo xtask down continues")?;
    let path = args.inventory.clone();
    // Also one of an `up` that did not complete.
    let inventory = Inventory::load(&path)?;
    if let Some(stack) = &inventory.stack {
        bail!(
            "the hosts of {} are the stack {stack} in the cloud; destroy it with: cargo xtask down --provider aws",
            path.display()
        );
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
        // Without roles, no job runs on them; another `down`, or an `up` with other hosts, clears them.
        let (metrics, hosts) = (left[0].name.clone(), left.clone());
        Inventory { metrics, machines: Vec::new(), ready: false, hosts, left, ..inventory }.save(&path)?;
        let cleared =
            format!("{count} hosts are cleared, but not these; cargo xtask down --force forgets them");
        return all::<()>(errors.into_iter().map(Err).collect()).map(|_| ExitCode::FAILURE).context(cleared);
    }
    for (host, error) in unreached {
        console::note(&format!("{} is forgotten, and what is on it stays: {error:#}", host.name));
    }
    let known_hosts = &access.known_hosts;
    if known_hosts.exists() {
        std::fs::remove_dir_all(known_hosts)
            .with_context(|| format!("removing {}", known_hosts.display()))?;
    }
    objects::abort(path.parent().unwrap_or(Path::new(""))).with_context(|| {
        let uploads = path.with_file_name(UPLOADS);
        format!(
            "the hosts are cleared, but an upload of the last job is open at S3 ({}); down tries again",
            uploads.display()
        )
    })?;
    for file in [path.with_file_name("urls.txt"), path] {
        remove_if_there(&file)?;
    }
    console::note(&format!("nothing of ours is left on {} hosts", reached.len()));
    Ok(ExitCode::SUCCESS)
}

/// Ends our programs on hosts, removes our folder, and checks that both are gone.
pub(crate) fn clear(hosts: &[Probed], force: bool, discards: bool) -> anyhow::Result<()> {
    // A machine may be listed twice, under an old name and a new one.
    let mut seen = BTreeSet::new();
    let hosts: Vec<_> = hosts.iter().filter(|host| host.id().is_none_or(|id| seen.insert(id))).collect();
    let with_agent = all(each(&hosts, |host| {
        // Any build will do.
        let Some(agent) = host.agents().next() else { return Ok(None) };
        host.ssh.start_agent(agent)?;
        Ok(Some(&host.ssh))
    }))?;
    let with_agent: Vec<&Ssh> = with_agent.into_iter().flatten().collect();
    let idle = || all(each(&with_agent, |ssh| ensure_idle(ssh))).map(drop);
    let free = lock_all(with_agent.iter().copied(), "cargo xtask down").and_then(|()| idle());
    if !force {
        free.context("cargo xtask down --force removes everything nevertheless")?;
    }
    if !discards {
        all(each(&with_agent, |ssh| {
            ensure_fetched(ssh.entry(), &status_of(ssh)?, "cargo xtask down --discard-results")
        }))?;
    }
    all(each(&with_agent, |ssh| {
        stop_all(ssh, DOWN_GRACE)?;
        ssh.send(&Request::Remove, REMOVE_TIME)
    }))?;
    all(each(&hosts, |host| {
        // Without an agent, the folder is from an `up` that was interrupted at its very beginning.
        let left =
            host.ssh.run(&format!("rm -rf {FOLDER}; ls -d {FOLDER} 2>/dev/null || true"), REMOVE_TIME)?;
        ensure!(
            left.trim().is_empty(),
            "on {}: {} still exists after it was removed",
            host.ssh.entry().name,
            left.trim()
        );
        Ok(())
    }))?;
    Ok(())
}
