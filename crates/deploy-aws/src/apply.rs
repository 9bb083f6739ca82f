//! Applies a plan.

pub(crate) mod alarms;
pub(crate) mod boot;
pub(crate) mod destroy;
pub(crate) mod instances;
mod launch;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use aws_sdk_ec2::types::{
    IpPermission, IpRange, Ipv6Range, PrefixListId, ResourceType, Tag, TagSpecification, UserIdGroupPair,
};

use crate::apply::instances::{await_running, retry_not_found};
use crate::apply::launch::Launcher;
use crate::aws::{Aws, Explain};
use crate::desired::{Desired, TAG, dashboard_name};
use crate::discover;
use crate::discover::placement::{Machines, Network};
use crate::discover::state::{Instance, Rule, Source, State};
use crate::errors::{Class, class_of, ignore};
use crate::plan::Change;
use crate::settings::Settings;
use deploy::{console, interrupt};
use deploy_ssh::inventory::Role;

/// Somebody else has a stack of this name, or created one since `discover`. The key pair decides: it is created first, and its
/// name is unique.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is a key pair {0} that is not of this stack, and may be somebody else's; use another name (--stack), or delete it"
)]
pub(crate) struct NotOurs(String);

/// Where machines are launched.
#[derive(Clone, Copy)]
pub(crate) struct Placement<'a> {
    pub(crate) network: &'a Network,
    /// `None` if the plan launches nothing.
    pub(crate) machines: Option<&'a Machines>,
}

/// Brings a stack from its state to the desired one.
pub(crate) struct Apply<'a> {
    pub(crate) aws: &'a Aws,
    pub(crate) settings: &'a Settings,
    pub(crate) desired: &'a Desired,
    pub(crate) placement: Placement<'a>,
    pub(crate) state: &'a State,
    /// The ids of launched instances.
    pub(crate) launched: BTreeMap<Role, Vec<String>>,
    /// Whether instances of the stack have ended recently.
    ended_recently: bool,
    /// The security group's id.
    group: Option<String>,
    /// The topic's ARN.
    topic: Option<String>,
}

impl<'a> Apply<'a> {
    pub(crate) fn new(
        aws: &'a Aws,
        settings: &'a Settings,
        desired: &'a Desired,
        placement: Placement<'a>,
        state: &'a State,
    ) -> Self {
        let group = state.group.as_ref().map(|group| group.id.clone());
        let topic = state.topic.as_ref().map(|topic| topic.arn.clone());
        let ended_recently = state.ended_recently;
        Self {
            aws,
            settings,
            desired,
            placement,
            state,
            launched: BTreeMap::new(),
            ended_recently,
            group,
            topic,
        }
    }

    /// Makes the changes, except those of alarms.
    ///
    /// # Errors
    /// A change fails; those after it are not made.
    pub(crate) async fn run(&mut self, changes: &[Change]) -> anyhow::Result<()> {
        let bar = console::Steps::new("changing the cloud", changes.iter().filter(|c| !c.is_alarm()).count());
        let mut launches = BTreeMap::new();
        let mut dashboard = false;
        for change in changes.iter().filter(|change| !change.is_alarm()) {
            interrupt::check()?;
            match change {
                Change::Launch { role, count } => {
                    launches.insert(*role, *count);
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
        if dashboard {
            let ids: Vec<_> = self.launched.values().flatten().cloned().collect();
            let instances = await_running(self.aws, &self.settings.stack, &ids).await?;
            self.put_dashboard(&instances).await?;
        }
        Ok(())
    }

    /// Makes a change that is one call. Not for launches, which are combined, or for a dashboard, which needs the launched
    /// instances.
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
                retry_not_found(|| async { call.clone().send().await.explain("sns:Subscribe", aws) }).await?;
            }
            Change::Unsubscribe { arn, .. } => {
                let deleted = aws.sns.unsubscribe().subscription_arn(arn).send().await;
                ignore(Class::NotFound, deleted.explain("sns:Unsubscribe", aws).map(drop))?;
            }
            Change::CreateGroup => self.create_group().await?,
            Change::Authorize(rules) => {
                let permissions = permissions(rules, self.group()?);
                let call = aws.ec2.authorize_security_group_ingress().group_id(self.group()?);
                let call = call.set_ip_permissions(Some(permissions));
                let done = retry_not_found(|| async {
                    call.clone().send().await.explain("ec2:AuthorizeSecurityGroupIngress", aws).map(drop)
                });
                // The rules may be from a try whose answer was lost.
                ignore(Class::Duplicate, done.await)?;
            }
            Change::Revoke(rules) => {
                let permissions = permissions(rules, self.group()?);
                let call = aws.ec2.revoke_security_group_ingress().group_id(self.group()?);
                let done = call.set_ip_permissions(Some(permissions)).send().await;
                ignore(Class::NotFound, done.explain("ec2:RevokeSecurityGroupIngress", aws).map(drop))?;
            }
            Change::Terminate(terminations) => {
                self.ended_recently = true;
                instances::terminate(aws, terminations.iter().map(|one| one.id.clone()).collect()).await?;
            }
            Change::Launch { .. }
            | Change::PutDashboard { .. }
            | Change::PutAlarm { .. }
            | Change::DeleteAlarms(_) => {
                bail!("{} is not made as a single call", change.call())
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
            // It is from a try whose answer was lost, or not ours. It is visible by its name sooner than by its tag.
            let existing = retry_not_found(|| discover::key_pair_of_name(self.aws, name)).await?;
            let is_ours = existing.public_key == self.desired.public_key;
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
                let existing = retry_not_found(|| discover::groups_of_name(self.aws, name)).await?;
                let ours = existing.iter().find(|group| {
                    group.vpc_id() == Some(&self.desired.vpc) && discover::has_tag(group.tags(), name)
                });
                let ours = ours.and_then(|group| group.group_id()).with_context(|| {
                    format!("there is a security group {name} that is not of this stack; use another name (--stack), or delete it")
                })?;
                Some(ours.to_owned())
            }
            made => made?.group_id,
        };
        Ok(())
    }

    async fn launch(&mut self, counts: &BTreeMap<Role, usize>) -> anyhow::Result<()> {
        let existing = &self.state.instances;
        let machines = match self.placement.machines {
            Some(machines) => machines.clone(),
            // An instance has ended since the first plan, which launched nothing.
            None => Machines::find(self.aws, self.settings, self.placement.network, existing).await?,
        };
        let launcher = Launcher {
            aws: self.aws,
            settings: self.settings,
            network: self.placement.network,
            machines,
            group: self.group()?.to_owned(),
            zone: existing.first().map(|instance| instance.zone.clone()),
            ended_recently: self.ended_recently,
        };
        self.launched = launcher.launch(counts).await?;
        Ok(())
    }

    async fn put_dashboard(&self, instances: &[Instance]) -> anyhow::Result<()> {
        let body = self.desired.dashboard(instances).to_string();
        let name = dashboard_name(&self.desired.name, &self.desired.region);
        let call = self.aws.cloudwatch.put_dashboard().dashboard_name(name).dashboard_body(body);
        call.send().await.explain("cloudwatch:PutDashboard", self.aws).map(drop)
    }
}

/// Rules in the form of EC2's API. `own` is the id of the stack's group.
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
