//! Discovers a stack's resources in the cloud by their tag or name, never from a record in this folder.

pub(crate) mod placement;
pub(crate) mod prices;
pub(crate) mod state;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types::{Filter, InstanceStateName, IpPermission, Reservation, SecurityGroup, Tag};

use crate::aws::{Aws, Explain};
use crate::desired::{
    EXPIRES_TAG, FINGERPRINT_TAG, ROLE_TAG, TAG, alarm_prefix, dashboard_name, is_our_alarm,
};
use crate::discover::state::{Alarm, Group, Instance, KeyPair, Life, Rule, Source, State, Topic};
use crate::errors::{ApiError, Class, class_of};
use deploy_ssh::inventory::Role;

/// How many items one answer of EC2 has at most. Without such a limit, EC2 answers with all at once or fails.
pub(crate) const A_PAGE: i32 = 1000;

/// Selects what has the stack's tag.
pub(crate) fn by_tag(stack: &str) -> Filter {
    filter(&format!("tag:{TAG}"), stack)
}

pub(crate) fn filter(name: &str, value: &str) -> Filter {
    Filter::builder().name(name).values(value).build()
}

/// The state of a stack.
pub(crate) async fn discover(aws: &Aws, stack: &str) -> anyhow::Result<State> {
    let (key_pair, group, instances, topic, alarms, dashboard) = tokio::try_join!(
        key_pair(aws, stack),
        group(aws, stack),
        instances(aws, stack),
        topic(aws, stack),
        alarms(aws, stack),
        dashboard(aws, stack),
    )?;
    let ended_recently = !instances.ended.is_empty();
    Ok(State { key_pair, group, instances: instances.live, topic, alarms, dashboard, ended_recently })
}

pub(crate) async fn key_pair(aws: &Aws, stack: &str) -> anyhow::Result<Option<KeyPair>> {
    let call = aws.ec2.describe_key_pairs().filters(by_tag(stack)).include_public_key(true);
    let found = call.send().await.explain("ec2:DescribeKeyPairs", aws)?;
    let Some(pair) = found.key_pairs().first() else { return Ok(None) };
    Ok(Some(KeyPair { public_key: without_comment(pair.public_key().unwrap_or_default()) }))
}

/// The key pair of a name, of this stack or not.
pub(crate) async fn key_pair_of_name(aws: &Aws, name: &str) -> anyhow::Result<KeyPair> {
    let call = aws.ec2.describe_key_pairs().key_names(name).include_public_key(true);
    let found = call.send().await.explain("ec2:DescribeKeyPairs", aws)?;
    let pair = found.key_pairs().first().with_context(|| format!("there is no key pair {name}"))?;
    Ok(KeyPair { public_key: without_comment(pair.public_key().unwrap_or_default()) })
}

/// A public key without its comment, which EC2 does not keep as it was.
pub(crate) fn without_comment(key: &str) -> String {
    key.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

pub(crate) async fn group(aws: &Aws, stack: &str) -> anyhow::Result<Option<Group>> {
    let found = groups(aws, by_tag(stack)).await?;
    let group = match found.as_slice() {
        [] => return Ok(None),
        [group] => group,
        [one, other, ..] => bail!(
            "the stack {stack} has two security groups, {} and {}; take it down with: cargo xtask down",
            one.group_id().unwrap_or_default(),
            other.group_id().unwrap_or_default()
        ),
    };
    let id = group.group_id().context("a security group has no id")?.to_owned();
    let vpc = group.vpc_id().context("a security group has no VPC")?.to_owned();
    let rules = group.ip_permissions().iter().flat_map(|permission| rules(permission, &id)).collect();
    Ok(Some(Group { id, vpc, rules }))
}

pub(crate) async fn groups(aws: &Aws, of: Filter) -> anyhow::Result<Vec<SecurityGroup>> {
    let pages = aws.ec2.describe_security_groups().filters(of).max_results(A_PAGE).into_paginator();
    let found = pages.items().send().collect::<Result<_, _>>().await;
    found.explain("ec2:DescribeSecurityGroups", aws)
}

/// The security groups of a name, of this stack or not.
///
/// # Errors
/// None is visible yet: [`Class::NotFound`].
pub(crate) async fn groups_of_name(aws: &Aws, name: &str) -> anyhow::Result<Vec<SecurityGroup>> {
    let found = groups(aws, filter("group-name", name)).await?;
    if found.is_empty() {
        let message = format!("no security group {name} is visible yet");
        return Err(ApiError::new(
            "ec2:DescribeSecurityGroups",
            &aws.region,
            "InvalidGroup.NotFound",
            &message,
        )
        .into());
    }
    Ok(found)
}

/// The rules of a permission. `own` is the id of its group.
fn rules(permission: &IpPermission, own: &str) -> BTreeSet<Rule> {
    let v4 = permission.ip_ranges().iter().filter_map(|range| range.cidr_ip());
    let v6 = permission.ipv6_ranges().iter().filter_map(|range| range.cidr_ipv6());
    let networks = v4.chain(v6).map(|network| Source::Network(network.to_owned()));
    let groups = permission.user_id_group_pairs().iter().filter_map(|pair| pair.group_id());
    let groups = groups.map(|id| if id == own { Source::Members } else { Source::Group(id.to_owned()) });
    let lists = permission.prefix_list_ids().iter().filter_map(|list| list.prefix_list_id());
    let lists = lists.map(|id| Source::PrefixList(id.to_owned()));
    let protocol = permission.ip_protocol().unwrap_or("-1").to_owned();
    let ports = permission.from_port().zip(permission.to_port()).filter(|_| protocol != "-1");
    let rule = |source| Rule { protocol: protocol.clone(), ports, source };
    networks.chain(groups).chain(lists).map(rule).collect()
}

/// The instances of a stack.
#[derive(Debug, Default)]
pub(crate) struct Instances {
    /// Sorted.
    pub(crate) live: Vec<Instance>,
    /// The ids of those that shut down; they still use disks and security groups.
    pub(crate) shutting_down: BTreeSet<String>,
    /// Those that shut down or have terminated in the last hour, by id.
    pub(crate) ended: BTreeMap<String, Ended>,
}

/// EC2's reason for the end of an instance.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// The instances of a stack.
pub(crate) async fn instances(aws: &Aws, stack: &str) -> anyhow::Result<Instances> {
    let call = aws.ec2.describe_instances().filters(by_tag(stack)).max_results(A_PAGE);
    let mut pages = call.into_paginator().send();
    let mut instances = Instances::default();
    while let Some(page) = pages.next().await {
        let page = page.explain("ec2:DescribeInstances", aws)?;
        for found in page.reservations().iter().flat_map(Reservation::instances) {
            let id = found.instance_id().context("an instance has no id")?.to_owned();
            let life = match found.state().and_then(|state| state.name()) {
                Some(InstanceStateName::Pending) => Life::Pending,
                Some(InstanceStateName::Stopping | InstanceStateName::Stopped) => Life::Stopped,
                Some(InstanceStateName::ShuttingDown) => {
                    instances.shutting_down.insert(id.clone());
                    instances.ended.insert(id, ended(found));
                    continue;
                }
                Some(InstanceStateName::Terminated) => {
                    instances.ended.insert(id, ended(found));
                    continue;
                }
                _ => Life::Running,
            };
            instances.live.push(instance(id, life, found));
        }
    }
    instances.live.sort();
    Ok(instances)
}

fn ended(found: &aws_sdk_ec2::types::Instance) -> Ended {
    let reason = found.state_reason();
    let message = reason.and_then(|reason| reason.message());
    let message = message.or(found.state_transition_reason()).unwrap_or("EC2 gives no reason");
    let code = reason.and_then(|reason| reason.code()).unwrap_or_default();
    Ended { code: code.to_owned(), message: message.to_owned() }
}

fn instance(id: String, life: Life, found: &aws_sdk_ec2::types::Instance) -> Instance {
    let tag = |key: &str| value(found.tags(), key);
    let expires = tag(EXPIRES_TAG).and_then(|time| humantime::parse_rfc3339(time).ok());
    let expires = expires.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    Instance {
        role: tag(ROLE_TAG).and_then(|word| Role::ALL.into_iter().find(|role| role.word() == word)),
        launched: found.launch_time().map_or(0, DateTime::secs),
        id,
        life,
        instance_type: found.instance_type().map_or("", |kind| kind.as_str()).to_owned(),
        image: found.image_id().unwrap_or_default().to_owned(),
        zone: found.placement().and_then(|at| at.availability_zone()).unwrap_or_default().to_owned(),
        is_spot: found.instance_lifecycle().is_some(),
        public_address: found.public_ip_address().map(str::to_owned),
        private_address: found.private_ip_address().map(str::to_owned),
        expires: expires.map(|time| time.as_secs() as i64),
        fingerprint: tag(FINGERPRINT_TAG).map(str::to_owned),
    }
}

pub(crate) fn has_tag(tags: &[Tag], stack: &str) -> bool {
    value(tags, TAG) == Some(stack)
}

fn value<'a>(tags: &'a [Tag], key: &str) -> Option<&'a str> {
    tags.iter().find(|tag| tag.key() == Some(key)).and_then(Tag::value)
}

async fn topic(aws: &Aws, stack: &str) -> anyhow::Result<Option<Topic>> {
    let Some(arn) = topic_arn(aws, stack).await? else { return Ok(None) };
    let call = aws.sns.list_subscriptions_by_topic().topic_arn(&arn);
    let mut pages = call.into_paginator().send();
    let mut subscriptions = BTreeMap::new();
    while let Some(page) = pages.next().await {
        let page = match page.explain("sns:ListSubscriptionsByTopic", aws) {
            // It has just been deleted.
            Err(error) if class_of(&error) == Some(Class::NotFound) => return Ok(None),
            page => page?,
        };
        let sms = page.subscriptions().iter().filter(|subscription| subscription.protocol() == Some("sms"));
        for subscription in sms {
            // A subscription that is being deleted has a word in place of its ARN.
            let arn = subscription.subscription_arn().filter(|arn| arn.starts_with("arn:"));
            if let (Some(number), Some(arn)) = (subscription.endpoint(), arn) {
                subscriptions.insert(number.to_owned(), arn.to_owned());
            }
        }
    }
    Ok(Some(Topic { arn, subscriptions }))
}

/// The topic with a stack's name and tag.
pub(crate) async fn topic_arn(aws: &Aws, stack: &str) -> anyhow::Result<Option<String>> {
    let Some(arn) = topic_of_name(aws, stack).await? else { return Ok(None) };
    let tags = aws.sns.list_tags_for_resource().resource_arn(&arn).send().await;
    let tags = match tags.explain("sns:ListTagsForResource", aws) {
        // It has just been deleted.
        Err(error) if class_of(&error) == Some(Class::NotFound) => return Ok(None),
        tags => tags?,
    };
    Ok(tags.tags().iter().any(|tag| tag.key() == TAG && tag.value() == stack).then_some(arn))
}

/// The topic of this name, of this stack or not.
pub(crate) async fn topic_of_name(aws: &Aws, stack: &str) -> anyhow::Result<Option<String>> {
    let mut pages = aws.sns.list_topics().into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = page.explain("sns:ListTopics", aws)?;
        let mut arns = page.topics().iter().filter_map(|topic| topic.topic_arn());
        if let Some(arn) = arns.find(|arn| arn.rsplit(':').next() == Some(stack)) {
            return Ok(Some(arn.to_owned()));
        }
    }
    Ok(None)
}

pub(crate) async fn alarms(aws: &Aws, stack: &str) -> anyhow::Result<BTreeMap<String, Alarm>> {
    let mut pages = aws
        .cloudwatch
        .describe_alarms()
        .alarm_name_prefix(alarm_prefix(stack))
        .max_records(100)
        .into_paginator()
        .send();
    let mut alarms = BTreeMap::new();
    while let Some(page) = pages.next().await {
        for found in page.explain("cloudwatch:DescribeAlarms", aws)?.metric_alarms() {
            let name = found.alarm_name().context("an alarm has no name")?.to_owned();
            if !is_our_alarm(&name, stack) {
                continue;
            }
            let instance = found.dimensions().iter().find(|dimension| dimension.name() == Some("InstanceId"));
            let alarm = Alarm {
                instance: instance.and_then(|instance| instance.value()).unwrap_or_default().to_owned(),
                metric: found.metric_name().unwrap_or_default().to_owned(),
                minutes: found
                    .evaluation_periods()
                    .zip(found.period())
                    .filter(|_| found.actions_enabled() != Some(false))
                    .map(|(periods, seconds)| periods * seconds / 60),
                actions: found.alarm_actions().to_vec(),
            };
            alarms.insert(name, alarm);
        }
    }
    Ok(alarms)
}

pub(crate) async fn dashboard(aws: &Aws, stack: &str) -> anyhow::Result<Option<serde_json::Value>> {
    let name = dashboard_name(stack, &aws.region);
    let found = aws.cloudwatch.get_dashboard().dashboard_name(name).send().await;
    match found.explain("cloudwatch:GetDashboard", aws) {
        // A body that is no JSON is not ours.
        Ok(found) => {
            Ok(Some(serde_json::from_str(found.dashboard_body().unwrap_or_default()).unwrap_or_default()))
        }
        Err(error) if class_of(&error) == Some(Class::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
