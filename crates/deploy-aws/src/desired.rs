//! The resources of a stack that is up.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::discover::state::{Instance, Rule, Source, names};
use crate::settings::Settings;
use deploy_ssh::inventory::Role;

/// The tag of everything that belongs to a stack; its value is the stack's name.
pub(crate) const TAG: &str = "provisioned-classifier-stack";
/// The tag with an instance's role.
pub(crate) const ROLE_TAG: &str = "provisioned-classifier-role";
/// The tag with the time at which an instance terminates itself, in UTC as RFC 3339.
pub(crate) const EXPIRES_TAG: &str = "provisioned-classifier-expires";
/// The tag with the fingerprint of an instance's host key.
pub(crate) const FINGERPRINT_TAG: &str = "provisioned-classifier-host-key";

/// The metric of EC2's checks of an instance, its host and its disks, once a minute. It fails when any of them does, so these need
/// no alarms of their own.
pub(crate) const CHECK: &str = "StatusCheckFailed";
/// Failed minutes after which people are notified.
const NOTIFY_MINUTES: i32 = 2;
/// Failed minutes after which a machine is terminated: one that hangs cannot fire its own timer.
const TERMINATE_MINUTES: i32 = 15;
/// The same for the metrics host. It has the results, so people get more time to fetch them.
const TERMINATE_METRICS_MINUTES: i32 = 60;
/// The most metrics that CloudWatch draws in a widget.
const METRICS_A_WIDGET: usize = 500;
/// Without detailed monitoring, EC2 reports the use of processors every five minutes.
const CPU_SECONDS: u32 = 300;

/// What an alarm does when a machine fails its checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    /// Notifies the people on call.
    Notify,
    /// Has EC2 terminate the machine.
    Terminate,
}

impl Action {
    /// Each machine has one alarm for each of them.
    pub(crate) const ALL: [Self; 2] = [Self::Notify, Self::Terminate];

    /// The last word of an alarm's name.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Terminate => "terminate",
        }
    }

    /// After how many failed minutes an alarm of this role fires.
    pub(crate) fn minutes(self, role: Option<Role>) -> i32 {
        match (self, role) {
            (Self::Notify, _) => NOTIFY_MINUTES,
            (Self::Terminate, Some(Role::Metrics)) => TERMINATE_METRICS_MINUTES,
            (Self::Terminate, _) => TERMINATE_MINUTES,
        }
    }
}

/// The desired stack: a key pair, a security group, instances, a topic, two alarms for each instance, a dashboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Desired {
    /// The stack's name, which is also that of its key pair, security group and topic.
    pub(crate) name: String,
    pub(crate) region: String,
    /// The account's number.
    pub(crate) account: String,
    /// As in authorized_keys, without the comment.
    pub(crate) public_key: String,
    pub(crate) vpc: String,
    pub(crate) rules: BTreeSet<Rule>,
    pub(crate) machines: BTreeMap<Role, usize>,
    pub(crate) instance_types: Vec<String>,
    /// The image that the user requests; `None` allows any.
    pub(crate) image: Option<String>,
    pub(crate) disk_gib: u32,
    /// Whether workers may be spot instances.
    pub(crate) spot: bool,
    /// The phone numbers that alarms notify.
    pub(crate) on_call: BTreeSet<String>,
}

impl Desired {
    pub(crate) fn new(
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

    /// The action of an alarm that has EC2 terminate its machine.
    pub(crate) fn terminate_arn(&self) -> String {
        format!("arn:aws:automate:{}:ec2:terminate", self.region)
    }

    /// The dashboard of these instances: the use of their processors.
    pub(crate) fn dashboard(&self, instances: &[Instance]) -> Value {
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

    pub(crate) fn dashboard_url(&self) -> String {
        let Self { region, name, .. } = self;
        let dashboard = dashboard_name(name, region);
        format!(
            "https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#dashboards:name={dashboard}"
        )
    }
}

/// The name of a stack's dashboard. It has the region, since an account's dashboards are shared by all regions.
pub(crate) fn dashboard_name(stack: &str, region: &str) -> String {
    format!("{stack}-{region}")
}

/// A text in a stack's dashboard that identifies it, since it is found by its name.
fn dashboard_mark(stack: &str, region: &str) -> String {
    format!("{TAG}: {stack} in {region}")
}

/// Whether a dashboard is the stack's, and not another one of the same name.
pub(crate) fn is_our_dashboard(body: &Value, stack: &str, region: &str) -> bool {
    body["widgets"][0]["properties"]["markdown"].as_str() == Some(&dashboard_mark(stack, region))
}

/// Whether this is the name of an alarm of the stack. Other stacks may have names with the same beginning.
pub(crate) fn is_our_alarm(name: &str, stack: &str) -> bool {
    let rest = name.strip_prefix(&alarm_prefix(stack)).and_then(|rest| rest.split_once(' '));
    rest.is_some_and(|(instance, action)| instance.starts_with("i-") && !action.contains(' '))
}

pub(crate) fn alarm_name(stack: &str, instance: &str, action: Action) -> String {
    format!("{}{instance} {}", alarm_prefix(stack), action.word())
}

/// The beginning of the names of a stack's alarms.
pub(crate) fn alarm_prefix(stack: &str) -> String {
    format!("{stack} ")
}
