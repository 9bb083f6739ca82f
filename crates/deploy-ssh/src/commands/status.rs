//! `cargo xtask status`

use std::process::ExitCode;

use agent::protocol;
use anyhow::Context;
use deploy::console;
use deploy::request::Status;
use serde::Serialize;

use super::end_on_interrupt;
use crate::agents::{connect, load, status_of};
use crate::inventory::{HostEntry, Inventory};
use crate::parallel::each;
use crate::ssh::Access;

/// A host in the status.
#[derive(Serialize)]
struct HostStatus {
    name: String,
    address: String,
    role: &'static str,
    /// What its agent reports; `None` if the host cannot be reached.
    status: Option<protocol::Status>,
    /// Why it cannot be reached.
    error: Option<String>,
    /// What the cloud reports; `None` outside the cloud.
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<Machine>,
    /// Whether the cloud no longer has it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_gone: bool,
}

/// What the cloud reports about a machine.
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
    /// Until it terminates itself.
    pub seconds_left: Option<u64>,
    /// At list price; `None` where that is not known.
    pub usd_per_hour: Option<f64>,
}

/// Prints a machine that is not yet a host.
pub fn show_machine(machine: &Machine) {
    console::data(&format!("{} ({})", machine.name, machine.address.as_deref().unwrap_or("no address yet")));
    console::data(&format!("  {} {} in {}", machine.instance, machine.instance_type, machine.zone));
    if let Some(left) = machine.seconds_left {
        console::data(&format!("  ends itself in {}", console::clock(left as f64)));
    }
}

/// Prints the status of hosts and job.
pub(crate) fn run(args: &Status) -> anyhow::Result<ExitCode> {
    status_of_machines(args, None)
}

/// Prints the status of hosts and job; `machines` is what the cloud reports about the hosts.
pub fn status_of_machines(args: &Status, machines: Option<&[Machine]>) -> anyhow::Result<ExitCode> {
    end_on_interrupt("")?;
    let (inventory, access) = load(&args.inventory)?;
    let used = inventory.used_hosts()?;
    let fetched = each(&used, |host| fetch(host, &access, &inventory.agent));
    let hosts: Vec<_> = used
        .iter()
        .zip(fetched)
        .map(|(host, fetched)| {
            let error = fetched.as_ref().err().map(|error| format!("{error:#}"));
            let machine = machines
                .and_then(|all| all.iter().find(|machine| machine.address.as_ref() == Some(&host.address)));
            HostStatus {
                machine: machine.cloned(),
                is_gone: machines.is_some() && machine.is_none(),
                name: host.name.clone(),
                address: host.address.clone(),
                role: role(&inventory, host),
                status: fetched.ok(),
                error,
            }
        })
        .collect();
    if args.json {
        console::data(&serde_json::to_string_pretty(&hosts).context("encoding the status")?);
    } else {
        hosts.iter().for_each(show);
    }
    let all_reached = hosts.iter().all(|host| host.error.is_none());
    Ok(if all_reached { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn fetch(host: &HostEntry, access: &Access, agent: &str) -> anyhow::Result<protocol::Status> {
    status_of(&connect(host, access, agent)?)
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
    if host.is_gone {
        console::data("  has ended; cargo xtask up launches another one");
        return;
    }
    if let Some(machine) = &host.machine {
        let market = if machine.spot { "spot " } else { "" };
        let Machine { instance, instance_type, zone, .. } = machine;
        console::data(&format!("  {instance} {market}{instance_type} in {zone}"));
    }
    let Some(status) = &host.status else {
        let reason = host.error.as_deref().unwrap_or("the reason is not known");
        console::data(&format!("  cannot be reached: {reason}"));
        return;
    };
    let left = host.machine.as_ref().and_then(|machine| machine.seconds_left);
    let ends = match left {
        Some(left) => format!("ends itself in {}", console::clock(left as f64)),
        None => "no time to live is set".to_owned(),
    };
    let (free, size) = (console::bytes(status.disk_free), console::bytes(status.disk_size));
    console::data(&format!("  up {}; {free} of {size} free; {ends}", console::clock(status.uptime as f64)));
    if let Some(holder) = &status.holder {
        console::data(&format!("  commanded by {}, since {}", holder.who, holder.since));
    }
    status.programs.iter().for_each(show_program);
    show_job(status);
}

fn show_program(program: &protocol::ProgramStatus) {
    let state = match (&program.running, &program.end) {
        (Some(seconds), _) => format!("running for {}", console::clock(*seconds as f64)),
        (None, Some(end)) => format!("ended ({end})"),
        (None, None) => "gone".to_owned(),
    };
    console::data(&format!("  {} (process {}): {state}", program.name, program.pid));
}

fn show_job(status: &protocol::Status) {
    if let Some(progress) = &status.progress {
        let (rows, rejects) = (console::count(progress.rows), console::count(progress.rejects));
        console::data(&format!("  job: {rows} rows are done, of these {rejects} rejected"));
    }
    if let Some(summary) = &status.summary {
        let rows = console::count(summary.rows);
        console::data(&format!("  job: done, {rows} rows in {:.2} s", summary.seconds));
    }
}
