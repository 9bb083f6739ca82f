//! Plans lead from any state to any desired one.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde_json::json;

use super::*;
use crate::desired::TAG;
use crate::discover::state::{Alarm, Group, KeyPair, Source, Topic};
use crate::settings::Settings;

const NAME: &str = "s";
const KEY: &str = "ssh-ed25519 AAAA";

fn desired() -> impl Strategy<Value = Desired> {
    let numbers = btree_set("\\+[1-9][0-9]{3}", 0..3);
    let networks = btree_set(network(), 1..3);
    let image = proptest::option::of(Just("ami-1".to_owned()));
    let types = prop_oneof![Just(vec!["a.b".to_owned()]), Just(vec!["c.d".to_owned(), "a.b".to_owned()])];
    (1..6_usize, numbers, networks, image, types).prop_map(
        |(size, on_call, networks, image, instance_types)| {
            let settings = Settings {
                stack: NAME.into(),
                region: "us-west-2".into(),
                cluster_size: size,
                instance_types,
                image,
                subnet: None,
                ssh_from: None,
                ssh_user: "ubuntu".into(),
                spot: false,
                time_to_live_minutes: 240,
                disk_gib: 30,
                account: None,
                may_be_up: false,
            };
            Desired::new(&settings, "123456789012".into(), KEY.into(), "vpc-1".into(), &networks, on_call)
        },
    )
}

fn network() -> impl Strategy<Value = String> {
    prop_oneof![Just("203.0.113.7/32"), Just("198.51.100.0/24"), Just("0.0.0.0/0")].prop_map(str::to_owned)
}

fn rule() -> impl Strategy<Value = Rule> {
    let source = prop_oneof![
        network().prop_map(Source::Network),
        Just(Source::Members),
        Just(Source::Group("sg-2".into())),
        Just(Source::PrefixList("pl-1".into()))
    ];
    let what = prop_oneof![Just(("tcp", Some((22, 22)))), Just(("tcp", Some((80, 90)))), Just(("-1", None))];
    (what, source).prop_map(|((protocol, ports), source)| Rule { protocol: protocol.into(), ports, source })
}

fn instance() -> impl Strategy<Value = Instance> {
    let role = prop_oneof![
        Just(None),
        Just(Some(Role::Metrics)),
        Just(Some(Role::Initializer)),
        Just(Some(Role::Worker))
    ];
    let life = prop_oneof![Just(Life::Pending), Just(Life::Running), Just(Life::Stopped)];
    let instance_type = prop_oneof![Just("a.b"), Just("c.d"), Just("e.f")];
    let image = prop_oneof![Just("ami-1"), Just("ami-2")];
    (role, life, instance_type, image, 0..3_i64, any::<bool>()).prop_map(
        |(role, life, instance_type, image, launched, has_key)| Instance {
            role,
            launched,
            id: String::new(),
            life,
            instance_type: instance_type.into(),
            image: image.into(),
            zone: "us-west-2a".into(),
            is_spot: false,
            public_address: None,
            private_address: None,
            expires: None,
            fingerprint: has_key.then(|| "SHA256:x".into()),
        },
    )
}

fn alarm() -> impl Strategy<Value = (String, Alarm)> {
    let actions = prop_oneof![
        Just("arn:s".to_owned()),
        Just("arn:other".to_owned()),
        Just("arn:aws:automate:us-west-2:ec2:terminate".to_owned())
    ];
    let minutes = prop_oneof![Just(None), Just(Some(2)), Just(Some(15)), Just(Some(60))];
    let metric = prop_oneof![Just(CHECK), Just("StatusCheckFailed_System")];
    (0..9_u32, 0..2_usize, metric, minutes, vec(actions, 0..3)).prop_map(
        |(i, action, metric, minutes, actions)| {
            let instance = format!("i-{i}");
            let name = alarm_name(NAME, &instance, Action::ALL[action]);
            (name, Alarm { instance, metric: metric.into(), minutes, actions })
        },
    )
}

fn state() -> impl Strategy<Value = State> {
    let key_pair = proptest::option::of(Just(KeyPair { public_key: KEY.into() }));
    let group = proptest::option::of(btree_set(rule(), 0..5).prop_map(|rules| Group {
        id: "sg-1".into(),
        vpc: "vpc-1".into(),
        rules,
    }));
    let topic = proptest::option::of(
        btree_map("\\+[1-9][0-9]{3}", "arn:[a-z]{4}", 0..3)
            .prop_map(|subscriptions| Topic { arn: "arn:s".into(), subscriptions }),
    );
    let dashboard = proptest::option::of(Just(
        json!({"widgets": [{"properties": {"markdown": format!("{TAG}: {NAME} in us-west-2")}}]}),
    ));
    (key_pair, group, vec(instance(), 0..9), topic, vec(alarm(), 0..12), dashboard).prop_map(
        |(key_pair, group, mut instances, topic, alarms, dashboard)| {
            instances.iter_mut().enumerate().for_each(|(i, instance)| instance.id = format!("i-{i}"));
            let alarms = alarms.into_iter().collect();
            State { key_pair, group, instances, topic, alarms, dashboard, ended_recently: false }
        },
    )
}

/// Applies a change as the cloud would.
fn apply(change: &Change, desired: &Desired, state: &mut State, new: &mut BTreeMap<Role, Vec<String>>) {
    match change {
        Change::ImportKeyPair => {
            let public_key = desired.public_key.clone();
            assert!(state.key_pair.replace(KeyPair { public_key }).is_none());
        }
        Change::CreateTopic => {
            let topic = Topic { arn: "arn:s".into(), subscriptions: BTreeMap::new() };
            assert!(state.topic.replace(topic).is_none());
        }
        Change::Subscribe { number } => {
            let topic = state.topic.as_mut().unwrap();
            assert!(topic.subscriptions.insert(number.clone(), "arn:new".into()).is_none());
        }
        Change::Unsubscribe { number, arn } => {
            assert_eq!(state.topic.as_mut().unwrap().subscriptions.remove(number).as_ref(), Some(arn));
        }
        Change::CreateGroup => {
            let group = Group { id: "sg-3".into(), vpc: desired.vpc.clone(), rules: BTreeSet::new() };
            assert!(state.group.replace(group).is_none());
        }
        Change::Authorize(rules) => {
            rules.iter().for_each(|rule| assert!(state.group.as_mut().unwrap().rules.insert(rule.clone())));
        }
        Change::Revoke(rules) => {
            rules.iter().for_each(|rule| assert!(state.group.as_mut().unwrap().rules.remove(rule)));
        }
        Change::DeleteAlarms(names) => {
            assert!(names.len() <= DELETED_AT_ONCE);
            names.iter().for_each(|name| assert!(state.alarms.remove(name).is_some()));
        }
        Change::Terminate(instances) => {
            let before = state.instances.len();
            state.instances.retain(|instance| instances.iter().all(|one| one.id != instance.id));
            assert_eq!(state.instances.len(), before - instances.len());
        }
        Change::Launch { role, count } => {
            for i in 0..*count {
                let id = format!("i-new-{}-{i}", role.word());
                new.entry(*role).or_default().push(id.clone());
                state.instances.push(Instance {
                    role: Some(*role),
                    launched: 100,
                    id,
                    life: Life::Running,
                    instance_type: desired.instance_types[0].clone(),
                    image: "ami-1".into(),
                    zone: "us-west-2a".into(),
                    is_spot: false,
                    public_address: None,
                    private_address: None,
                    expires: None,
                    fingerprint: Some("SHA256:x".into()),
                });
            }
        }
        Change::PutAlarm { target, action, minutes, exists } => {
            let instance = match target {
                AlarmTarget::Existing(id) => id.clone(),
                AlarmTarget::Planned(role, i) => new[role][*i].clone(),
            };
            assert!(state.instances.iter().any(|existing| existing.id == instance));
            let name = alarm_name(NAME, &instance, *action);
            let arn = match action {
                Action::Notify => "arn:s".to_owned(),
                Action::Terminate => desired.terminate_arn(),
            };
            let alarm = Alarm { instance, metric: CHECK.into(), minutes: Some(*minutes), actions: vec![arn] };
            assert_eq!(state.alarms.insert(name, alarm).is_some(), *exists);
        }
        Change::PutDashboard { exists } => {
            let body = desired.dashboard(&state.instances);
            assert_eq!(state.dashboard.replace(body).is_some(), *exists);
        }
    }
}

proptest! {
    #[test]
    fn a_plan_leads_from_any_state_to_the_desired_one(desired in desired(), mut state in state()) {
        let changes = plan(&desired, &state).unwrap();
        let before = state.clone();
        let mut new = BTreeMap::new();
        for change in &changes {
            apply(change, &desired, &mut state, &mut new);
        }
        prop_assert_eq!(plan(&desired, &state).unwrap(), []);
        prop_assert_eq!(state.instances.len(), desired.machines.values().sum::<usize>());
        prop_assert_eq!(&state.group.as_ref().unwrap().rules, &desired.rules);
        prop_assert!(state.topic.unwrap().subscriptions.keys().eq(&desired.on_call));
        prop_assert_eq!(state.alarms.len(), 2 * state.instances.len());
        // No instance is replaced that could stay.
        let fits = |instance: &&Instance| {
            instance.life != Life::Stopped
                && instance.role.is_some()
                && instance.fingerprint.is_some()
                && desired.instance_types.contains(&instance.instance_type)
                && desired.image.as_ref().is_none_or(|image| *image == instance.image)
        };
        for (role, wanted) in &desired.machines {
            let of_role = |instance: &&Instance| instance.role == Some(*role);
            let fit = before.instances.iter().filter(of_role).filter(fits).count();
            let launched = new.get(role).map_or(0, Vec::len);
            prop_assert_eq!(launched, wanted.saturating_sub(fit));
        }
    }
}

fn settled() -> (Desired, State) {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let desired = desired().new_tree(&mut runner).unwrap().current();
    let mut state = State::default();
    let mut new = BTreeMap::new();
    for change in plan(&desired, &state).unwrap() {
        apply(&change, &desired, &mut state, &mut new);
    }
    (desired, state)
}

#[test]
fn somebody_elses_stack_is_left_alone() {
    let (desired, mut state) = settled();
    state.key_pair.as_mut().unwrap().public_key = "ssh-ed25519 BBBB".into();
    assert!(plan(&desired, &state).unwrap_err().to_string().contains("has another SSH key"));
    let (desired, mut state) = settled();
    state.dashboard = Some(json!({"widgets": []}));
    assert!(
        plan(&desired, &state)
            .unwrap_err()
            .to_string()
            .contains("there is a dashboard s-us-west-2 that is not of")
    );
    let (desired, mut state) = settled();
    state.group.as_mut().unwrap().vpc = "vpc-2".into();
    assert!(plan(&desired, &state).unwrap_err().to_string().contains("is in the network vpc-2"));
}

#[test]
fn a_plan_is_rendered_for_people() {
    let (mut desired, mut state) = settled();
    desired.machines = BTreeMap::from([(Role::Metrics, 1), (Role::Initializer, 1), (Role::Worker, 2)]);
    desired.instance_types = vec!["c5.4xlarge".into()];
    desired.on_call = BTreeSet::from(["+14155550100".into()]);
    desired.rules = BTreeSet::from([Rule {
        protocol: "tcp".into(),
        ports: Some((22, 22)),
        source: Source::Network("203.0.113.7/32".into()),
    }]);
    let lines_of = |state: &State| -> Vec<String> {
        let changes = plan(&desired, state).unwrap();
        lines(&changes, &desired).iter().map(|(sign, text)| format!("{} {text}", sign.mark())).collect()
    };
    assert_eq!(
        lines_of(&State::default()),
        [
            "+ key pair s",
            "+ topic s",
            "+ text messages about alarms to +14155550100",
            "+ security group s",
            "+ security group s lets in SSH from 203.0.113.7/32",
            "+ 1 × c5.4xlarge for the metrics host ($0.69 an hour)",
            "+ 1 × c5.4xlarge for the initializer ($0.69 an hour)",
            "+ 2 × c5.4xlarge for workers ($1.38 an hour)",
            "+ dashboard s-us-west-2",
            "+ 8 alarms for 4 instances (StatusCheckFailed: notifies after 2 minutes; ends the machine after 15, the metrics \
             host after 60)",
        ]
    );
    // Only workers may be spot instances: an interruption of another one would end the job.
    let with_spot = Desired { spot: true, ..desired.clone() };
    let lines = lines(&plan(&with_spot, &State::default()).unwrap(), &with_spot);
    let spot: Vec<_> = lines.iter().map(|(_, text)| text).filter(|text| text.contains("spot")).collect();
    assert_eq!(spot, ["2 × spot c5.4xlarge for workers (at most $1.38 an hour)"]);
    state.instances.truncate(1);
    let text = lines_of(&state).join("\n");
    assert!(
        text.contains("- instances metrics (i-new-metrics-0): its type is no longer requested"),
        "{text}"
    );
}

#[test]
fn a_dashboard_of_a_thousand_machines_is_within_cloudwatchs_limits() {
    let (desired, state) = settled();
    let one = state.instances[0].clone();
    let instances: Vec<_> =
        (0..1001).map(|i| Instance { id: format!("i-{i:017x}"), ..one.clone() }).collect();
    let body = desired.dashboard(&instances);
    let widgets = body["widgets"].as_array().unwrap();
    let metrics: Vec<_> =
        widgets[1..].iter().map(|widget| widget["properties"]["metrics"].as_array().unwrap().len()).collect();
    assert_eq!(metrics, [500, 500, 1]);
    // Basic monitoring has a point every five minutes; with a shorter period, most points would be empty.
    assert!(widgets[1..].iter().all(|widget| widget["properties"]["period"] == 300));
    assert!(is_our_dashboard(&body, &desired.name, &desired.region));
    // All regions of an account share its dashboards.
    assert!(!is_our_dashboard(&body, &desired.name, "eu-west-1"));
}
