//! Doing what a plan says.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use aws_sdk_cloudwatch::types::{ComparisonOperator, Dimension, Statistic};
use aws_sdk_ec2::types::{
    IpPermission, IpRange, Ipv6Range, PrefixListId, ResourceType, Tag, TagSpecification, UserIdGroupPair,
};

use super::aws::{Aws, Class, Explain, class_of, unless};
use super::desired::{Desired, TAG, alarm_name};
use super::launch::{self, Launcher};
use super::look;
use super::place::{Image, Network};
use super::plan::{Change, Of};
use super::settings::Settings;
use super::state::{Instance, Rule, Source, State};
use crate::hosts::Role;
use crate::{interrupt, ui};

/// How many alarms are made at the same time; CloudWatch takes a few a second.
const ALARMS_AT_ONCE: usize = 3;
/// What EC2 checks, it checks once a minute.
const CHECK_SECONDS: i32 = 60;
/// How many checks in a row have to fail before somebody is told.
const FAILED_CHECKS: i32 = 2;

/// Somebody else has a stack of this name, or has made one since it was looked for. The key pair is what tells: it is made
/// first, and there is only one of a name.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is a key pair {0} that is not of this stack, but perhaps of somebody else's; use another name (--stack), or delete it"
)]
pub(super) struct NotOurs(String);

/// Brings a stack from the state in which it was found to the desired one.
pub(super) struct Apply<'a> {
    pub(super) aws: &'a Aws,
    pub(super) settings: &'a Settings,
    pub(super) desired: &'a Desired,
    pub(super) network: &'a Network,
    pub(super) state: &'a State,
    /// What was launched.
    pub(super) launched: BTreeMap<Role, Vec<String>>,
    group: Option<String>,
    topic: Option<String>,
}

impl<'a> Apply<'a> {
    pub(super) fn new(
        aws: &'a Aws,
        settings: &'a Settings,
        desired: &'a Desired,
        network: &'a Network,
        state: &'a State,
    ) -> Self {
        let group = state.group.as_ref().map(|group| group.id.clone());
        let topic = state.topic.as_ref().map(|topic| topic.arn.clone());
        Self { aws, settings, desired, network, state, launched: BTreeMap::new(), group, topic }
    }

    /// Makes the changes; what has no order among itself is done at the same time.
    ///
    /// # Errors
    /// The first that fails; those after it are not made.
    pub(super) async fn run(&mut self, changes: &[Change]) -> anyhow::Result<()> {
        let bar = ui::Steps::new("changing the cloud", changes.len());
        let mut launches = BTreeMap::new();
        let (mut alarms, mut dashboard) = (Vec::new(), false);
        for change in changes {
            interrupt::check()?;
            match change {
                Change::Launch { role, count } => {
                    launches.insert(*role, *count);
                    continue;
                }
                Change::PutAlarm { of, check, .. } => {
                    alarms.push((of, *check));
                    continue;
                }
                Change::PutDashboard { .. } => {
                    dashboard = true;
                    continue;
                }
                _ => self.change(change).await.with_context(|| change.describe(self.desired))?,
            }
            bar.add();
        }
        if !launches.is_empty() {
            self.launch(&launches).await?;
            launches.iter().for_each(|_| bar.add());
        }
        let ids: Vec<_> = self.launched.values().flatten().cloned().collect();
        let (instances, ()) = tokio::try_join!(
            launch::await_running(self.aws, &self.settings.stack, &ids),
            self.put_alarms(&alarms, &bar)
        )?;
        if dashboard {
            self.put_dashboard(&instances).await?;
        }
        Ok(())
    }

    /// Makes a change that needs nothing to be known of instances.
    async fn change(&mut self, change: &Change) -> anyhow::Result<()> {
        let (aws, name) = (self.aws, &self.desired.name);
        match change {
            Change::ImportKeyPair => self.import_key_pair().await?,
            Change::CreateTopic => {
                let tag = aws_sdk_sns::types::Tag::builder().key(TAG).value(name).build()?;
                let made = aws.sns.create_topic().name(name).tags(tag).send().await;
                self.topic = made.explain("sns:CreateTopic", aws)?.topic_arn;
            }
            Change::Subscribe { number } => {
                let call = aws.sns.subscribe().topic_arn(self.topic()?).protocol("sms").endpoint(number);
                launch::patiently(|| async { call.clone().send().await.explain("sns:Subscribe", aws) })
                    .await?;
            }
            Change::Unsubscribe { arn, .. } => {
                let gone = aws.sns.unsubscribe().subscription_arn(arn).send().await;
                unless(Class::NotFound, gone.explain("sns:Unsubscribe", aws).map(drop))?;
            }
            Change::CreateGroup => self.create_group().await?,
            Change::Authorize(rules) => {
                let permissions = permissions(rules, self.group()?);
                let call = aws.ec2.authorize_security_group_ingress().group_id(self.group()?);
                let call = call.set_ip_permissions(Some(permissions));
                let done = launch::patiently(|| async {
                    call.clone().send().await.explain("ec2:AuthorizeSecurityGroupIngress", aws).map(drop)
                });
                // Of a try whose answer was lost.
                unless(Class::Duplicate, done.await)?;
            }
            Change::Revoke(rules) => {
                let permissions = permissions(rules, self.group()?);
                let call = aws.ec2.revoke_security_group_ingress().group_id(self.group()?);
                let done = call.set_ip_permissions(Some(permissions)).send().await;
                unless(Class::NotFound, done.explain("ec2:RevokeSecurityGroupIngress", aws).map(drop))?;
            }
            Change::DeleteAlarms(names) => {
                let call = aws.cloudwatch.delete_alarms().set_alarm_names(Some(names.clone()));
                let gone = call.send().await;
                unless(Class::NotFound, gone.explain("cloudwatch:DeleteAlarms", aws).map(drop))?;
            }
            Change::Terminate(goners) => {
                launch::end(aws, goners.iter().map(|goner| goner.id.clone()).collect()).await?;
            }
            Change::Launch { .. } | Change::PutAlarm { .. } | Change::PutDashboard { .. } => {
                bail!("{} is not made alone", change.call())
            }
        }
        Ok(())
    }

    fn group(&self) -> anyhow::Result<&str> {
        self.group.as_deref().context("the stack has no security group yet")
    }

    fn topic(&self) -> anyhow::Result<&str> {
        self.topic.as_deref().context("the stack has no topic yet")
    }

    fn tags(&self, kind: ResourceType) -> TagSpecification {
        let tag = Tag::builder().key(TAG).value(&self.desired.name).build();
        TagSpecification::builder().resource_type(kind).tags(tag).build()
    }

    async fn import_key_pair(&self) -> anyhow::Result<()> {
        let name = &self.desired.name;
        let call = self.aws.ec2.import_key_pair().key_name(name);
        let call =
            call.public_key_material(aws_sdk_ec2::primitives::Blob::new(self.desired.public_key.as_bytes()));
        let made = call.tag_specifications(self.tags(ResourceType::KeyPair)).send().await;
        let made = made.explain("ec2:ImportKeyPair", self.aws);
        if made.as_ref().is_err_and(|error| class_of(error) == Some(Class::Duplicate)) {
            // Of a try whose answer was lost, or a stranger's.
            let ours = look::key_pair(self.aws, name).await?;
            let is_ours = ours.is_some_and(|pair| pair.public_key == self.desired.public_key);
            return if is_ours { Ok(()) } else { Err(NotOurs(name.clone()).into()) };
        }
        made.map(drop)
    }

    async fn create_group(&mut self) -> anyhow::Result<()> {
        let name = &self.desired.name;
        let call = self
            .aws
            .ec2
            .create_security_group()
            .group_name(name)
            .vpc_id(&self.desired.vpc)
            .description("SSH for the user; everything among the machines")
            .tag_specifications(self.tags(ResourceType::SecurityGroup));
        let made = call.send().await.explain("ec2:CreateSecurityGroup", self.aws);
        self.group = match made {
            Err(error) if class_of(&error) == Some(Class::Duplicate) => {
                let ours = look::group(self.aws, name).await?.with_context(|| {
                    format!("there is a security group {name} that is not of this stack; use another name (--stack)")
                })?;
                Some(ours.id)
            }
            made => made?.group_id,
        };
        Ok(())
    }

    async fn launch(&mut self, counts: &BTreeMap<Role, usize>) -> anyhow::Result<()> {
        // Machines of one stack are of one image, since Python boxes may differ otherwise.
        let there = self.state.instances.first();
        let image = match self.settings.image.as_ref().or(there.map(|instance| &instance.image)) {
            Some(id) => Image::find(self.aws, id).await?,
            None => Image::newest_ubuntu(self.aws).await?,
        };
        let launcher = Launcher {
            aws: self.aws,
            settings: self.settings,
            network: self.network,
            image,
            group: self.group()?.to_owned(),
            zone: there.map(|instance| instance.zone.clone()),
        };
        self.launched = launcher.launch(counts).await?;
        Ok(())
    }

    async fn put_alarms(&self, alarms: &[(&Of, &'static str)], bar: &ui::Steps) -> anyhow::Result<()> {
        for some in alarms.chunks(ALARMS_AT_ONCE) {
            interrupt::check()?;
            let mut calls = tokio::task::JoinSet::new();
            for (of, check) in some {
                let instance = match of {
                    Of::Id(id) => id,
                    Of::New(role, i) => {
                        let launched = self.launched.get(role).and_then(|ids| ids.get(*i));
                        launched.context("an alarm is for an instance that was not launched")?
                    }
                };
                calls.spawn(put_alarm(
                    self.aws.clone(),
                    self.desired.name.clone(),
                    instance.clone(),
                    check,
                    self.topic()?.to_owned(),
                ));
            }
            while let Some(put) = calls.join_next().await {
                put.context("making an alarm")??;
                bar.add();
            }
        }
        Ok(())
    }

    async fn put_dashboard(&self, instances: &[Instance]) -> anyhow::Result<()> {
        let body = self.desired.dashboard(instances).to_string();
        let call =
            self.aws.cloudwatch.put_dashboard().dashboard_name(&self.desired.name).dashboard_body(body);
        call.send().await.explain("cloudwatch:PutDashboard", self.aws).map(drop)
    }
}

async fn put_alarm(
    aws: Aws,
    stack: String,
    instance: String,
    check: &'static str,
    topic: String,
) -> anyhow::Result<()> {
    let put = aws
        .cloudwatch
        .put_metric_alarm()
        .alarm_name(alarm_name(&stack, &instance, check))
        .alarm_description(format!("A machine of {stack} fails the checks of EC2"))
        .namespace("AWS/EC2")
        .metric_name(check)
        .dimensions(Dimension::builder().name("InstanceId").value(&instance).build())
        .statistic(Statistic::Maximum)
        .period(CHECK_SECONDS)
        .evaluation_periods(FAILED_CHECKS)
        .threshold(1.0)
        .comparison_operator(ComparisonOperator::GreaterThanOrEqualToThreshold)
        .alarm_actions(topic)
        .tags(aws_sdk_cloudwatch::types::Tag::builder().key(TAG).value(&stack).build())
        .send()
        .await;
    put.explain("cloudwatch:PutMetricAlarm", &aws).map(drop)
}

/// Rules as EC2 takes them.
fn permissions(rules: &BTreeSet<Rule>, own: &str) -> Vec<IpPermission> {
    let permission = |rule: &Rule| {
        let permission = IpPermission::builder()
            .ip_protocol(&rule.protocol)
            .set_from_port(rule.ports.map(|ports| ports.0))
            .set_to_port(rule.ports.map(|ports| ports.1));
        let group = |id: &str| UserIdGroupPair::builder().group_id(id).build();
        match &rule.source {
            Source::Network(network) if network.contains(':') => {
                permission.ipv6_ranges(Ipv6Range::builder().cidr_ipv6(network).build())
            }
            Source::Network(network) => permission.ip_ranges(IpRange::builder().cidr_ip(network).build()),
            Source::Members => permission.user_id_group_pairs(group(own)),
            Source::Group(id) => permission.user_id_group_pairs(group(id)),
            Source::PrefixList(id) => {
                permission.prefix_list_ids(PrefixListId::builder().prefix_list_id(id).build())
            }
        }
        .build()
    };
    rules.iter().map(permission).collect()
}
