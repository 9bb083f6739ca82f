//! `cargo xtask status`, for hosts from EC2

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;

use crate::aws::Aws;
use crate::discover::instances;
use crate::discover::prices;
use crate::discover::state::{Instance, names};
use crate::settings::Settings;
use deploy::console;
use deploy::request::Status;
use deploy_ssh::commands::status::{self as hosts, Machine};
use deploy_ssh::inventory::Inventory;
use deploy_ssh::runtime::runtime;

/// Prints the stack's instances, their price, when they terminate themselves, and their status as hosts.
pub(crate) fn status(args: &Status) -> anyhow::Result<ExitCode> {
    let remembered = Settings::load(&Settings::path(&args.inventory))?;
    let settings = remembered.context(
        "this folder has no stack (there is no stack.toml); bring one up with: cargo xtask up --provider aws",
    )?;
    let Settings { stack, region, .. } = &settings;
    let (account, found) = runtime()?.block_on(async {
        let aws = Aws::connect(region).await?;
        settings.ensure_account(&aws.account)?;
        anyhow::Ok((aws.account.clone(), instances(&aws, stack).await?))
    })?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
    let machines: Vec<_> =
        names(&found.live).iter().map(|(name, instance)| machine(name, instance, &settings, now)).collect();
    if !args.json {
        let price: Option<f64> = machines.iter().map(|machine| machine.usd_per_hour).sum();
        let so_far: Option<f64> =
            machines.iter().map(|m| m.usd_per_hour.map(|usd| usd * m.seconds as f64 / 3600.0)).sum();
        let price = match (price, so_far) {
            (Some(price), Some(so_far)) => {
                format!("{} an hour at list price, {} so far", prices::usd(price), prices::usd(so_far))
            }
            _ => "a price that is not known here".to_owned(),
        };
        console::data(&format!(
            "{stack} in {region}, account {account}: {} instances, {price}",
            machines.len()
        ));
    }
    let inventory = Inventory::load_if_there(&args.inventory)?;
    if inventory.is_some_and(|inventory| inventory.ready) {
        return hosts::status_of_machines(args, Some(&machines));
    }
    // No `up` has completed, but machines that cost money are shown nevertheless.
    if args.json {
        console::data(&serde_json::to_string_pretty(&machines).context("encoding the status")?);
    } else {
        machines.iter().for_each(hosts::show_machine);
        console::note("they are not ready: cargo xtask up continues, and cargo xtask down takes them down");
    }
    Ok(ExitCode::SUCCESS)
}

fn machine(name: &str, instance: &Instance, settings: &Settings, now: i64) -> Machine {
    Machine {
        name: name.to_owned(),
        address: instance.public_address.clone(),
        instance: instance.id.clone(),
        instance_type: instance.instance_type.clone(),
        zone: instance.zone.clone(),
        spot: instance.is_spot,
        seconds: (now - instance.launched).max(0) as u64,
        seconds_left: instance.expires.map(|expires| (expires - now).max(0) as u64),
        usd_per_hour: prices::of_instance(instance, settings),
    }
}
