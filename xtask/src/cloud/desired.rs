//! What a stack consists of when it is up. Whoever wants it to be otherwise changes it here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::settings::Settings;
use super::state::{Instance, Rule, Source, names};
use crate::hosts::Role;

/// The tag that all bear that belong to a stack; its value is the name of the stack.
pub(super) const TAG: &str = "provisioned-classifier-stack";
/// The tag with an instance's role.
pub(super) const ROLE_TAG: &str = "provisioned-classifier-role";
/// The tag with the time at which an instance ends itself.
pub(super) const EXPIRES_TAG: &str = "provisioned-classifier-expires";
/// The tag with the fingerprint of an instance's host key.
pub(super) const FINGERPRINT_TAG: &str = "provisioned-classifier-host-key";

/// What EC2 checks of each instance, once a minute; for each of them there is an alarm.
pub(super) const CHECKS: [&str; 3] =
    ["StatusCheckFailed", "StatusCheckFailed_Instance", "StatusCheckFailed_System"];

/// A stack as it should be: a key pair, a security group, instances, a topic for alarms, three alarms for each instance,
/// a dashboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Desired {
    /// The name of the stack, and of all that has one name only.
    pub(super) name: String,
    pub(super) region: String,
    /// As in authorized_keys, without the comment.
    pub(super) public_key: String,
    /// The network that the machines are in.
    pub(super) vpc: String,
    pub(super) rules: BTreeSet<Rule>,
    pub(super) machines: BTreeMap<Role, usize>,
    pub(super) instance_types: Vec<String>,
    /// Their image, if it has to be a certain one.
    pub(super) image: Option<String>,
    /// The size of their disks.
    pub(super) disk_gib: u32,
    /// The phone numbers that are told of alarms.
    pub(super) on_call: BTreeSet<String>,
}

impl Desired {
    /// The stack that the user asks for.
    pub(super) fn new(
        settings: &Settings,
        public_key: String,
        vpc: String,
        ssh_from: &BTreeSet<String>,
        on_call: BTreeSet<String>,
    ) -> Self {
        let ssh = |network: &String| Rule {
            protocol: "tcp".into(),
            ports: Some((22, 22)),
            source: Source::Network(network.clone()),
        };
        let members = Rule { protocol: "-1".into(), ports: None, source: Source::Members };
        Self {
            name: settings.stack.clone(),
            region: settings.region.clone(),
            public_key,
            vpc,
            rules: ssh_from.iter().map(ssh).chain([members]).collect(),
            machines: BTreeMap::from([
                (Role::Metrics, 1),
                (Role::Initializer, 1),
                (Role::Worker, settings.cluster_size - 1),
            ]),
            instance_types: settings.instance_types.clone(),
            image: settings.image.clone(),
            disk_gib: settings.disk_gib,
            on_call,
        }
    }

    /// The dashboard for these instances: the use of each one's processors.
    pub(super) fn dashboard(&self, instances: &[Instance]) -> Value {
        let metrics: Vec<_> = names(instances)
            .iter()
            .map(|(name, instance)| {
                json!(["AWS/EC2", "CPUUtilization", "InstanceId", instance.id, {"label": name}])
            })
            .collect();
        let text = json!({
            "type": "text", "x": 0, "y": 0, "width": 24, "height": 1,
            "properties": {"markdown": dashboard_mark(&self.name)},
        });
        json!({"widgets": [text, {
            "type": "metric", "x": 0, "y": 1, "width": 24, "height": 12,
            "properties": {
                "title": format!("Processors of {}", self.name),
                "region": self.region, "view": "timeSeries", "stat": "Average", "period": 60,
                "yAxis": {"left": {"min": 0, "max": 100}},
                "metrics": metrics,
            },
        }]})
    }

    /// Where people see the dashboard.
    pub(super) fn dashboard_url(&self) -> String {
        let Self { region, name, .. } = self;
        format!(
            "https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#dashboards:name={name}"
        )
    }
}

/// What a stack's dashboard says of itself, since dashboards have no tags that they could be found by.
fn dashboard_mark(stack: &str) -> String {
    format!("{TAG}: {stack}")
}

/// Whether a dashboard is the stack's, and not a stranger's of the same name.
pub(super) fn is_our_dashboard(body: &Value, stack: &str) -> bool {
    body["widgets"][0]["properties"]["markdown"].as_str() == Some(&dashboard_mark(stack))
}

/// Whether this is the name of an alarm for an instance of the stack, and not a stranger's.
#[cfg(feature = "aws")]
pub(super) fn is_our_alarm(name: &str, stack: &str) -> bool {
    let rest = name.strip_prefix(&alarm_prefix(stack)).and_then(|rest| rest.split_once(' '));
    rest.is_some_and(|(instance, check)| instance.starts_with("i-") && CHECKS.contains(&check))
}

/// The name of an alarm.
pub(super) fn alarm_name(stack: &str, instance: &str, check: &str) -> String {
    format!("{}{instance} {check}", alarm_prefix(stack))
}

/// What the names of a stack's alarms begin with, and of no other stack's.
pub(super) fn alarm_prefix(stack: &str) -> String {
    format!("{stack} ")
}
