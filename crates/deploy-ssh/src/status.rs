//! Subcommands: cargo xtask status, logs and ssh

use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::sync::mpsc::channel;

use agent::protocol::{self, FOLDER};
use anyhow::{Context, anyhow, bail};
use serde::Serialize;

use super::{command, each, end_on_interrupt, load, status_of};
use crate::hosts::{HostEntry, Inventory};
use crate::ssh::{Access, Ssh, login_options};
use deploy::request::{Logs, Ssh as SshRequest, Status};
use deploy::{console, exit, interrupt};

/// A host in the status.
#[derive(Serialize)]
struct HostStatus {
    name: String,
    address: String,
    role: &'static str,
    /// What it says; not there if it cannot be reached.
    status: Option<protocol::Status>,
    /// Why it cannot be reached.
    error: Option<String>,
    /// What the cloud says, if it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<Machine>,
    /// Whether the cloud does not know it any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_gone: bool,
}

/// What the cloud says of a machine.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub name: String,
    pub address: Option<String>,
    pub instance: String,
    pub instance_type: String,
    pub zone: String,
    pub spot: bool,
    /// Since its launch.
    pub seconds: u64,
    /// Until it ends itself.
    pub seconds_left: Option<u64>,
    /// At list price, if that is known.
    pub usd_per_hour: Option<f64>,
}

/// Shows what the cloud says of a machine that is not known to be a host yet.
pub fn show_machine(machine: &Machine) {
    console::data(&format!("{} ({})", machine.name, machine.address.as_deref().unwrap_or("no address yet")));
    console::data(&format!("  {} {} in {}", machine.instance, machine.instance_type, machine.zone));
    if let Some(left) = machine.seconds_left {
        console::data(&format!("  ends itself in {}", console::clock(left as f64)));
    }
}

/// Shows how hosts and job are.
pub(super) fn status(args: &Status) -> anyhow::Result<ExitCode> {
    status_of_machines(args, None)
}

/// Shows how hosts and job are, and what the cloud says of them if they are there.
pub fn status_of_machines(args: &Status, machines: Option<&[Machine]>) -> anyhow::Result<ExitCode> {
    end_on_interrupt("")?;
    let (inventory, access) = load(&args.inventory)?;
    let used = inventory.used_hosts()?;
    let asked = each(&used, |host| ask(host, &access, &inventory.agent));
    let hosts: Vec<_> = used
        .iter()
        .zip(asked)
        .map(|(host, asked)| {
            let error = asked.as_ref().err().map(|error| format!("{error:#}"));
            let machine = machines
                .and_then(|all| all.iter().find(|machine| machine.address.as_ref() == Some(&host.address)));
            HostStatus {
                machine: machine.cloned(),
                is_gone: machines.is_some() && machine.is_none(),
                name: host.name.clone(),
                address: host.address.clone(),
                role: role(&inventory, host),
                status: asked.ok(),
                error,
            }
        })
        .collect();
    if args.json {
        console::data(&serde_json::to_string_pretty(&hosts).context("encoding the status")?);
    } else {
        hosts.iter().for_each(show);
    }
    let all_there = hosts.iter().all(|host| host.error.is_none());
    Ok(if all_there { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ask(host: &HostEntry, access: &Access, agent: &str) -> anyhow::Result<protocol::Status> {
    status_of(&command(host, access, agent)?)
}

fn role(inventory: &Inventory, host: &HostEntry) -> &'static str {
    match (host.name == inventory.metrics, inventory.machines.iter().position(|name| *name == host.name)) {
        (true, None) => "metrics",
        (true, Some(_)) => "metrics and initializer",
        (false, Some(0)) => "initializer",
        (false, _) => "worker",
    }
}

fn show(host: &HostStatus) {
    console::data(&format!("{} ({}), {}", host.name, host.address, host.role));
    let ends = match host.machine.as_ref().map(|machine| (machine, machine.seconds_left)) {
        Some((machine, left)) => {
            console::data(&format!(
                "  {} {}{} in {}",
                machine.instance,
                if machine.spot { "spot " } else { "" },
                machine.instance_type,
                machine.zone
            ));
            left.map(|left| format!("ends itself in {}", console::clock(left as f64)))
        }
        None if host.is_gone => {
            console::data("  has ended; cargo xtask up launches another one");
            return;
        }
        None => None,
    };
    let ends = ends.as_deref().unwrap_or("no time to live is set");
    let Some(status) = &host.status else {
        console::data(&format!(
            "  cannot be reached: {}",
            host.error.as_deref().unwrap_or("nobody knows why")
        ));
        return;
    };
    let (free, size) = (console::bytes(status.disk_free), console::bytes(status.disk_size));
    console::data(&format!("  up {}; {free} of {size} free; {ends}", console::clock(status.uptime as f64)));
    if let Some(holder) = &status.holder {
        console::data(&format!("  commanded by {}, since {}", holder.who, holder.since));
    }
    for program in &status.programs {
        let how = match (&program.running, &program.end) {
            (Some(seconds), _) => format!("running for {}", console::clock(*seconds as f64)),
            (None, Some(end)) => format!("ended ({end})"),
            (None, None) => "gone".to_owned(),
        };
        console::data(&format!("  {} (process {}): {how}", program.name, program.pid));
    }
    if let Some(progress) = &status.progress {
        let rejects = console::count(progress.rejects);
        console::data(&format!(
            "  job: {} rows are done, of these {rejects} rejected",
            console::count(progress.rows)
        ));
    }
    if let Some(summary) = &status.summary {
        console::data(&format!(
            "  job: done, {} rows in {:.2} s",
            console::count(summary.rows),
            summary.seconds
        ));
    }
}

/// Shows what programs print.
pub(super) fn logs(args: &Logs) -> anyhow::Result<ExitCode> {
    let (inventory, access) = load(&args.inventory)?;
    let hosts = match &args.host {
        Some(name) => vec![inventory.host(name)?.clone()],
        None => inventory.used_hosts()?,
    };
    let (follow, count) = (if args.follow { "-F" } else { "" }, args.lines);
    // Without a log there is nothing to show.
    let script = format!(
        "cd {FOLDER}/log 2>/dev/null && ls *.log >/dev/null 2>&1 && exec tail -n {count} {follow} *.log"
    );
    let several = hosts.len() > 1;
    end_on_interrupt("")?;
    let (sender, lines) = channel();
    std::thread::scope(|scope| {
        for host in &hosts {
            let (sender, access, script) = (sender.clone(), &access, &script);
            scope.spawn(move || {
                let shown = Ssh::connect(host, access).and_then(|ssh| {
                    ssh.run_to(script, |line| {
                        let line = Ok((host.name.clone(), line));
                        sender.send(line).map_err(|_| anyhow!("nobody reads it any more"))
                    })
                });
                if let Err(error) = shown {
                    let _ = sender.send(Err(error));
                }
            });
        }
        drop(sender);
        let mut outcome = Ok(ExitCode::SUCCESS);
        for line in lines {
            // With --follow, the others would go on for ever.
            if let Some(error) = console::lost_data() {
                exit::fail(&error);
                interrupt::leave(exit::FAILED);
            }
            match line {
                Ok((host, line)) if several => console::data(&format!("{host} | {line}")),
                Ok((_, line)) => console::data(&line),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    })
}

/// Hands over to ssh.
pub(super) fn ssh(args: &SshRequest) -> anyhow::Result<ExitCode> {
    let (inventory, access) = load(&args.inventory)?;
    let host = inventory.host(&args.host)?;
    let mut command = std::process::Command::new("ssh");
    command.args(login_options(host, &access));
    if !args.command.is_empty() {
        // A configuration may have what is for people who log in: ssh takes no command beside one of that, and may end when a
        // port of a forward is taken.
        for option in ["RemoteCommand=none", "ClearAllForwardings=yes", "ControlPath=none"] {
            command.args(["-o", option]);
        }
    }
    // A command may begin like an option.
    command.arg("--").arg(&host.address).args(&args.command);
    let error = command.exec();
    bail!("starting ssh: {error}")
}
