//! Subcommand: cargo xtask down, in the cloud

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use aws_sdk_ec2::types::{Filter, NetworkInterface, VolumeState};

use super::aws::{Aws, Class, Explain, class_of, unless};
use super::desired::is_our_dashboard;
use super::launch;
use super::look::{
    alarms, by_tag, dashboard, filter, instances, key_pair, topic_arn, topic_of_name, without_comment,
};
use super::plan::DELETED_AT_ONCE;
use super::settings::{self, Settings};
use crate::commands::remote::Down;
use crate::hosts::Inventory;
use crate::runtime::runtime;
use crate::{interrupt, remote, ui};

/// How long instances may take to be gone.
const GONE_TIME: Duration = Duration::from_secs(600);
/// How long a security group may seem to be used whose instances are gone.
const USED_TIME: Duration = Duration::from_secs(60);
/// Between two looks, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Destroys all that there is of a stack.
pub(super) fn down(args: &Down) -> anyhow::Result<ExitCode> {
    interrupt::watch_and_say(
        "going on, so that nothing stays that costs money (once more: to stop)",
        "interrupted twice: another cargo xtask down goes on",
    )?;
    let inventory_path = remote::inventory_path(&args.place)?;
    let settings_path = Settings::path(&args.place)?;
    let mut remembered = Settings::load(&settings_path)?;
    let stack = settings::stack(args.stack.as_deref(), remembered.as_ref())?;
    let inventory = Inventory::load_if_there(&inventory_path)?;
    // Somebody else's stack is destroyed only by its name. A folder without a key has none of its own.
    let public = inventory_path.with_file_name("ssh_pubkey_in_ec2_format.pub");
    let own_key = match wire::program::read_if_there(&public)? {
        Some(key) if args.stack.is_none() || args.own => {
            Some(without_comment(&String::from_utf8_lossy(&key)))
        }
        _ => None,
    };
    let runtime = runtime()?;
    let mut failed = Vec::new();
    let regions = match args.region.as_slice() {
        [all] if all == "all" => runtime.block_on(regions(settings::REGION))?,
        [] => vec![settings::region(&[], remembered.as_ref())?],
        regions => regions.to_vec(),
    };
    for region in &regions {
        let destroyed = settings::check_region(region)
            .and_then(|()| runtime.block_on(down_in(region, &stack, own_key.as_deref())));
        match destroyed {
            Ok(()) => {
                ui::note(&format!("nothing is left of {stack} in {region}"));
                let here = format!("{stack} in {region}");
                if inventory.as_ref().is_some_and(|inventory| inventory.stack.as_ref() == Some(&here)) {
                    forget(&inventory_path)?;
                }
                if let Some(remembered) = remembered.as_mut()
                    && (&remembered.stack, &remembered.region) == (&stack, region)
                {
                    remembered.may_be_up = false;
                    remembered.save(&settings_path)?;
                }
            }
            Err(error) => failed.push(format!("{region}: {error:#}")),
        }
    }
    match failed.as_slice() {
        [] => Ok(ExitCode::SUCCESS),
        failed => bail!("the stack {stack} is not down:\n{}", failed.join("\n")),
    }
}

/// Destroys a stack in a region, unless it has another key than it should have.
async fn down_in(region: &str, stack: &str, own_key: Option<&str>) -> anyhow::Result<()> {
    let aws = Aws::connect(region).await?;
    if let Some(own) = own_key
        && let Some(pair) = key_pair(&aws, stack).await?
    {
        ensure!(
            pair.public_key == own,
            "it has another SSH key than this folder has, so it may be somebody else's; if it is to be destroyed, name it: \
             --stack {stack}"
        );
    }
    destroy(&aws, stack).await
}

/// All regions that are enabled for the account.
async fn regions(ask_in: &str) -> anyhow::Result<Vec<String>> {
    let aws = Aws::connect(ask_in).await?;
    let found = aws.ec2.describe_regions().send().await.explain("ec2:DescribeRegions", &aws)?;
    Ok(found.regions().iter().filter_map(|region| region.region_name()).map(str::to_owned).collect())
}

/// Removes what is known here of hosts that are no more. What was asked for is remembered.
pub(super) fn forget(inventory: &Path) -> anyhow::Result<()> {
    let known_hosts = remote::access(inventory, None).known_hosts;
    if known_hosts.exists() {
        std::fs::remove_dir_all(&known_hosts)
            .with_context(|| format!("removing {}", known_hosts.display()))?;
    }
    for file in [inventory.with_file_name("urls.txt"), inventory.to_owned()] {
        wire::program::remove_if_there(&file)?;
    }
    Ok(())
}

/// Destroys all that bears the tag of the stack, or its name where there are no tags, and looks that nothing is left.
///
/// All of it is tried, whatever fails. Instances cost nothing from the moment on that they are told to end; it is waited
/// until they are gone, since only then their disks are, and the security group can be deleted.
///
/// # Errors
/// What failed, and what is left, with ids.
pub(super) async fn destroy(aws: &Aws, stack: &str) -> anyhow::Result<()> {
    let (instances, alarms, dashboard, topic, key_pair) = tokio::join!(
        end_instances(aws, stack),
        delete_alarms(aws, stack),
        delete_dashboard(aws, stack),
        delete_topic(aws, stack),
        delete_key_pair(aws, stack),
    );
    let group = delete_group(aws, stack).await;
    let volumes = delete_volumes(aws, stack).await;
    let errors: Vec<_> = [instances, alarms, dashboard, topic, key_pair, group, volumes]
        .into_iter()
        .filter_map(|outcome| outcome.err().map(|error| format!("{error:#}")))
        .collect();
    let left = left(aws, stack).await;
    let why: String = errors.iter().map(|error| format!("\n  {error}")).collect();
    match left {
        Ok(left) if left.is_empty() => {
            // What failed was not needed after all, or somebody else did it.
            errors.iter().for_each(|error| ui::note(error));
            Ok(())
        }
        Ok(left) => bail!("these are left: {}{why}", left.join(", ")),
        Err(error) => bail!("what is left is not known: {error:#}{why}"),
    }
}

/// Ends all instances, and waits until they are gone.
async fn end_instances(aws: &Aws, stack: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + GONE_TIME;
    let mut pause = PAUSES.0;
    let mut bar = None;
    loop {
        let seen = instances(aws, stack).await?;
        let count = seen.there.len() + seen.going.len();
        if count == 0 {
            return Ok(());
        }
        let (total, bar) =
            bar.get_or_insert_with(|| (count, ui::Steps::new("waiting for instances to be gone", count)));
        bar.set(total.saturating_sub(count));
        if Instant::now() >= deadline {
            let there = seen.there.into_iter().map(|instance| instance.id);
            let left: Vec<_> = there.chain(seen.going).collect();
            bail!("instances are still not gone after {GONE_TIME:?}: {}", left.join(", "));
        }
        if !seen.there.is_empty() {
            launch::end(aws, seen.there.iter().map(|instance| instance.id.clone()).collect()).await?;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

async fn delete_alarms(aws: &Aws, stack: &str) -> anyhow::Result<()> {
    let names: Vec<_> = alarms(aws, stack).await?.into_keys().collect();
    for names in names.chunks(DELETED_AT_ONCE) {
        let gone = aws.cloudwatch.delete_alarms().set_alarm_names(Some(names.to_vec())).send().await;
        unless(Class::NotFound, gone.explain("cloudwatch:DeleteAlarms", aws).map(drop))?;
    }
    Ok(())
}

async fn delete_dashboard(aws: &Aws, stack: &str) -> anyhow::Result<()> {
    let Some(body) = dashboard(aws, stack).await? else { return Ok(()) };
    if !is_our_dashboard(&body, stack) {
        return Ok(());
    }
    let gone = aws.cloudwatch.delete_dashboards().dashboard_names(stack).send().await;
    unless(Class::NotFound, gone.explain("cloudwatch:DeleteDashboards", aws).map(drop))
}

/// Deletes the topic, and with it its subscriptions.
async fn delete_topic(aws: &Aws, stack: &str) -> anyhow::Result<()> {
    let Some(arn) = topic_arn(aws, stack).await? else { return Ok(()) };
    let gone = aws.sns.delete_topic().topic_arn(arn).send().await;
    unless(Class::NotFound, gone.explain("sns:DeleteTopic", aws).map(drop))
}

async fn delete_key_pair(aws: &Aws, stack: &str) -> anyhow::Result<()> {
    let found = aws.ec2.describe_key_pairs().filters(by_tag(stack)).send().await;
    for pair in found.explain("ec2:DescribeKeyPairs", aws)?.key_pairs() {
        let gone = aws.ec2.delete_key_pair().set_key_name(pair.key_name().map(str::to_owned)).send().await;
        unless(Class::NotFound, gone.explain("ec2:DeleteKeyPair", aws).map(drop))?;
    }
    Ok(())
}

/// Deletes the security group. As long as something uses it, there may be instances that were launched so late that they
/// were not seen yet.
async fn delete_group(aws: &Aws, stack: &str) -> anyhow::Result<()> {
    let found = aws.ec2.describe_security_groups().filters(by_tag(stack)).send().await;
    let found = found.explain("ec2:DescribeSecurityGroups", aws)?;
    for id in found.security_groups().iter().filter_map(|group| group.group_id()) {
        let (deadline, mut pause) = (Instant::now() + USED_TIME, PAUSES.0);
        loop {
            let gone = aws.ec2.delete_security_group().group_id(id).send().await;
            match gone.explain("ec2:DeleteSecurityGroup", aws) {
                Err(error) if class_of(&error) == Some(Class::InUse) => {
                    end_instances(aws, stack).await?;
                    if Instant::now() >= deadline {
                        let users = users(aws, id).await?.join(", ");
                        return Err(
                            error.context(format!("something else uses the security group {id}: {users}"))
                        );
                    }
                }
                gone => break unless(Class::NotFound, gone.map(drop))?,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
    Ok(())
}

/// What uses a security group.
async fn users(aws: &Aws, group: &str) -> anyhow::Result<Vec<String>> {
    let found = aws.ec2.describe_network_interfaces().filters(filter("group-id", group)).send().await;
    let found = found.explain("ec2:DescribeNetworkInterfaces", aws)?;
    let user = |interface: &NetworkInterface| {
        let instance = interface.attachment().and_then(|attachment| attachment.instance_id());
        instance.or(interface.network_interface_id()).unwrap_or("something without an id").to_owned()
    };
    Ok(found.network_interfaces().iter().map(user).collect())
}

/// Deletes disks that did not go with their instance.
async fn delete_volumes(aws: &Aws, stack: &str) -> anyhow::Result<()> {
    for (id, state) in volumes(aws, stack).await? {
        if state == Some(VolumeState::Available) {
            let gone = aws.ec2.delete_volume().volume_id(id).send().await;
            unless(Class::NotFound, gone.explain("ec2:DeleteVolume", aws).map(drop))?;
        }
    }
    Ok(())
}

async fn volumes(aws: &Aws, stack: &str) -> anyhow::Result<Vec<(String, Option<VolumeState>)>> {
    let mut pages = aws.ec2.describe_volumes().filters(by_tag(stack)).into_paginator().send();
    let mut volumes = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.explain("ec2:DescribeVolumes", aws)?;
        let found = page.volumes().iter();
        volumes.extend(
            found.filter_map(|volume| Some((volume.volume_id()?.to_owned(), volume.state().cloned()))),
        );
    }
    Ok(volumes)
}

/// What there still is of a stack, with ids. What only bears its name is not ours, and is told.
async fn left(aws: &Aws, stack: &str) -> anyhow::Result<Vec<String>> {
    let seen = instances(aws, stack).await?;
    let mut left: Vec<_> = seen.there.iter().map(|instance| format!("instance {}", instance.id)).collect();
    left.extend(seen.going.iter().map(|id| format!("instance {id} (ending)")));
    left.extend(volumes(aws, stack).await?.into_iter().map(|(id, _)| format!("volume {id}")));
    let pairs = key_pairs(aws, by_tag(stack)).await?;
    let mut strangers = key_pairs(aws, filter("key-name", stack)).await?;
    strangers.extend(groups(aws, filter("group-name", stack)).await?);
    left.extend(pairs);
    left.extend(groups(aws, by_tag(stack)).await?);
    match (topic_of_name(aws, stack).await?, topic_arn(aws, stack).await?) {
        (_, Some(arn)) => left.push(format!("topic {arn}")),
        (Some(arn), None) => strangers.push(format!("topic {arn}")),
        (None, None) => {}
    }
    left.extend(alarms(aws, stack).await?.into_keys().map(|name| format!("alarm {name}")));
    match dashboard(aws, stack).await? {
        Some(body) if is_our_dashboard(&body, stack) => left.push(format!("dashboard {stack}")),
        Some(_) => strangers.push(format!("dashboard {stack}")),
        None => {}
    }
    strangers.retain(|stranger| !left.contains(stranger));
    if !strangers.is_empty() {
        ui::note(&format!(
            "of the same name, but not of the stack, and left alone: {}",
            strangers.join(", ")
        ));
    }
    Ok(left)
}

async fn key_pairs(aws: &Aws, of: Filter) -> anyhow::Result<Vec<String>> {
    let found = aws.ec2.describe_key_pairs().filters(of).send().await.explain("ec2:DescribeKeyPairs", aws)?;
    let ids = found.key_pairs().iter().filter_map(|pair| pair.key_pair_id());
    Ok(ids.map(|id| format!("key pair {id}")).collect())
}

async fn groups(aws: &Aws, of: Filter) -> anyhow::Result<Vec<String>> {
    let found = aws.ec2.describe_security_groups().filters(of).send().await;
    let found = found.explain("ec2:DescribeSecurityGroups", aws)?;
    let ids = found.security_groups().iter().filter_map(|group| group.group_id());
    Ok(ids.map(|id| format!("security group {id}")).collect())
}
