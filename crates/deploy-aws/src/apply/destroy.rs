//! Destroys a stack: everything with its tag; and checks that nothing is left.

use std::time::{Duration, Instant};

use anyhow::bail;
use aws_sdk_ec2::types::{Filter, NetworkInterface, VolumeState};

use crate::apply::alarms;
use crate::apply::instances;
use crate::aws::{Aws, Explain};
use crate::desired::{dashboard_name, is_our_dashboard};
use crate::discover::{self, A_PAGE, by_tag, dashboard, filter, topic_arn, topic_of_name};
use crate::errors::{Class, class_of, ignore};
use crate::plan::DELETED_AT_ONCE;
use crate::polling::Polling;
use deploy::console;

/// How long instances may take to terminate.
const TERMINATION_TIME: Duration = Duration::from_secs(600);
/// How long a security group may be in use after its instances have terminated.
const USED_TIME: Duration = Duration::from_secs(60);
/// How long something may stay visible after it was deleted without an error.
const LEFT_TIME: Duration = Duration::from_secs(60);
/// How many disks one answer has at most.
const VOLUMES_A_PAGE: i32 = 500;

/// Destroys everything with the tag of the stack, or with its name where there are no tags, and checks that nothing is left.
///
/// A failed step does not keep the others from being tried. Instances cost nothing once they are told to terminate; this waits
/// until they have, since only then their disks are gone and the security group can be deleted. AWS's answers may be old:
/// something new may be invisible for `settle`, so nothing counts as gone before a check that is this much later than the
/// first; and what is deleted may stay visible for [`LEFT_TIME`].
///
/// # Errors
/// Something is left; the error lists it with ids, and what failed.
pub(crate) async fn destroy(aws: &Aws, stack: &str, settle: Duration) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut visible: Option<Polling> = None;
    loop {
        let checked = Instant::now();
        let errors = destroy_visible(aws, stack).await;
        let reasons: String = errors.iter().map(|error| format!("\n  {error:#}")).collect();
        let left = left(aws, stack).await;
        // Begins only now, since instances may take minutes to terminate.
        let visible = visible.get_or_insert_with(|| Polling::until(LEFT_TIME));
        match left {
            Ok(left) if left.is_empty() && checked.duration_since(start) >= settle => {
                // The calls that failed were not needed, or another command has done their work.
                errors.iter().for_each(|error| console::note(&format!("{error:#}")));
                return Ok(());
            }
            // What was just launched may be in no answer yet.
            Ok(left) if left.is_empty() => tokio::time::sleep(settle.saturating_sub(start.elapsed())).await,
            Ok(left) if errors.iter().any(is_permanent) || visible.is_over() => {
                bail!("these are left: {}{reasons}", left.join(", "))
            }
            Ok(_) => visible.pause().await,
            Err(error) => bail!("cannot tell what is left: {error:#}{reasons}"),
        }
    }
}

/// Whether an error will be the same in a minute. A missing permission may not: it may depend on a tag that is already gone.
fn is_permanent(error: &anyhow::Error) -> bool {
    let permanent = [Class::Protected, Class::Credentials, Class::Expired, Class::Organization, Class::InUse];
    class_of(error).is_none_or(|class| permanent.contains(&class))
}

/// Destroys what AWS's answers show now; returns what failed.
async fn destroy_visible(aws: &Aws, stack: &str) -> Vec<anyhow::Error> {
    let (instances, alarms, dashboard, topic, key_pair) = tokio::join!(
        terminate_instances(aws, stack),
        delete_alarms(aws, stack),
        delete_dashboard(aws, stack),
        delete_topic(aws, stack),
        delete_key_pair(aws, stack),
    );
    let group = delete_group(aws, stack).await;
    let volumes = delete_volumes(aws, stack).await;
    let outcomes = [instances, alarms, dashboard, topic, key_pair, group, volumes];
    outcomes.into_iter().filter_map(Result::err).collect()
}

/// Terminates all instances, and waits until they have terminated.
async fn terminate_instances(aws: &Aws, stack: &str) -> anyhow::Result<()> {
    let mut polling = Polling::until(TERMINATION_TIME);
    let mut bar = None;
    loop {
        let found = discover::instances(aws, stack).await?;
        let count = found.live.len() + found.shutting_down.len();
        if count == 0 {
            return Ok(());
        }
        let (total, bar) = bar
            .get_or_insert_with(|| (count, console::Steps::new("waiting for instances to be gone", count)));
        bar.set(total.saturating_sub(count));
        if polling.is_over() {
            let live = found.live.into_iter().map(|instance| instance.id);
            let left: Vec<_> = live.chain(found.shutting_down).collect();
            bail!(
                "instances have not terminated within {TERMINATION_TIME:?}: {}; try again: cargo xtask down",
                left.join(", ")
            );
        }
        if !found.live.is_empty() {
            instances::terminate(aws, found.live.iter().map(|instance| instance.id.clone()).collect())
                .await?;
        }
        polling.pause().await;
    }
}

async fn delete_alarms(aws: &Aws, stack: &str) -> anyhow::Result<()> {
    let names: Vec<_> = discover::alarms(aws, stack).await?.into_keys().collect();
    let mut pace = alarms::pace();
    for names in names.chunks(DELETED_AT_ONCE) {
        pace.tick().await;
        alarms::delete(aws, names).await?;
    }
    Ok(())
}

async fn delete_dashboard(aws: &Aws, stack: &str) -> anyhow::Result<()> {
    let Some(body) = dashboard(aws, stack).await? else { return Ok(()) };
    if !is_our_dashboard(&body, stack, &aws.region) {
        return Ok(());
    }
    let name = dashboard_name(stack, &aws.region);
    let deleted = aws.cloudwatch.delete_dashboards().dashboard_names(name).send().await;
    ignore(Class::NotFound, deleted.explain("cloudwatch:DeleteDashboards", aws).map(drop))
}

/// Deletes the topic with its subscriptions.
async fn delete_topic(aws: &Aws, stack: &str) -> anyhow::Result<()> {
    let Some(arn) = topic_arn(aws, stack).await? else { return Ok(()) };
    let deleted = aws.sns.delete_topic().topic_arn(arn).send().await;
    ignore(Class::NotFound, deleted.explain("sns:DeleteTopic", aws).map(drop))
}

async fn delete_key_pair(aws: &Aws, stack: &str) -> anyhow::Result<()> {
    let found = aws.ec2.describe_key_pairs().filters(by_tag(stack)).send().await;
    for pair in found.explain("ec2:DescribeKeyPairs", aws)?.key_pairs() {
        let deleted = aws.ec2.delete_key_pair().set_key_name(pair.key_name().map(str::to_owned)).send().await;
        ignore(Class::NotFound, deleted.explain("ec2:DeleteKeyPair", aws).map(drop))?;
    }
    Ok(())
}

/// Deletes the security group. If something uses it, these may be instances that were launched too late to be visible before.
async fn delete_group(aws: &Aws, stack: &str) -> anyhow::Result<()> {
    let found = discover::groups(aws, by_tag(stack)).await?;
    for id in found.iter().filter_map(|group| group.group_id()) {
        let mut polling = Polling::until(USED_TIME);
        loop {
            let deleted = aws.ec2.delete_security_group().group_id(id).send().await;
            match deleted.explain("ec2:DeleteSecurityGroup", aws) {
                Err(error) if class_of(&error) == Some(Class::InUse) => {
                    terminate_instances(aws, stack).await?;
                    if polling.is_over() {
                        let users = users(aws, id).await?.join(", ");
                        return Err(
                            error.context(format!("something else uses the security group {id}: {users}"))
                        );
                    }
                }
                deleted => break ignore(Class::NotFound, deleted.map(drop))?,
            }
            polling.pause().await;
        }
    }
    Ok(())
}

/// What uses a security group: ids of instances, or of network interfaces.
async fn users(aws: &Aws, group: &str) -> anyhow::Result<Vec<String>> {
    let call = aws.ec2.describe_network_interfaces().filters(filter("group-id", group)).max_results(A_PAGE);
    let found = call.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    let found = found.explain("ec2:DescribeNetworkInterfaces", aws)?;
    let user = |interface: &NetworkInterface| {
        let instance = interface.attachment().and_then(|attachment| attachment.instance_id());
        instance.or(interface.network_interface_id()).unwrap_or("something without an id").to_owned()
    };
    Ok(found.iter().map(user).collect())
}

/// Deletes disks that outlived their instances.
async fn delete_volumes(aws: &Aws, stack: &str) -> anyhow::Result<()> {
    for (id, state) in volumes(aws, stack).await? {
        if state == Some(VolumeState::Available) {
            let deleted = aws.ec2.delete_volume().volume_id(id).send().await;
            ignore(Class::NotFound, deleted.explain("ec2:DeleteVolume", aws).map(drop))?;
        }
    }
    Ok(())
}

/// Disks that are not being deleted.
async fn volumes(aws: &Aws, stack: &str) -> anyhow::Result<Vec<(String, Option<VolumeState>)>> {
    let call = aws.ec2.describe_volumes().filters(by_tag(stack)).max_results(VOLUMES_A_PAGE);
    let found = call.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    let found = found.explain("ec2:DescribeVolumes", aws)?.into_iter();
    let volumes = found.filter_map(|volume| Some((volume.volume_id?, volume.state)));
    Ok(volumes
        .filter(|(_, state)| !matches!(state, Some(VolumeState::Deleting | VolumeState::Deleted)))
        .collect())
}

/// What is left of a stack, with ids. Prints what has only the stack's name and is not ours.
async fn left(aws: &Aws, stack: &str) -> anyhow::Result<Vec<String>> {
    let found = discover::instances(aws, stack).await?;
    let mut left: Vec<_> = found.live.iter().map(|instance| format!("instance {}", instance.id)).collect();
    left.extend(found.shutting_down.iter().map(|id| format!("instance {id} (ending)")));
    left.extend(volumes(aws, stack).await?.into_iter().map(|(id, _)| format!("volume {id}")));
    let pairs = key_pairs(aws, by_tag(stack)).await?;
    let mut foreign = key_pairs(aws, filter("key-name", stack)).await?;
    foreign.extend(groups(aws, filter("group-name", stack)).await?);
    left.extend(pairs);
    left.extend(groups(aws, by_tag(stack)).await?);
    match (topic_of_name(aws, stack).await?, topic_arn(aws, stack).await?) {
        (_, Some(arn)) => left.push(format!("topic {arn}")),
        (Some(arn), None) => foreign.push(format!("topic {arn}")),
        (None, None) => {}
    }
    left.extend(discover::alarms(aws, stack).await?.into_keys().map(|name| format!("alarm {name}")));
    let name = format!("dashboard {}", dashboard_name(stack, &aws.region));
    match dashboard(aws, stack).await? {
        Some(body) if is_our_dashboard(&body, stack, &aws.region) => left.push(name),
        Some(_) => foreign.push(name),
        None => {}
    }
    foreign.retain(|thing| !left.contains(thing));
    if !foreign.is_empty() {
        console::note(&format!(
            "of the same name, but not of the stack, and left alone: {}",
            foreign.join(", ")
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
    let found = discover::groups(aws, of).await?;
    let ids = found.iter().filter_map(|group| group.group_id());
    Ok(ids.map(|id| format!("security group {id}")).collect())
}
