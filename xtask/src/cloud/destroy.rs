//! Subcommand: cargo xtask down, in the cloud

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use aws_sdk_ec2::types::VolumeState;

use super::apply::unless;
use super::aws::{Aws, Class, Explain, class_of};
use super::launch;
use super::look::{alarms, by_tag, filter, instances, topic_arn};
use super::plan::DELETED_AT_ONCE;
use super::settings::{self, Settings};
use crate::commands::remote::Down;
use crate::hosts::Inventory;
use crate::runtime::runtime;
use crate::{interrupt, remote, ui};

/// How long instances may take to be gone.
const GONE_TIME: Duration = Duration::from_secs(600);
/// Between two looks, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Destroys all that there is of a stack.
pub(super) fn down(args: &Down) -> anyhow::Result<ExitCode> {
    interrupt::watch("interrupted twice: another cargo xtask down goes on")?;
    let inventory_path = remote::inventory_path(&args.place)?;
    let remembered = Settings::load(&Settings::path(&args.place)?)?;
    let stack = settings::stack(args.stack.as_deref(), remembered.as_ref())?;
    let inventory = Inventory::load_if_there(&inventory_path)?;
    let runtime = runtime()?;
    let mut failed = Vec::new();
    let regions = match args.region.as_slice() {
        [all] if all == "all" => runtime.block_on(regions(settings::REGION))?,
        [] => vec![settings::region(&[], remembered.as_ref())?],
        regions => regions.to_vec(),
    };
    for region in &regions {
        let destroyed = settings::check_region(region)
            .and_then(|()| runtime.block_on(async { destroy(&Aws::connect(region).await?, &stack).await }));
        match destroyed {
            Ok(()) => {
                ui::note(&format!("nothing is left of {stack} in {region}"));
                let here = format!("{stack} in {region}");
                if inventory.as_ref().is_some_and(|inventory| inventory.stack.as_ref() == Some(&here)) {
                    forget(&inventory_path)?;
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
        if !seen.there.is_empty() {
            launch::end(aws, seen.there.iter().map(|instance| instance.id.clone()).collect()).await?;
        } else if Instant::now() >= deadline {
            let left: Vec<_> = seen.going.into_iter().collect();
            bail!("instances that are ending are still not gone after {GONE_TIME:?}: {}", left.join(", "));
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
    let deadline = Instant::now() + GONE_TIME;
    for id in found.security_groups().iter().filter_map(|group| group.group_id()) {
        let mut pause = PAUSES.0;
        loop {
            let gone = aws.ec2.delete_security_group().group_id(id).send().await;
            match gone.explain("ec2:DeleteSecurityGroup", aws) {
                Err(error) if class_of(&error) == Some(Class::InUse) && Instant::now() < deadline => {
                    end_instances(aws, stack).await?;
                }
                gone => break unless(Class::NotFound, gone.map(drop))?,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
    Ok(())
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

/// What there still is of a stack, by tag and by name, with ids.
async fn left(aws: &Aws, stack: &str) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    let seen = instances(aws, stack).await?;
    left.extend(seen.there.iter().map(|instance| format!("instance {}", instance.id)));
    left.extend(seen.going.iter().map(|id| format!("instance {id} (ending)")));
    left.extend(volumes(aws, stack).await?.into_iter().map(|(id, _)| format!("volume {id}")));
    for filter in [by_tag(stack), filter("key-name", stack)] {
        let found = aws.ec2.describe_key_pairs().filters(filter).send().await;
        let found = found.explain("ec2:DescribeKeyPairs", aws)?;
        left.extend(
            found.key_pairs().iter().filter_map(|pair| Some(format!("key pair {}", pair.key_pair_id()?))),
        );
    }
    for filter in [by_tag(stack), filter("group-name", stack)] {
        let found = aws.ec2.describe_security_groups().filters(filter).send().await;
        let found = found.explain("ec2:DescribeSecurityGroups", aws)?;
        let groups = found.security_groups().iter();
        left.extend(groups.filter_map(|group| Some(format!("security group {}", group.group_id()?))));
    }
    left.extend(topic_arn(aws, stack).await?.map(|arn| format!("topic {arn}")));
    left.extend(alarms(aws, stack).await?.into_keys().map(|name| format!("alarm {name}")));
    let dashboards = aws.cloudwatch.list_dashboards().dashboard_name_prefix(stack).send().await;
    let dashboards = dashboards.explain("cloudwatch:ListDashboards", aws)?;
    let names = dashboards.dashboard_entries().iter().filter_map(|entry| entry.dashboard_name());
    left.extend(names.filter(|name| *name == stack).map(|name| format!("dashboard {name}")));
    left.dedup();
    Ok(left)
}
