//! Renders a plan: as lines for users, as JSON for programs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{AlarmTarget, Change, Sign, Termination, hourly_price};
use crate::desired::{Action, CHECK, Desired, dashboard_name};
use crate::discover::prices;
use crate::discover::state::{Rule, Source, State};
use deploy_ssh::inventory::Role;

impl Change {
    /// A text for users.
    pub(crate) fn describe(&self, desired: &Desired) -> String {
        let name = &desired.name;
        match self {
            Self::ImportKeyPair => format!("key pair {name}"),
            Self::CreateTopic => format!("topic {name}"),
            Self::Subscribe { number } => format!("text messages about alarms to {number}"),
            Self::Unsubscribe { number, .. } => format!("text messages about alarms to {number}"),
            Self::CreateGroup => format!("security group {name}"),
            Self::Authorize(rules) | Self::Revoke(rules) => {
                let rules: Vec<_> = rules.iter().map(Rule::describe).collect();
                format!("security group {name} lets in {}", rules.join("; "))
            }
            Self::DeleteAlarms(names) => {
                format!("{} alarms of instances that have ended or will end", names.len())
            }
            Self::Terminate(instances) => {
                let one = |one: &Termination| format!("{} ({}): {}", one.name, one.id, one.why);
                format!("instances {}", instances.iter().map(one).collect::<Vec<_>>().join("; "))
            }
            Self::Launch { role, count } => describe_launch(desired, *role, *count),
            Self::PutAlarm { target, action, minutes, .. } => {
                let target = match target {
                    AlarmTarget::Existing(id) => id.clone(),
                    AlarmTarget::Planned(role, _) => format!("the new {}", role.word()),
                };
                format!("alarm {CHECK} of {target}: {} after {minutes} minutes", action.word())
            }
            Self::PutDashboard { .. } => {
                format!("dashboard {}", dashboard_name(name, &desired.region))
            }
        }
    }
}

fn describe_launch(desired: &Desired, role: Role, count: usize) -> String {
    let types = desired.instance_types.join(" or ");
    let (is_spot, purpose) = match role {
        Role::Metrics => (false, "for the metrics host"),
        Role::Initializer => (false, "for the initializer"),
        Role::Worker => (desired.spot, "for workers"),
    };
    let (spot, at_most) = if is_spot { ("spot ", "at most ") } else { ("", "") };
    let first = desired.instance_types.first();
    let price = first.and_then(|first| prices::hourly(first, &desired.region, desired.disk_gib));
    let price = price.map_or("its price is not known here".to_owned(), |price| {
        format!("{at_most}{} an hour", prices::usd(price * count as f64))
    });
    format!("{count} × {spot}{types} {purpose} ({price})")
}

impl Rule {
    fn describe(&self) -> String {
        let what = match (self.protocol.as_str(), self.ports) {
            ("tcp", Some((22, 22))) => "SSH".to_owned(),
            ("-1", _) => "everything".to_owned(),
            (protocol, Some((first, last))) if first == last => format!("{protocol} {first}"),
            (protocol, Some((first, last))) => format!("{protocol} {first} to {last}"),
            (protocol, None) => protocol.to_owned(),
        };
        match &self.source {
            Source::Network(network) => format!("{what} from {network}"),
            Source::Members => format!("{what} from its members"),
            Source::Group(id) => format!("{what} from members of {id}"),
            Source::PrefixList(id) => format!("{what} from the networks of {id}"),
        }
    }
}

/// Lines for users. Changes that differ only in their machine or action are one line.
pub(crate) fn lines(changes: &[Change], desired: &Desired) -> Vec<(Sign, String)> {
    let mut lines = Vec::new();
    let mut alarms: BTreeMap<bool, BTreeSet<&AlarmTarget>> = BTreeMap::new();
    for change in changes {
        match change {
            Change::PutAlarm { target, exists, .. } => {
                alarms.entry(*exists).or_default().insert(target);
            }
            _ => lines.push((change.sign(), change.describe(desired))),
        }
    }
    for (exists, targets) in alarms {
        let count = changes
            .iter()
            .filter(|change| matches!(change, Change::PutAlarm { exists: e, .. } if *e == exists))
            .count();
        let sign = if exists { Sign::Change } else { Sign::Create };
        let [notify, terminate] = Action::ALL.map(|action| action.minutes(None));
        let metrics = Action::Terminate.minutes(Some(Role::Metrics));
        lines.push((
            sign,
            format!(
                "{count} alarms for {} instances ({CHECK}: notifies after {notify} minutes; ends the machine after {terminate}, \
                 the metrics host after {metrics})",
                targets.len()
            ),
        ));
    }
    lines
}

/// JSON for programs.
pub(crate) fn json(changes: &[Change], desired: &Desired, state: &State) -> Value {
    let changes: Vec<_> = changes
        .iter()
        .map(|change| {
            json!({"call": change.call(), "action": change.sign().word(), "description": change.describe(desired)})
        })
        .collect();
    json!({
        "stack": desired.name, "region": desired.region, "account": desired.account, "changes": changes,
        "usd_per_hour": hourly_price(desired, state),
    })
}
