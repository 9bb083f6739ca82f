//! What there is in the cloud: found by tag, never by what is remembered here.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, anyhow, bail, ensure};
use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types::{
    ArchitectureValues, Filter, InstanceStateName, IpPermission, Reservation, RouteTable, Tag,
};

use super::aws::{Aws, Class, Explain, class_of};
use super::desired::{EXPIRES_TAG, FINGERPRINT_TAG, ROLE_TAG, TAG, alarm_prefix, is_our_alarm};
use super::state::{Alarm, Group, Instance, KeyPair, Life, Rule, Source, State, Topic};
use crate::hosts::Role;

/// Who makes Ubuntu's images.
const CANONICAL: &str = "099720109477";

/// Filters for what bears the stack's tag.
pub(super) fn by_tag(stack: &str) -> Filter {
    filter(&format!("tag:{TAG}"), stack)
}

pub(super) fn filter(name: &str, value: &str) -> Filter {
    Filter::builder().name(name).values(value).build()
}

/// All that there is of a stack.
pub(super) async fn look(aws: &Aws, stack: &str) -> anyhow::Result<State> {
    let (key_pair, group, instances, topic, alarms, dashboard) = tokio::try_join!(
        key_pair(aws, stack),
        group(aws, stack),
        instances(aws, stack),
        topic(aws, stack),
        alarms(aws, stack),
        dashboard(aws, stack),
    )?;
    Ok(State { key_pair, group, instances: instances.there, topic, alarms, dashboard })
}

pub(super) async fn key_pair(aws: &Aws, stack: &str) -> anyhow::Result<Option<KeyPair>> {
    let call = aws.ec2.describe_key_pairs().filters(by_tag(stack)).include_public_key(true);
    let found = call.send().await.explain("ec2:DescribeKeyPairs", aws)?;
    let Some(pair) = found.key_pairs().first() else { return Ok(None) };
    let id = pair.key_pair_id().context("a key pair has no id")?.to_owned();
    Ok(Some(KeyPair { id, public_key: without_comment(pair.public_key().unwrap_or_default()) }))
}

/// A public key without its comment, which EC2 does not keep as it was.
pub(super) fn without_comment(key: &str) -> String {
    key.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

pub(super) async fn group(aws: &Aws, stack: &str) -> anyhow::Result<Option<Group>> {
    let call = aws.ec2.describe_security_groups().filters(by_tag(stack));
    let found = call.send().await.explain("ec2:DescribeSecurityGroups", aws)?;
    let group = match found.security_groups() {
        [] => return Ok(None),
        [group] => group,
        [one, other, ..] => bail!(
            "the stack {stack} has two security groups, {} and {}; take it down: cargo xtask down",
            one.group_id().unwrap_or_default(),
            other.group_id().unwrap_or_default()
        ),
    };
    let id = group.group_id().context("a security group has no id")?.to_owned();
    let vpc = group.vpc_id().context("a security group has no VPC")?.to_owned();
    let rules = group.ip_permissions().iter().flat_map(|permission| rules(permission, &id)).collect();
    Ok(Some(Group { id, vpc, rules }))
}

/// The rules that a permission consists of.
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
pub(super) struct Instances {
    /// Those that are there.
    pub(super) there: Vec<Instance>,
    /// Those that go, by id; they still use what they have.
    pub(super) going: BTreeSet<String>,
    /// Why those have gone that were there a while ago, by id.
    pub(super) gone: BTreeMap<String, String>,
}

/// The instances of a stack.
pub(super) async fn instances(aws: &Aws, stack: &str) -> anyhow::Result<Instances> {
    let mut pages = aws.ec2.describe_instances().filters(by_tag(stack)).into_paginator().send();
    let mut instances = Instances::default();
    while let Some(page) = pages.next().await {
        let page = page.explain("ec2:DescribeInstances", aws)?;
        for found in page.reservations().iter().flat_map(Reservation::instances) {
            let id = found.instance_id().context("an instance has no id")?.to_owned();
            let life = match found.state().and_then(|state| state.name()) {
                Some(InstanceStateName::Pending) => Life::Pending,
                Some(InstanceStateName::Stopping | InstanceStateName::Stopped) => Life::Stopped,
                Some(name @ (InstanceStateName::ShuttingDown | InstanceStateName::Terminated)) => {
                    let reason = found.state_reason().and_then(|reason| reason.message());
                    let reason = reason.or(found.state_transition_reason()).unwrap_or("nobody knows why");
                    instances.gone.insert(id.clone(), reason.to_owned());
                    if *name == InstanceStateName::ShuttingDown {
                        instances.going.insert(id);
                    }
                    continue;
                }
                _ => Life::Running,
            };
            let tag = |key: &str| value(found.tags(), key);
            let expires = tag(EXPIRES_TAG).and_then(|time| humantime::parse_rfc3339(time).ok());
            let expires = expires.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            instances.there.push(Instance {
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
            });
        }
    }
    instances.there.sort();
    Ok(instances)
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
            // It was deleted just now.
            Err(error) if class_of(&error) == Some(Class::NotFound) => return Ok(None),
            page => page?,
        };
        let texts = page.subscriptions().iter().filter(|subscription| subscription.protocol() == Some("sms"));
        for subscription in texts {
            // One that is about to be deleted has no ARN any more, but a word in its place.
            let arn = subscription.subscription_arn().filter(|arn| arn.starts_with("arn:"));
            if let (Some(number), Some(arn)) = (subscription.endpoint(), arn) {
                subscriptions.insert(number.to_owned(), arn.to_owned());
            }
        }
    }
    Ok(Some(Topic { arn, subscriptions }))
}

/// The topic of a stack: of its name, and with its tag.
pub(super) async fn topic_arn(aws: &Aws, stack: &str) -> anyhow::Result<Option<String>> {
    let Some(arn) = topic_of_name(aws, stack).await? else { return Ok(None) };
    let tags = aws.sns.list_tags_for_resource().resource_arn(&arn).send().await;
    let tags = match tags.explain("sns:ListTagsForResource", aws) {
        // It was deleted just now.
        Err(error) if class_of(&error) == Some(Class::NotFound) => return Ok(None),
        tags => tags?,
    };
    Ok(tags.tags().iter().any(|tag| tag.key() == TAG && tag.value() == stack).then_some(arn))
}

/// The topic of this name, whoever's it is.
pub(super) async fn topic_of_name(aws: &Aws, stack: &str) -> anyhow::Result<Option<String>> {
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

pub(super) async fn alarms(aws: &Aws, stack: &str) -> anyhow::Result<BTreeMap<String, Alarm>> {
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
                topics: found.alarm_actions().to_vec(),
            };
            alarms.insert(name, alarm);
        }
    }
    Ok(alarms)
}

pub(super) async fn dashboard(aws: &Aws, stack: &str) -> anyhow::Result<Option<serde_json::Value>> {
    let found = aws.cloudwatch.get_dashboard().dashboard_name(stack).send().await;
    match found.explain("cloudwatch:GetDashboard", aws) {
        // What cannot be understood is not what it should be, and is replaced.
        Ok(found) => {
            Ok(Some(serde_json::from_str(found.dashboard_body().unwrap_or_default()).unwrap_or_default()))
        }
        Err(error) if class_of(&error) == Some(Class::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where machines can be: a network that the internet reaches, and its zones.
#[derive(Debug, Clone)]
pub(super) struct Network {
    pub(super) vpc: String,
    /// Zones, each with a subnet.
    pub(super) subnets: BTreeMap<String, String>,
}

impl Network {
    /// The account's default network, or the one of a subnet.
    ///
    /// # Errors
    /// There is none, or it is not on the internet.
    pub(super) async fn find(aws: &Aws, subnet: Option<&str>) -> anyhow::Result<Self> {
        match subnet {
            Some(subnet) => Self::of(aws, subnet).await,
            None => Self::default(aws).await,
        }
    }

    async fn default(aws: &Aws) -> anyhow::Result<Self> {
        let found = aws.ec2.describe_vpcs().filters(filter("is-default", "true")).send().await;
        let found = found.explain("ec2:DescribeVpcs", aws)?;
        let vpc = found.vpcs().first().and_then(|vpc| vpc.vpc_id()).with_context(|| {
            format!(
                "the account has no default VPC in {}; make one (aws ec2 create-default-vpc), or name a subnet that the \
                 internet reaches: --subnet ID",
                aws.region
            )
        })?;
        let call = aws
            .ec2
            .describe_subnets()
            .filters(filter("vpc-id", vpc))
            .filters(filter("default-for-az", "true"));
        let found = call.send().await.explain("ec2:DescribeSubnets", aws)?;
        let subnets = found.subnets().iter();
        let subnets: BTreeMap<_, _> = subnets
            .filter_map(|subnet| {
                Some((subnet.availability_zone()?.to_owned(), subnet.subnet_id()?.to_owned()))
            })
            .collect();
        ensure!(
            !subnets.is_empty(),
            "the default VPC {vpc} has no default subnets; name a subnet: --subnet ID"
        );
        Ok(Self { vpc: vpc.to_owned(), subnets })
    }

    async fn of(aws: &Aws, id: &str) -> anyhow::Result<Self> {
        let found = aws.ec2.describe_subnets().subnet_ids(id).send().await;
        let found = found
            .explain("ec2:DescribeSubnets", aws)
            .with_context(|| format!("looking for --subnet {id}"))?;
        let subnet = found.subnets().first().with_context(|| format!("there is no subnet {id}"))?;
        let vpc = subnet.vpc_id().context("a subnet has no VPC")?;
        let zone = subnet.availability_zone().context("a subnet has no zone")?;
        let tables = aws.ec2.describe_route_tables().filters(filter("vpc-id", vpc)).send().await;
        let tables = tables.explain("ec2:DescribeRouteTables", aws)?;
        let tables = tables.route_tables();
        // Its own, or else the main one of the VPC.
        let own =
            tables.iter().find(|table| table.associations().iter().any(|to| to.subnet_id() == Some(id)));
        let main =
            || tables.iter().find(|table| table.associations().iter().any(|to| to.main() == Some(true)));
        let routes = own.or_else(main).map(RouteTable::routes).unwrap_or_default();
        ensure!(
            routes.iter().any(|route| route.gateway_id().is_some_and(|gateway| gateway.starts_with("igw-"))),
            "the internet does not reach the subnet {id}, since its route table has no internet gateway; name another one"
        );
        Ok(Self { vpc: vpc.to_owned(), subnets: BTreeMap::from([(zone.to_owned(), id.to_owned())]) })
    }
}

/// What machines boot from.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) id: String,
    /// The name of its root volume.
    pub(super) root: String,
}

impl Image {
    /// The image of this id.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn find(aws: &Aws, id: &str) -> anyhow::Result<Self> {
        let found = aws.ec2.describe_images().image_ids(id).send().await;
        let found = found
            .explain("ec2:DescribeImages", aws)
            .with_context(|| format!("looking for the image {id}"))?;
        let image =
            found.images().first().with_context(|| format!("there is no image {id} in {}", aws.region))?;
        Ok(Self { id: id.to_owned(), root: image.root_device_name().unwrap_or("/dev/sda1").to_owned() })
    }

    /// The newest image of Ubuntu's newest release with long-term support, for processors of this machine's kind.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn newest_ubuntu(aws: &Aws) -> anyhow::Result<Self> {
        let (name, architecture) = match std::env::consts::ARCH {
            "aarch64" => ("arm64", ArchitectureValues::Arm64),
            _ => ("amd64", ArchitectureValues::X8664),
        };
        let call = aws
            .ec2
            .describe_images()
            .owners(CANONICAL)
            .filters(filter("name", &format!("ubuntu/images/hvm-ssd*/ubuntu-*-{name}-server-*")))
            .filters(filter("architecture", architecture.as_str()))
            .filters(filter("state", "available"));
        let mut pages = call.into_paginator().send();
        let mut newest: Option<(Release, Self)> = None;
        while let Some(page) = pages.next().await {
            for image in page.explain("ec2:DescribeImages", aws)?.images() {
                let (Some(id), Some(name), Some(root)) =
                    (image.image_id(), image.name(), image.root_device_name())
                else {
                    continue;
                };
                let Some(release) = release(name, image.creation_date().unwrap_or_default()) else {
                    continue;
                };
                if newest.as_ref().is_none_or(|(newest, _)| *newest < release) {
                    newest = Some((release, Self { id: id.to_owned(), root: root.to_owned() }));
                }
            }
        }
        let (_, image) = newest.ok_or_else(|| {
            anyhow!(
                "there is no image of an Ubuntu with long-term support in {}; name an image: --ami ID",
                aws.region
            )
        })?;
        Ok(image)
    }
}

/// A release of Ubuntu, and when its image was made; later is greater.
type Release = (u32, String);

/// The release that an image's name tells of, if it has long-term support: those of April of even years.
fn release(name: &str, made: &str) -> Option<Release> {
    // ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20240801
    let version = name.rsplit('/').next()?.split('-').nth(2)?;
    let year: u32 = version.strip_suffix(".04")?.parse().ok()?;
    year.is_multiple_of(2).then(|| (year, made.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_term_releases_count() {
        let release =
            |name: &str| release(&format!("ubuntu/images/hvm-ssd/{name}"), "x").map(|(year, _)| year);
        assert_eq!(release("ubuntu-noble-24.04-amd64-server-20240801"), Some(24));
        assert_eq!(release("ubuntu-focal-20.04-amd64-server-20210223"), Some(20));
        for other in
            ["ubuntu-plucky-25.04-amd64-server-1", "ubuntu-oracular-24.10-amd64-server-1", "ubuntu-x", ""]
        {
            assert_eq!(release(other), None, "{other}");
        }
    }
}
