//! What there is of a stack in the cloud.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use deploy_ssh::inventory::Role;

/// All that bears the tag of a stack, or its name where there are no tags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) key_pair: Option<KeyPair>,
    pub(super) group: Option<Group>,
    /// Those that are there, or will be; not those that go or are gone.
    pub(super) instances: Vec<Instance>,
    pub(super) topic: Option<Topic>,
    /// By name.
    pub(super) alarms: BTreeMap<String, Alarm>,
    /// Its body.
    pub(super) dashboard: Option<serde_json::Value>,
    /// Whether instances of the stack have ended lately, or are about to: for a while they still count towards quotas.
    pub(super) has_ended_some: bool,
}

impl State {
    /// Whether there is nothing of the stack. Its dashboard alone does not count: it costs nothing, and dashboards are the only
    /// things that are not of a region.
    pub(super) fn is_empty(&self) -> bool {
        let Self { key_pair, group, instances, topic, alarms, .. } = self;
        key_pair.is_none() && group.is_none() && instances.is_empty() && topic.is_none() && alarms.is_empty()
    }
}

/// An SSH key that EC2 puts on machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyPair {
    /// As in authorized_keys, without the comment.
    pub(super) public_key: String,
}

/// A security group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) id: String,
    pub(super) vpc: String,
    /// What it lets in.
    pub(super) rules: BTreeSet<Rule>,
}

/// Something that a security group lets in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rule {
    /// As EC2 names it; `-1` is all.
    pub(super) protocol: String,
    /// The first and the last.
    pub(super) ports: Option<(i32, i32)>,
    pub(super) source: Source,
}

/// From where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// A network.
    Network(String),
    /// The members of the group itself.
    Members,
    /// The members of another group.
    Group(String),
    /// A list of networks.
    PrefixList(String),
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Instance {
    /// In order of their roles, and in each of their age: this is the order in which machines have their names.
    pub(super) role: Option<Role>,
    /// When it was launched, in seconds since 1970.
    pub(super) launched: i64,
    pub(super) id: String,
    pub(super) life: Life,
    pub(super) instance_type: String,
    pub(super) image: String,
    pub(super) zone: String,
    pub(super) is_spot: bool,
    pub(super) public_address: Option<String>,
    pub(super) private_address: Option<String>,
    /// When it ends itself, in seconds since 1970.
    pub(super) expires: Option<i64>,
    /// The fingerprint of its host key.
    pub(super) fingerprint: Option<String>,
}

/// How an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Life {
    /// It boots.
    Pending,
    /// It has booted, or is about to.
    Running,
    /// Somebody has stopped it.
    Stopped,
}

/// Where alarms go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topic {
    pub(super) arn: String,
    /// The numbers that are told, and the ARNs of their subscriptions.
    pub(super) subscriptions: BTreeMap<String, String>,
}

/// An alarm for an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alarm {
    pub(super) instance: String,
    pub(super) metric: String,
    /// After how many failed minutes it does something, if it is switched on.
    pub(super) minutes: Option<i32>,
    /// What it does: the ARNs of topics, and of EC2's actions.
    pub(super) actions: Vec<String>,
}

/// What machines are called: after their roles, in order of their age.
pub(super) fn names(instances: &[Instance]) -> Vec<(String, &Instance)> {
    let mut instances: Vec<_> = instances.iter().collect();
    instances.sort();
    let mut counts = BTreeMap::new();
    let name = |instance: &Instance| {
        let count: &mut u32 = counts.entry(instance.role).or_default();
        *count += 1;
        match (instance.role, *count) {
            (Some(Role::Metrics), 1) => "metrics".to_owned(),
            (Some(Role::Initializer), 1) => "initializer".to_owned(),
            (Some(Role::Worker), n) => format!("worker{n}"),
            // Too many of a kind, which the next `up` ends.
            _ => instance.id.clone(),
        }
    };
    let names: Vec<_> = instances.iter().copied().map(name).collect();
    names.into_iter().zip(instances).collect()
}
