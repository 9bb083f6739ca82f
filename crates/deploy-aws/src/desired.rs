//! What a stack consists of when it is up. Whoever wants it to be otherwise changes it here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::settings::Settings;
use super::state::{Instance, Rule, Source, names};
use deploy_ssh::inventory::Role;

/// The tag that all bear that belong to a stack; its value is the name of the stack.
pub(super) const TAG: &str = "provisioned-classifier-stack";
/// The tag with an instance's role.
pub(super) const ROLE_TAG: &str = "provisioned-classifier-role";
/// The tag with the time at which an instance ends itself.
pub(super) const EXPIRES_TAG: &str = "provisioned-classifier-expires";
/// The tag with the fingerprint of an instance's host key.
pub(super) const FINGERPRINT_TAG: &str = "provisioned-classifier-host-key";

/// What EC2 checks of each instance, once a minute: the instance, its host and its disks. CloudWatch's metric of it fails when any of
/// the single checks does, so the others need no alarms of their own.
pub(super) const CHECK: &str = "StatusCheckFailed";
/// After so many failed minutes people are told.
const NOTIFY_MINUTES: i32 = 2;
/// After so many failed minutes a machine is ended that others can do without: one that hangs cannot fire its own timer.
const TERMINATE_MINUTES: i32 = 15;
/// The metrics host has the results, so somebody gets more time to fetch them.
const TERMINATE_METRICS_MINUTES: i32 = 60;
/// CloudWatch draws so many metrics in a widget, at most.
const METRICS_A_WIDGET: usize = 500;
/// Without detailed monitoring, EC2 tells CloudWatch how busy a machine is every five minutes.
const CPU_SECONDS: u32 = 300;

/// What an alarm does about a machine that fails its checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Action {
    /// Tells those on call.
    Notify,
    /// Has EC2 end the machine.
    Terminate,
}

impl Action {
    /// Each machine has an alarm for each.
    pub(super) const ALL: [Self; 2] = [Self::Notify, Self::Terminate];

    /// As the names of alarms have it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Terminate => "terminate",
        }
    }

    /// After how many failed minutes of a machine of this role.
    pub(super) fn minutes(self, role: Option<Role>) -> i32 {
        match (self, role) {
            (Self::Notify, _) => NOTIFY_MINUTES,
            (Self::Terminate, Some(Role::Metrics)) => TERMINATE_METRICS_MINUTES,
            (Self::Terminate, _) => TERMINATE_MINUTES,
        }
    }
}

/// A stack as it should be: a key pair, a security group, instances, a topic for alarms, two alarms for each instance,
/// a dashboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Desired {
    /// The name of the stack, and of all that has one name only.
    pub(super) name: String,
    pub(super) region: String,
    /// The number of the account.
    pub(super) account: String,
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
    /// Whether workers may be spot instances.
    pub(super) spot: bool,
    /// The phone numbers that are told of alarms.
    pub(super) on_call: BTreeSet<String>,
}

impl Desired {
    /// The stack that the user asks for.
    pub(super) fn new(
        settings: &Settings,
        account: String,
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
            account,
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
            spot: settings.spot,
            on_call,
        }
    }

    /// What an alarm names to have EC2 end its machine.
    pub(super) fn terminate_arn(&self) -> String {
        format!("arn:aws:automate:{}:ec2:terminate", self.region)
    }

    /// The dashboard for these instances: the use of each one's processors.
    pub(super) fn dashboard(&self, instances: &[Instance]) -> Value {
        let metrics: Vec<_> = names(instances)
            .iter()
            .map(|(name, instance)| {
                json!(["AWS/EC2", "CPUUtilization", "InstanceId", instance.id, {"label": name}])
            })
            .collect();
        let mut widgets = vec![json!({
            "type": "text", "x": 0, "y": 0, "width": 24, "height": 1,
            "properties": {"markdown": dashboard_mark(&self.name, &self.region)},
        })];
        for (i, metrics) in metrics.chunks(METRICS_A_WIDGET).enumerate() {
            widgets.push(json!({
                "type": "metric", "x": 0, "y": 1 + 12 * i, "width": 24, "height": 12,
                "properties": {
                    "title": format!("Processors of {}", self.name),
                    "region": self.region, "view": "timeSeries", "stat": "Average", "period": CPU_SECONDS,
                    "yAxis": {"left": {"min": 0, "max": 100}},
                    "metrics": metrics,
                },
            }));
        }
        json!({ "widgets": widgets })
    }

    /// Where people see the dashboard.
    pub(super) fn dashboard_url(&self) -> String {
        let Self { region, name, .. } = self;
        let dashboard = dashboard_name(name, region);
        format!(
            "https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#dashboards:name={dashboard}"
        )
    }
}

/// What a stack's dashboard is called. An account's dashboards are the same in all regions.
pub(super) fn dashboard_name(stack: &str, region: &str) -> String {
    format!("{stack}-{region}")
}

/// What a stack's dashboard says of itself, since it is found by its name.
fn dashboard_mark(stack: &str, region: &str) -> String {
    format!("{TAG}: {stack} in {region}")
}

/// Whether a dashboard is the stack's, and not a stranger's of the same name.
pub(super) fn is_our_dashboard(body: &Value, stack: &str, region: &str) -> bool {
    body["widgets"][0]["properties"]["markdown"].as_str() == Some(&dashboard_mark(stack, region))
}

/// Whether this is the name of an alarm for an instance of the stack, and not a stranger's.
pub(super) fn is_our_alarm(name: &str, stack: &str) -> bool {
    let rest = name.strip_prefix(&alarm_prefix(stack)).and_then(|rest| rest.split_once(' '));
    rest.is_some_and(|(instance, action)| instance.starts_with("i-") && !action.contains(' '))
}

/// The name of an alarm.
pub(super) fn alarm_name(stack: &str, instance: &str, action: Action) -> String {
    format!("{}{instance} {}", alarm_prefix(stack), action.word())
}

/// What the names of a stack's alarms begin with, and of no other stack's.
pub(super) fn alarm_prefix(stack: &str) -> String {
    format!("{stack} ")
}
