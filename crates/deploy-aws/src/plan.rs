//! The plan: the changes from a stack's state to the desired one. Pure.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;

use crate::desired::{Action, CHECK, Desired, alarm_name, dashboard_name, is_our_dashboard};
use crate::discover::prices;
use crate::discover::state::{Alarm, Instance, Life, Rule, State, names};
use deploy_ssh::inventory::Role;

mod render;

pub(crate) use render::json;
pub(crate) use render::lines;

/// How many alarms one call deletes at most.
pub(crate) const DELETED_AT_ONCE: usize = 100;

/// The kind of a change, as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    Create,
    Change,
    Destroy,
}

impl Sign {
    pub(crate) fn mark(self) -> char {
        match self {
            Self::Create => '+',
            Self::Change => '~',
            Self::Destroy => '-',
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Change => "change",
            Self::Destroy => "destroy",
        }
    }

    /// An ANSI colour code.
    pub(crate) fn colour(self) -> u8 {
        match self {
            Self::Create => 32,
            Self::Change => 33,
            Self::Destroy => 31,
        }
    }
}

/// A change is one call, unless that fails and there is another way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
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
    /// Adds rules.
    Authorize(BTreeSet<Rule>),
    /// Removes rules.
    Revoke(BTreeSet<Rule>),
    DeleteAlarms(Vec<String>),
    Terminate(Vec<Termination>),
    Launch {
        role: Role,
        count: usize,
    },
    PutAlarm {
        target: AlarmTarget,
        action: Action,
        /// After how many failed minutes it fires.
        minutes: i32,
        /// Whether it replaces a wrong one.
        exists: bool,
    },
    PutDashboard {
        /// Whether it replaces a wrong one.
        exists: bool,
    },
}

/// An instance to terminate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Termination {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) why: &'static str,
}

/// The instance that an alarm watches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AlarmTarget {
    /// By its id.
    Existing(String),
    /// A launched instance, by its role and its index (from 0) among those that the plan launches in the role.
    Planned(Role, usize),
}

/// The changes that bring a stack from its state to the desired one, in the order in which they are made.
///
/// # Errors
/// The stack, or something of its name, is not ours; or the stack is in another network.
pub(crate) fn plan(desired: &Desired, state: &State) -> anyhow::Result<Vec<Change>> {
    ensure_ours(desired, state)?;
    let (kept, terminations) = reconcile_instances(desired, state);
    let launches = launches(desired, &kept);
    let mut changes = Vec::new();
    if state.key_pair.is_none() {
        changes.push(Change::ImportKeyPair);
    }
    changes.extend(topic_changes(desired, state));
    changes.extend(group_changes(desired, state));
    changes.extend(surplus_alarms(desired, state, &kept));
    if !terminations.is_empty() {
        changes.push(Change::Terminate(terminations));
    }
    changes.extend(launches.iter().map(|(&role, &count)| Change::Launch { role, count }));
    changes.extend(missing_alarms(desired, state, &kept, &launches));
    let is_complete = launches.is_empty();
    if !is_complete || state.dashboard.as_ref() != Some(&desired.dashboard(&kept)) {
        changes.push(Change::PutDashboard { exists: state.dashboard.is_some() });
    }
    Ok(changes)
}

/// Refuses to change what another folder or person made.
fn ensure_ours(desired: &Desired, state: &State) -> anyhow::Result<()> {
    let Desired { name, region, .. } = desired;
    if let Some(key_pair) = &state.key_pair {
        ensure!(
            key_pair.public_key == desired.public_key,
            "the stack {name} has another SSH key than this folder has (ssh_key.pem), so it is another folder's or another \
             person's; use another name (--stack), or take that stack down first: cargo xtask down --stack {name}"
        );
    }
    if let Some(group) = &state.group {
        ensure!(
            group.vpc == desired.vpc,
            "the stack {name} is in the network {}, and {} is requested; take it down first: cargo xtask down --stack {name}",
            group.vpc,
            desired.vpc
        );
    }
    if let Some(body) = &state.dashboard {
        ensure!(
            is_our_dashboard(body, name, region),
            "there is a dashboard {} that is not of this stack; use another name (--stack), or delete it",
            dashboard_name(name, region)
        );
    }
    Ok(())
}

fn topic_changes(desired: &Desired, state: &State) -> Vec<Change> {
    let subscriptions = state.topic.as_ref().map(|topic| topic.subscriptions.clone()).unwrap_or_default();
    let create = state.topic.is_none().then_some(Change::CreateTopic);
    let missing = desired.on_call.iter().filter(|number| !subscriptions.contains_key(*number));
    let subscribe = missing.map(|number| Change::Subscribe { number: number.clone() });
    let surplus = subscriptions.iter().filter(|(number, _)| !desired.on_call.contains(*number));
    let unsubscribe =
        surplus.map(|(number, arn)| Change::Unsubscribe { number: number.clone(), arn: arn.clone() });
    create.into_iter().chain(subscribe).chain(unsubscribe).collect()
}

fn group_changes(desired: &Desired, state: &State) -> Vec<Change> {
    let rules = state.group.as_ref().map(|group| group.rules.clone()).unwrap_or_default();
    let create = state.group.is_none().then_some(Change::CreateGroup);
    let missing: BTreeSet<_> = desired.rules.difference(&rules).cloned().collect();
    let surplus: BTreeSet<_> = rules.difference(&desired.rules).cloned().collect();
    let authorize = (!missing.is_empty()).then_some(Change::Authorize(missing));
    let revoke = (!surplus.is_empty()).then_some(Change::Revoke(surplus));
    [create, authorize, revoke].into_iter().flatten().collect()
}

/// How many instances to launch for each role; none if no instance is missing.
fn launches(desired: &Desired, kept: &[Instance]) -> BTreeMap<Role, usize> {
    let missing = |(&role, &count): (&Role, &usize)| {
        let kept = kept.iter().filter(|instance| instance.role == Some(role)).count();
        (kept < count).then_some((role, count - kept))
    };
    desired.machines.iter().filter_map(missing).collect()
}

/// Deletes the alarms of instances that are not kept.
fn surplus_alarms(desired: &Desired, state: &State, kept: &[Instance]) -> Vec<Change> {
    let of = |instance: &Instance| Action::ALL.map(|action| alarm_name(&desired.name, &instance.id, action));
    let wanted: BTreeSet<_> = kept.iter().flat_map(of).collect();
    let surplus: Vec<_> = state.alarms.keys().filter(|alarm| !wanted.contains(*alarm)).cloned().collect();
    surplus.chunks(DELETED_AT_ONCE).map(|names| Change::DeleteAlarms(names.to_vec())).collect()
}

/// Puts the alarms that are missing or wrong: of the instances that are kept, and of those to launch.
fn missing_alarms(
    desired: &Desired,
    state: &State,
    kept: &[Instance],
    launches: &BTreeMap<Role, usize>,
) -> Vec<Change> {
    let existing = kept.iter().map(|instance| (AlarmTarget::Existing(instance.id.clone()), instance.role));
    let planned = launches
        .iter()
        .flat_map(|(&role, &count)| (0..count).map(move |n| (AlarmTarget::Planned(role, n), Some(role))));
    let mut changes = Vec::new();
    for (target, role) in existing.chain(planned) {
        for action in Action::ALL {
            let alarm = match &target {
                AlarmTarget::Existing(id) => state.alarms.get(&alarm_name(&desired.name, id, action)),
                AlarmTarget::Planned(..) => None,
            };
            let minutes = action.minutes(role);
            if !alarm.is_some_and(|alarm| is_right(alarm, &target, action, minutes, desired)) {
                let (target, exists) = (target.clone(), alarm.is_some());
                changes.push(Change::PutAlarm { target, action, minutes, exists });
            }
        }
    }
    changes
}

fn is_right(alarm: &Alarm, target: &AlarmTarget, action: Action, minutes: i32, desired: &Desired) -> bool {
    let [arn] = alarm.actions.as_slice() else { return false };
    let has_action = match action {
        Action::Notify => arn.rsplit(':').next() == Some(&desired.name),
        Action::Terminate => *arn == desired.terminate_arn(),
    };
    *target == AlarmTarget::Existing(alarm.instance.clone())
        && alarm.metric == CHECK
        && alarm.minutes == Some(minutes)
        && has_action
}

/// Decides which instances are kept, and which are terminated.
fn reconcile_instances(desired: &Desired, state: &State) -> (Vec<Instance>, Vec<Termination>) {
    let mut left = desired.machines.clone();
    let (mut kept, mut terminations) = (Vec::new(), Vec::new());
    for (name, instance) in names(&state.instances) {
        let room = instance.role.and_then(|role| left.get_mut(&role));
        let why = if instance.life == Life::Stopped {
            "it was stopped"
        } else if !desired.instance_types.contains(&instance.instance_type) {
            "its type is no longer requested"
        } else if desired.image.as_ref().is_some_and(|image| *image != instance.image) {
            "its image is no longer requested"
        } else if instance.fingerprint.is_none() {
            "its host key is not known"
        } else {
            match room {
                Some(room) if *room > 0 => {
                    *room -= 1;
                    kept.push(instance.clone());
                    continue;
                }
                _ => "it exceeds the requested number",
            }
        };
        terminations.push(Termination { id: instance.id.clone(), name, why });
    }
    (kept, terminations)
}

/// The price of the desired stack in US dollars an hour, by list prices. `None` if one of them is not known.
pub(crate) fn hourly_price(desired: &Desired, state: &State) -> Option<f64> {
    let (kept, _) = reconcile_instances(desired, state);
    let missing = desired.machines.values().sum::<usize>() - kept.len();
    let first = desired.instance_types.first().map(String::as_str);
    let types = kept
        .iter()
        .map(|instance| instance.instance_type.as_str())
        .chain(first.into_iter().cycle().take(missing));
    types.map(|instance_type| prices::hourly(instance_type, &desired.region, desired.disk_gib)).sum()
}

impl Change {
    /// The name of the API's call.
    pub(crate) fn call(&self) -> &'static str {
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

    /// CloudWatch accepts few calls for alarms a second, so they are made while machines boot.
    pub(crate) fn is_alarm(&self) -> bool {
        matches!(self, Self::PutAlarm { .. } | Self::DeleteAlarms(_))
    }

    pub(crate) fn sign(&self) -> Sign {
        match self {
            Self::Unsubscribe { .. } | Self::Revoke(_) | Self::DeleteAlarms(_) | Self::Terminate(_) => {
                Sign::Destroy
            }
            Self::PutAlarm { exists: true, .. } | Self::PutDashboard { exists: true } => Sign::Change,
            _ => Sign::Create,
        }
    }
}

#[cfg(test)]
mod tests;
