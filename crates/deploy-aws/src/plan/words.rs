//! A plan in words: for people, and for programs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Change, Of, Sign, Termination, hourly_price};
use crate::desired::{Action, CHECK, Desired, dashboard_name};
use crate::prices;
use crate::state::{Rule, Source, State};
use deploy_ssh::inventory::Role;

impl Change {
    /// In words.
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
            Self::DeleteAlarms(names) => format!("{} alarms of instances that are gone, or go", names.len()),
            Self::Terminate(goners) => {
                let one = |goner: &Termination| format!("{} ({}): {}", goner.name, goner.id, goner.why);
                format!("instances {}", goners.iter().map(one).collect::<Vec<_>>().join("; "))
            }
            Self::Launch { role, count } => {
                let types = desired.instance_types.join(" or ");
                let (is_spot, what) = match role {
                    Role::Metrics => (false, "for the metrics host"),
                    Role::Initializer => (false, "for the initializer"),
                    Role::Worker => (desired.spot, "for workers"),
                };
                let (spot, at_most) = if is_spot { ("spot ", "at most ") } else { ("", "") };
                let price = desired
                    .instance_types
                    .first()
                    .and_then(|first| prices::hourly(first, &desired.region, desired.disk_gib));
                let price = price.map_or("its price is not known here".to_owned(), |price| {
                    format!("{at_most}{} an hour", prices::usd(price * *count as f64))
                });
                format!("{count} × {spot}{types} {what} ({price})")
            }
            Self::PutAlarm { of, action, minutes, .. } => {
                let of = match of {
                    Of::Id(id) => id.clone(),
                    Of::New(role, _) => format!("the new {}", role.word()),
                };
                format!("alarm {CHECK} of {of}: {} after {minutes} minutes", action.word())
            }
            Self::PutDashboard { .. } => {
                format!("dashboard {}", dashboard_name(name, &desired.region))
            }
        }
    }
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

/// Changes for people: those that differ only in their machine or action are one line.
pub(crate) fn lines(changes: &[Change], desired: &Desired) -> Vec<(Sign, String)> {
    let mut lines = Vec::new();
    let mut alarms: BTreeMap<bool, BTreeSet<&Of>> = BTreeMap::new();
    for change in changes {
        match change {
            Change::PutAlarm { of, is_there, .. } => {
                alarms.entry(*is_there).or_default().insert(of);
            }
            _ => lines.push((change.sign(), change.describe(desired))),
        }
    }
    for (is_there, of) in alarms {
        let count = changes
            .iter()
            .filter(|change| matches!(change, Change::PutAlarm { is_there: there, .. } if *there == is_there))
            .count();
        let sign = if is_there { Sign::Change } else { Sign::Create };
        let [notify, terminate] = Action::ALL.map(|action| action.minutes(None));
        let metrics = Action::Terminate.minutes(Some(Role::Metrics));
        lines.push((
            sign,
            format!(
                "{count} alarms for {} instances ({CHECK}: tells after {notify} minutes; ends the machine after {terminate}, the \
                 metrics host after {metrics})",
                of.len()
            ),
        ));
    }
    lines
}

/// Changes for programs.
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
