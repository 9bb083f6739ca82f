//! The state of a stack in the cloud.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use deploy_ssh::inventory::Role;

/// Everything with the tag of a stack, or with its name where there are no tags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) key_pair: Option<KeyPair>,
    pub(crate) group: Option<Group>,
    /// Without those that shut down or have terminated.
    pub(crate) instances: Vec<Instance>,
    pub(crate) topic: Option<Topic>,
    /// By name.
    pub(crate) alarms: BTreeMap<String, Alarm>,
    /// The body of the dashboard.
    pub(crate) dashboard: Option<serde_json::Value>,
    /// Whether instances of the stack shut down or terminated recently: they still count towards quotas for a while.
    pub(crate) ended_recently: bool,
}

impl State {
    /// Whether the stack does not exist. A dashboard alone does not count: it costs nothing, and belongs to no region.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { key_pair, group, instances, topic, alarms, .. } = self;
        key_pair.is_none() && group.is_none() && instances.is_empty() && topic.is_none() && alarms.is_empty()
    }
}

/// The SSH key that EC2 installs on machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyPair {
    /// As in authorized_keys, without the comment.
    pub(crate) public_key: String,
}

/// A security group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) id: String,
    pub(crate) vpc: String,
    pub(crate) rules: BTreeSet<Rule>,
}

/// Inbound traffic that a security group allows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    /// In EC2's words; `-1` is all protocols.
    pub(crate) protocol: String,
    /// The first and the last; `None` for all.
    pub(crate) ports: Option<(i32, i32)>,
    pub(crate) source: Source,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// In CIDR notation.
    Network(String),
    /// The members of the group itself.
    Members,
    /// The members of another group, by id.
    Group(String),
    /// A list of networks, by id.
    PrefixList(String),
}

/// A machine. The order of instances, by role and then by age, decides their names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instance {
    pub(crate) role: Option<Role>,
    /// When it was launched, in seconds since 1970.
    pub(crate) launched: i64,
    pub(crate) id: String,
    pub(crate) life: Life,
    pub(crate) instance_type: String,
    pub(crate) image: String,
    pub(crate) zone: String,
    pub(crate) is_spot: bool,
    pub(crate) public_address: Option<String>,
    pub(crate) private_address: Option<String>,
    /// When it terminates itself, in seconds since 1970.
    pub(crate) expires: Option<i64>,
    /// Of its host key.
    pub(crate) fingerprint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Life {
    Pending,
    /// EC2 started it; it may still boot.
    Running,
    /// Somebody stopped it.
    Stopped,
}

/// The SNS topic that alarms notify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) arn: String,
    /// The ARNs of subscriptions, by phone number.
    pub(crate) subscriptions: BTreeMap<String, String>,
}

/// An alarm that watches an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alarm {
    pub(crate) instance: String,
    pub(crate) metric: String,
    /// After how many failed minutes it fires; `None` if its actions are disabled.
    pub(crate) minutes: Option<i32>,
    /// The ARNs of topics, and of EC2's actions.
    pub(crate) actions: Vec<String>,
}

/// The names of machines: their role, and a number in the order of their age.
pub(crate) fn names(instances: &[Instance]) -> Vec<(String, &Instance)> {
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
            // More than the role has, which the next `up` terminates.
            _ => instance.id.clone(),
        }
    };
    let names: Vec<_> = instances.iter().copied().map(name).collect();
    names.into_iter().zip(instances).collect()
}
