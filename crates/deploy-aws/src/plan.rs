//! What has to change so that a stack is as it should be. Nothing here asks or changes anything.

use std::collections::BTreeSet;

use anyhow::ensure;

use super::desired::{Action, CHECK, Desired, alarm_name, dashboard_name, is_our_dashboard};
use super::prices;
use super::state::{Alarm, Instance, Life, Rule, State, names};
use deploy_ssh::inventory::Role;

mod words;

pub(super) use words::json;
pub(super) use words::lines;

/// How many alarms one call deletes, at most.
pub(super) const DELETED_AT_ONCE: usize = 100;

/// What becomes of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It is created.
    Create,
    /// It is changed.
    Change,
    /// It is destroyed.
    Destroy,
}

impl Sign {
    /// As one character.
    pub(super) fn mark(self) -> char {
        match self {
            Self::Create => '+',
            Self::Change => '~',
            Self::Destroy => '-',
        }
    }

    /// As a word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Change => "change",
            Self::Destroy => "destroy",
        }
    }

    /// As one of ANSI's colours.
    pub(super) fn colour(self) -> u8 {
        match self {
            Self::Create => 32,
            Self::Change => 33,
            Self::Destroy => 31,
        }
    }
}

/// A change: one call, unless it fails for a reason after which it is tried in another way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    ImportKeyPair,
    CreateTopic,
    Subscribe {
        number: String,
    },
    Unsubscribe {
        number: String,
        arn: String,
    },
    CreateGroup,
    /// Lets in.
    Authorize(BTreeSet<Rule>),
    /// Does not let in any more.
    Revoke(BTreeSet<Rule>),
    DeleteAlarms(Vec<String>),
    Terminate(Vec<Termination>),
    Launch {
        role: Role,
        count: usize,
    },
    PutAlarm {
        of: Of,
        action: Action,
        /// After how many failed minutes.
        minutes: i32,
        /// Whether there is one that is wrong.
        is_there: bool,
    },
    PutDashboard {
        /// Whether there is one that is wrong.
        is_there: bool,
    },
}

/// An instance that is not wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Termination {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) why: &'static str,
}

/// An instance that an alarm is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Of {
    /// One that is there.
    Id(String),
    /// The n-th, from 0, of those that the plan launches in a role.
    New(Role, usize),
}

/// What has to change.
///
/// # Errors
/// When the stack is somebody else's, or in another network.
pub(super) fn plan(desired: &Desired, state: &State) -> anyhow::Result<Vec<Change>> {
    let Desired { name, .. } = desired;
    let mut changes = Vec::new();
    match &state.key_pair {
        None => changes.push(Change::ImportKeyPair),
        Some(key_pair) => ensure!(
            key_pair.public_key == desired.public_key,
            "the stack {name} has another SSH key than this folder has (ssh_key.pem), so it is another folder's or another \
             person's; use another name (--stack), or take that stack down first: cargo xtask down --stack {name}"
        ),
    }

    let subscriptions = state.topic.as_ref().map(|topic| topic.subscriptions.clone()).unwrap_or_default();
    if state.topic.is_none() {
        changes.push(Change::CreateTopic);
    }
    for number in &desired.on_call {
        if !subscriptions.contains_key(number) {
            changes.push(Change::Subscribe { number: number.clone() });
        }
    }
    for (number, arn) in subscriptions {
        if !desired.on_call.contains(&number) {
            changes.push(Change::Unsubscribe { number, arn });
        }
    }

    let rules = match &state.group {
        None => {
            changes.push(Change::CreateGroup);
            &BTreeSet::new()
        }
        Some(group) => {
            ensure!(
                group.vpc == desired.vpc,
                "the stack {name} is in the network {}, and {} is asked for; take it down first: cargo xtask down --stack \
                 {name}",
                group.vpc,
                desired.vpc
            );
            &group.rules
        }
    };
    let missing: BTreeSet<_> = desired.rules.difference(rules).cloned().collect();
    let surplus: BTreeSet<_> = rules.difference(&desired.rules).cloned().collect();
    if !missing.is_empty() {
        changes.push(Change::Authorize(missing));
    }
    if !surplus.is_empty() {
        changes.push(Change::Revoke(surplus));
    }

    if let Some(body) = &state.dashboard {
        ensure!(
            is_our_dashboard(body, name, &desired.region),
            "there is a dashboard {} that is not of this stack; use another name (--stack), or delete it",
            dashboard_name(name, &desired.region)
        );
    }

    let (kept, goners) = sort_out(desired, state);
    let wanted: BTreeSet<_> = kept
        .iter()
        .flat_map(|instance| Action::ALL.map(|action| alarm_name(name, &instance.id, action)))
        .collect();
    let surplus: Vec<_> = state.alarms.keys().filter(|alarm| !wanted.contains(*alarm)).cloned().collect();
    changes.extend(surplus.chunks(DELETED_AT_ONCE).map(|names| Change::DeleteAlarms(names.to_vec())));
    if !goners.is_empty() {
        changes.push(Change::Terminate(goners));
    }

    let mut of: Vec<_> = kept.iter().map(|instance| (Of::Id(instance.id.clone()), instance.role)).collect();
    let is_complete = of.len() == desired.machines.values().sum::<usize>();
    for (&role, &count) in &desired.machines {
        let there = kept.iter().filter(|instance| instance.role == Some(role)).count();
        if there < count {
            changes.push(Change::Launch { role, count: count - there });
            of.extend((0..count - there).map(|i| (Of::New(role, i), Some(role))));
        }
    }
    for (of, role) in of {
        for action in Action::ALL {
            let there = match &of {
                Of::Id(id) => state.alarms.get(&alarm_name(name, id, action)),
                Of::New(..) => None,
            };
            let minutes = action.minutes(role);
            if !there.is_some_and(|alarm| is_right(alarm, &of, action, minutes, desired)) {
                changes.push(Change::PutAlarm { of: of.clone(), action, minutes, is_there: there.is_some() });
            }
        }
    }
    if !is_complete || state.dashboard.as_ref() != Some(&desired.dashboard(&kept)) {
        changes.push(Change::PutDashboard { is_there: state.dashboard.is_some() });
    }
    Ok(changes)
}

/// Whether an alarm is as it should be.
fn is_right(alarm: &Alarm, of: &Of, action: Action, minutes: i32, desired: &Desired) -> bool {
    let [does] = alarm.actions.as_slice() else { return false };
    let does_it = match action {
        Action::Notify => does.rsplit(':').next() == Some(&desired.name),
        Action::Terminate => *does == desired.terminate_arn(),
    };
    *of == Of::Id(alarm.instance.clone())
        && alarm.metric == CHECK
        && alarm.minutes == Some(minutes)
        && does_it
}

/// Which instances can stay, and which have to go, and why.
fn sort_out(desired: &Desired, state: &State) -> (Vec<Instance>, Vec<Termination>) {
    let mut left = desired.machines.clone();
    let (mut kept, mut goners) = (Vec::new(), Vec::new());
    for (name, instance) in names(&state.instances) {
        let room = instance.role.and_then(|role| left.get_mut(&role));
        let why = if instance.life == Life::Stopped {
            "it was stopped"
        } else if !desired.instance_types.contains(&instance.instance_type) {
            "its type is not asked for any more"
        } else if desired.image.as_ref().is_some_and(|image| *image != instance.image) {
            "its image is not asked for any more"
        } else if instance.fingerprint.is_none() {
            "its host key is not known"
        } else {
            match room {
                Some(room) if *room > 0 => {
                    *room -= 1;
                    kept.push(instance.clone());
                    continue;
                }
                _ => "it is more than is asked for",
            }
        };
        goners.push(Termination { id: instance.id.clone(), name, why });
    }
    (kept, goners)
}

/// What the stack costs in an hour, once it is as it should be: list prices, in US dollars. `None` where one is not known.
pub(super) fn hourly_price(desired: &Desired, state: &State) -> Option<f64> {
    let (kept, _) = sort_out(desired, state);
    let missing = desired.machines.values().sum::<usize>() - kept.len();
    let first = desired.instance_types.first().map(String::as_str);
    let types = kept
        .iter()
        .map(|instance| instance.instance_type.as_str())
        .chain(first.into_iter().cycle().take(missing));
    types.map(|instance_type| prices::hourly(instance_type, &desired.region, desired.disk_gib)).sum()
}

impl Change {
    /// The call, as the API names it.
    pub(super) fn call(&self) -> &'static str {
        match self {
            Self::ImportKeyPair => "ImportKeyPair",
            Self::CreateTopic => "CreateTopic",
            Self::Subscribe { .. } => "Subscribe",
            Self::Unsubscribe { .. } => "Unsubscribe",
            Self::CreateGroup => "CreateSecurityGroup",
            Self::Authorize(_) => "AuthorizeSecurityGroupIngress",
            Self::Revoke(_) => "RevokeSecurityGroupIngress",
            Self::DeleteAlarms(_) => "DeleteAlarms",
            Self::Terminate(_) => "TerminateInstances",
            Self::Launch { .. } => "RunInstances",
            Self::PutAlarm { .. } => "PutMetricAlarm",
            Self::PutDashboard { .. } => "PutDashboard",
        }
    }

    /// Whether this is about an alarm. CloudWatch takes few of these a second, and no host waits for them.
    pub(super) fn is_alarm(&self) -> bool {
        matches!(self, Self::PutAlarm { .. } | Self::DeleteAlarms(_))
    }

    /// Whether something is created, changed or destroyed.
    pub(super) fn sign(&self) -> Sign {
        match self {
            Self::Unsubscribe { .. } | Self::Revoke(_) | Self::DeleteAlarms(_) | Self::Terminate(_) => {
                Sign::Destroy
            }
            Self::PutAlarm { is_there: true, .. } | Self::PutDashboard { is_there: true } => Sign::Change,
            _ => Sign::Create,
        }
    }
}

#[cfg(test)]
mod tests;
