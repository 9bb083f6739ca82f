//! Destroying a stack: all that bears its tag, and a look that nothing is left.

use std::time::{Duration, Instant};

use anyhow::bail;
use aws_sdk_ec2::types::{Filter, NetworkInterface, VolumeState};

use super::aws::{Aws, Explain};
use super::desired::{dashboard_name, is_our_dashboard};
use super::discover::{self, A_PAGE, by_tag, dashboard, filter, topic_arn, topic_of_name};
use super::errors::{Class, class_of, unless};
use super::plan::DELETED_AT_ONCE;
use super::{alarms, instances};
use deploy::console;

/// How long instances may take to be gone.
const GONE_TIME: Duration = Duration::from_secs(600);
/// How long a security group may seem to be used whose instances are gone.
const USED_TIME: Duration = Duration::from_secs(60);
/// How long something may seem to be there that was deleted without an error.
const LEFT_TIME: Duration = Duration::from_secs(60);
/// Between two looks, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// How many disks one answer has, at most.
const VOLUMES_A_PAGE: i32 = 500;

/// Destroys all that bears the tag of the stack, or its name where there are no tags, and looks that nothing is left.
///
/// All of it is tried, whatever fails. Instances cost nothing from the moment on that they are told to end; this waits
/// until they are gone, since only then their disks are, and the security group can be deleted. AWS's answers may be older than
/// what was done: nothing is called gone before a look that is `settle` after the first one, and nothing left within a minute, unless
/// it failed for a reason that stays.
///
/// # Errors
/// What failed, and what is left, with ids.
pub(super) async fn destroy(aws: &Aws, stack: &str, settle: Duration) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut first_look: Option<Instant> = None;
    let mut pause = PAUSES.0;
    loop {
        let looked = Instant::now();
        let errors = destroy_what_is_seen(aws, stack).await;
        let why: String = errors.iter().map(|error| format!("\n  {error:#}")).collect();
        let left = left(aws, stack).await;
        // Instances may have taken minutes to be gone: the minute begins when that is over.
        let first_look = *first_look.get_or_insert_with(Instant::now);
        match left {
            Ok(left) if left.is_empty() && looked.duration_since(start) >= settle => {
                // What failed was not needed after all, or somebody else did it.
                errors.iter().for_each(|error| console::note(&format!("{error:#}")));
                return Ok(());
            }
            // What was launched just now may be in no answer yet.
            Ok(left) if left.is_empty() => tokio::time::sleep(settle.saturating_sub(start.elapsed())).await,
            Ok(left) if errors.iter().any(stays) || first_look.elapsed() >= LEFT_TIME => {
                bail!("these are left: {}{why}", left.join(", "))
            }
            Ok(_) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
            Err(error) => bail!("what is left is not known: {error:#}{why}"),
        }
    }
}

/// Whether an error will be the same in a minute. (A missing permission may be the tag of a thing that is gone.)
fn stays(error: &anyhow::Error) -> bool {
    let stays = [Class::Protected, Class::Credentials, Class::Expired, Class::Organization, Class::InUse];
    class_of(error).is_none_or(|class| stays.contains(&class))
}

/// Destroys what is in AWS's answers now; gives what failed.
async fn destroy_what_is_seen(aws: &Aws, stack: &str) -> Vec<anyhow::Error> {
    let (instances, alarms, dashboard, topic, key_pair) = tokio::join!(
        end_instances(aws, stack),
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

/// Ends all instances, and waits until they are gone.
async fn end_instances(aws: &Aws, stack: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + GONE_TIME;
    let mut pause = PAUSES.0;
    let mut bar = None;
    loop {
        let seen = discover::instances(aws, stack).await?;
        let count = seen.there.len() + seen.going.len();
        if count == 0 {
            return Ok(());
        }
        let (total, bar) = bar
            .get_or_insert_with(|| (count, console::Steps::new("waiting for instances to be gone", count)));
        bar.set(total.saturating_sub(count));
        if Instant::now() >= deadline {
            let there = seen.there.into_iter().map(|instance| instance.id);
            let left: Vec<_> = there.chain(seen.going).collect();
            bail!("instances are still not gone after {GONE_TIME:?}: {}", left.join(", "));
        }
        if !seen.there.is_empty() {
            instances::end(aws, seen.there.iter().map(|instance| instance.id.clone()).collect()).await?;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
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
    let gone = aws.cloudwatch.delete_dashboards().dashboard_names(name).send().await;
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
    let found = discover::groups(aws, by_tag(stack)).await?;
    for id in found.iter().filter_map(|group| group.group_id()) {
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
    let call = aws.ec2.describe_network_interfaces().filters(filter("group-id", group)).max_results(A_PAGE);
    let found = call.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    let found = found.explain("ec2:DescribeNetworkInterfaces", aws)?;
    let user = |interface: &NetworkInterface| {
        let instance = interface.attachment().and_then(|attachment| attachment.instance_id());
        instance.or(interface.network_interface_id()).unwrap_or("something without an id").to_owned()
    };
    Ok(found.iter().map(user).collect())
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

/// Disks that are there, and are not about to be gone.
async fn volumes(aws: &Aws, stack: &str) -> anyhow::Result<Vec<(String, Option<VolumeState>)>> {
    let call = aws.ec2.describe_volumes().filters(by_tag(stack)).max_results(VOLUMES_A_PAGE);
    let found = call.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    let found = found.explain("ec2:DescribeVolumes", aws)?.into_iter();
    let volumes = found.filter_map(|volume| Some((volume.volume_id?, volume.state)));
    Ok(volumes
        .filter(|(_, state)| !matches!(state, Some(VolumeState::Deleting | VolumeState::Deleted)))
        .collect())
}

/// What there still is of a stack, with ids. What only bears its name is not ours, and is told.
async fn left(aws: &Aws, stack: &str) -> anyhow::Result<Vec<String>> {
    let seen = discover::instances(aws, stack).await?;
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
    left.extend(discover::alarms(aws, stack).await?.into_keys().map(|name| format!("alarm {name}")));
    let name = format!("dashboard {}", dashboard_name(stack, &aws.region));
    match dashboard(aws, stack).await? {
        Some(body) if is_our_dashboard(&body, stack, &aws.region) => left.push(name),
        Some(_) => strangers.push(name),
        None => {}
    }
    strangers.retain(|stranger| !left.contains(stranger));
    if !strangers.is_empty() {
        console::note(&format!(
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
    let found = discover::groups(aws, of).await?;
    let ids = found.iter().filter_map(|group| group.group_id());
    Ok(ids.map(|id| format!("security group {id}")).collect())
}
