//! Subcommands: cargo xtask stop and down

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use supervisor::protocol::{FOLDER, Reply, Request};

use super::{
    SHORT, access, all, command_all, each, end_on_interrupt, ensure_idle, load, lock_all, status_of, stop_all,
};
use crate::commands::remote::{Down, Stop};
use crate::host::ssh::{Access, Ssh};
use crate::hosts::{HostEntry, Inventory};
use crate::ui;

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
    let (inventory, access) = load(&args.place)?;
    let hosts = command_all(&inventory.used_hosts()?, &access, &inventory.supervisor)?;
    let metrics = hosts.first().context("the inventory has no metrics host")?;
    let before = status_of(metrics)?;
    let running = before.programs.iter().any(|program| program.running.is_some());
    // The receiver first, so that it ends because it was told to, and not because the cluster is gone.
    stop_all(metrics, STOP_GRACE)?;
    all(each(&hosts[1..], |host| stop_all(host, STOP_GRACE)))?;
    if !running {
        ui::note("no job was running");
    }
    let status = status_of(metrics)?;
    if let Some(summary) = status.summary {
        ui::data(&format!("the job is done: {} rows", ui::count(summary.rows)));
        return Ok(ExitCode::SUCCESS);
    }
    let tail = Request::Tail { name: "receiver".into(), lines: LAST_LINES };
    // Without a job there was no receiver, and there is nothing to tell of it.
    if let Ok(Reply::Lines(lines)) = metrics.request(&tail, SHORT) {
        // Its connections may have had something to say after it.
        if let Some(line) = lines.iter().find(|line| line.starts_with("receiver: stopped")) {
            ui::data(line);
            return Ok(ExitCode::SUCCESS);
        }
    }
    if running {
        let rows = before.progress.map_or(0, |progress| progress.rows);
        ui::data(&format!("stopped; {} rows were durable", ui::count(rows)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes what is on the hosts.
pub(super) fn down(args: &Down) -> anyhow::Result<ExitCode> {
    end_on_interrupt("interrupted; another cargo xtask down goes on")?;
    let path = super::inventory_path(&args.place)?;
    // Also what an `up` has left that did not come to its end.
    let inventory = Inventory::load(&path)?;
    let access = access(&path, inventory.ssh_config.clone());
    let mut hosts = inventory.used_hosts()?;
    hosts.extend(inventory.left.iter().cloned());
    clear(&hosts, &access, args.force)?;
    let known_hosts = &access.known_hosts;
    if known_hosts.exists() {
        std::fs::remove_dir_all(known_hosts)
            .with_context(|| format!("removing {}", known_hosts.display()))?;
    }
    for file in [path.with_file_name("urls.txt"), path] {
        match std::fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("removing {}", file.display()));
            }
            _ => {}
        }
    }
    ui::note(&format!("nothing of ours is left on {} hosts", hosts.len()));
    Ok(ExitCode::SUCCESS)
}

/// Ends our programs on hosts and removes our folder, and looks that both are gone.
pub(super) fn clear(hosts: &[HostEntry], access: &Access, force: bool) -> anyhow::Result<()> {
    let connected = all(each(hosts, |host| {
        let mut ssh = Ssh::connect(host, access)?;
        // Any will do, of whatever build; one that is still being shipped has another name.
        let script =
            format!("cd {FOLDER} 2>/dev/null && ls | grep -x 'supervisor-[0-9a-f]*' | head -n 1 || true");
        let found = ssh.run(&script, SHORT)?;
        let supervisor = found.trim().strip_prefix("supervisor-");
        if let Some(supervisor) = supervisor {
            ssh.command(supervisor)?;
        }
        let id = ssh.run(&format!("cat {FOLDER}/id 2>/dev/null || true"), SHORT)?;
        Ok((ssh, supervisor.is_some(), id))
    }))?;
    // A machine may be there twice, under an old name and a new one.
    let mut seen = BTreeSet::new();
    let connected =
        connected.into_iter().filter(|(_, _, id)| id.trim().is_empty() || seen.insert(id.clone()));
    let connected: Vec<_> = connected.map(|(ssh, there, _)| (ssh, there)).collect();
    let (there, gone): (Vec<_>, Vec<_>) = connected.into_iter().partition(|(_, there)| *there);
    let there: Vec<Ssh> = there.into_iter().map(|(ssh, _)| ssh).collect();
    let free = lock_all(&there, "cargo xtask down").and_then(|()| all(each(&there, ensure_idle)).map(drop));
    if !force {
        free.context("cargo xtask down --force removes all the same")?;
    }
    all(each(&there, |host| {
        stop_all(host, DOWN_GRACE)?;
        let reply = host.request(&Request::Remove, REMOVE_TIME)?;
        ensure!(reply == Reply::Nothing, "the supervisor answered {reply:?}");
        Ok(())
    }))?;
    let everyone: Vec<Ssh> = there.into_iter().chain(gone.into_iter().map(|(ssh, _)| ssh)).collect();
    all(each(&everyone, |host| {
        // A folder without a supervisor is what an `up` has left that was broken off at its very beginning.
        let left = host.run(&format!("rm -rf {FOLDER}; ls -d {FOLDER} 2>/dev/null || true"), REMOVE_TIME)?;
        ensure!(left.trim().is_empty(), "on {}: {} is still there", host.entry().name, left.trim());
        Ok(())
    }))?;
    Ok(())
}
