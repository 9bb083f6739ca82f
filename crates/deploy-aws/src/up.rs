//! Subcommands: cargo xtask plan and up, in the cloud

use std::fs::File;
use std::process::ExitCode;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};

use super::alarms::Alarms;
use super::apply::{Apply, NotOurs};
use super::boot;
use super::destroy::destroy;
use super::discover::discover;
use super::errors::{Class, class_of};
use super::instances::{self, UNSEEN_TIME, await_running};
use super::plan::{self, Change};
use super::state::{Instance, State, names};
use super::target::{Prepared, Target, show};
use super::{discover, down};
use deploy::interrupt::{self, Interrupted};
use deploy::request::{Plan, StackOptions, Up};
use deploy::{console, exit, step};
use deploy_ssh::commands::up::{Rollout, Wanted};
use deploy_ssh::inventory::{HostEntry, Role, RoleAssignment};
use deploy_ssh::package::{Model, Programs};
use deploy_ssh::probe::{Probed, probe};
use deploy_ssh::runtime::runtime;
use deploy_ssh::ssh::Access;
use deploy_ssh::{all, each};

/// How often a stack is brought to where it should be, when it is not after all changes.
const ROUNDS: usize = 5;
/// Between two looks at a stack that is not yet seen as it was made.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How long instances are looked for that may have been launched by a call whose answer was lost.
const LOST_TIME: Duration = Duration::from_secs(60);
/// Between two tries to log in to a machine that boots.
const BOOT_PAUSE: Duration = Duration::from_millis(500);
/// The exit code of an `up` that was refused before it changed anything.
pub(super) const NOTHING_DONE: u8 = exit::REFUSED;
/// The exit code of a plan that has changes.
const CHANGES: u8 = 2;

/// Shows what `up` would change.
pub(super) fn plan(args: &Plan) -> anyhow::Result<ExitCode> {
    let prepared = Prepared::new(&args.stack, args.cluster_size, &args.inventory)?;
    let target = runtime()?.block_on(Target::find(&prepared))?;
    say_what_is_for_new_ones(&args.stack, &target.state);
    if args.json {
        let json = plan::json(&target.changes, &target.desired, &target.state);
        console::data(&serde_json::to_string_pretty(&json).context("encoding the plan")?);
    } else {
        target.show();
    }
    Ok(if target.changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(CHANGES) })
}

/// What `up` is about to do.
struct Begun {
    prepared: Prepared,
    model: Model,
    programs: Programs,
    target: Target,
    _lock: File,
}

/// All that can be refused before anything is changed.
fn begin(args: &Up) -> anyhow::Result<Begun> {
    ensure!(
        args.hosts.is_none() && args.ssh_config.is_none(),
        "--hosts and --ssh-config are for hosts that are there, and not for --provider aws"
    );
    let mut prepared = Prepared::new(&args.stack, args.cluster_size, &args.inventory)?;
    let lock = prepared.lock()?;
    let model = Model::new(args, prepared.before.as_ref())?;
    // What does not compile, and what is not there to be shipped, should cost nothing.
    let programs = Programs::build(&model)?;
    let target = runtime()?.block_on(Target::find(&prepared))?;
    target.show();
    say_what_is_for_new_ones(&args.stack, &target.state);
    // From now on, a stack of another name, in another region or account would make this one be forgotten.
    interrupt::check()?;
    prepared.settings.account = Some(target.aws.account.clone());
    prepared.remember(true)?;
    Ok(Begun { prepared, model, programs, target, _lock: lock })
}

/// Some of what is asked for makes no difference to machines that are there.
fn say_what_is_for_new_ones(stack: &StackOptions, state: &State) {
    let is_said = stack.time_to_live.is_some() || stack.spot.is_some() || stack.disk_gib.is_some();
    if is_said && !state.instances.is_empty() {
        console::note(&format!(
            "--ttl, --spot and --disk-gib are for machines that are launched from now on; the {} that are there stay as \
             they are (cargo xtask down and up replaces them)",
            state.instances.len()
        ));
    }
}

/// Brings the stack to where it should be, and makes its hosts ready.
pub(super) fn up(args: &Up) -> anyhow::Result<ExitCode> {
    // As a step of a job, it is told only once.
    interrupt::watch_and_say(
        match step::hosts_go() {
            true => "interrupted; what was made is undone",
            false => "interrupted; what was made is undone (once more: it stays)",
        },
        "interrupted twice: what there is of the stack stays; take it down with: cargo xtask down",
    )?;
    let Begun { mut prepared, model, programs, target, _lock } = match begin(args) {
        Ok(begun) => begun,
        Err(error) => {
            exit::fail(&error);
            return Ok(ExitCode::from(NOTHING_DONE));
        }
    };
    let runtime = runtime()?;
    let is_new = target.state.is_empty();
    let mut has_launched = false;
    let converged = runtime.block_on(converge(&prepared, &target, &mut has_launched));
    let outcome = converged.and_then(|Converged { instances, topic, alarms }| {
        let alarms = Alarms::begin(runtime, &target.aws, &target.desired, &topic, alarms);
        match ready(&prepared, args.stack.boot_time, &target, &instances, model, programs) {
            Ok(()) => alarms.finish(runtime),
            Err(error) => {
                alarms.give_up(runtime);
                Err(error)
            }
        }
    });
    let Err(error) = outcome else { return Ok(ExitCode::SUCCESS) };
    if exit::is::<NotOurs>(&error) {
        // Made by somebody else since it was looked for; nothing of it is ours to undo.
        if is_new {
            prepared.remember(false)?;
        }
        exit::fail(&error);
        return Ok(ExitCode::from(NOTHING_DONE));
    }
    let undone = match (is_new, has_launched) {
        (true, _) => runtime.block_on(destroy(&target.aws, &target.desired.name, UNSEEN_TIME)),
        (false, true) => {
            // What is known of here is seen soon; a launch whose answer was lost is known of nowhere but in AWS's answers.
            let was_lost = class_of(&error) == Some(Class::Unreachable);
            runtime.block_on(end_new_ones(&target, if was_lost { LOST_TIME } else { UNSEEN_TIME }))
        }
        (false, false) => Ok(()),
    };
    if is_new && undone.is_ok() {
        down::forget(&prepared.inventory_path)?;
        prepared.remember(false)?;
    }
    match undone {
        Ok(()) if exit::is::<Interrupted>(&error) => Ok(ExitCode::from(interrupt::EXIT_CODE)),
        Ok(()) => Err(error.context(match (is_new, has_launched) {
            (true, _) => "the stack is not up; all that was made of it is destroyed again",
            (false, true) => "the stack is not as it should be; what was launched for it is ended again",
            (false, false) => "the stack is not as it should be",
        })),
        Err(left) => {
            bail!("{error:#}\n\nbesides, what was made could not be undone; see cargo xtask down: {left:#}")
        }
    }
}

/// A stack that is as it should be, but for its alarms.
struct Converged {
    instances: Vec<Instance>,
    /// Its topic's ARN.
    topic: String,
    /// What is still to be changed: alarms.
    alarms: Vec<Change>,
}

/// Changes the stack until only alarms are to be changed any more.
async fn converge(
    prepared: &Prepared,
    target: &Target,
    has_launched: &mut bool,
) -> anyhow::Result<Converged> {
    let Target { aws, desired, .. } = target;
    let (mut state, mut changes) = (target.state.clone(), target.changes.clone());
    let mut rounds = 0..ROUNDS;
    let is_settled = |changes: &[Change]| changes.iter().all(Change::is_alarm);
    while !is_settled(&changes) {
        ensure!(
            rounds.next().is_some(),
            "the stack is still not as it should be after {ROUNDS} rounds; is another cargo xtask up at work on it?"
        );
        *has_launched |= changes.iter().any(|change| matches!(change, Change::Launch { .. }));
        let mut apply = Apply::new(aws, &prepared.settings, desired, target.place(), &state);
        apply.run(&changes).await?;
        let launched: Vec<_> = apply.launched.into_values().flatten().collect();
        state = discover(aws, &desired.name).await?;
        // What was seen once and is not in a later answer must not be launched again.
        if !launched.iter().all(|id| state.instances.iter().any(|instance| instance.id == *id)) {
            state.instances = await_running(aws, &desired.name, &launched).await?;
        }
        changes = plan::plan(desired, &state)?;
        // Answers may be older than our own changes.
        let deadline = Instant::now() + UNSEEN_TIME;
        while !is_settled(&changes) && Instant::now() < deadline {
            tokio::time::sleep(LOOK_PAUSE).await;
            state = discover(aws, &desired.name).await?;
            changes = plan::plan(desired, &state)?;
        }
        if !is_settled(&changes) {
            console::note("the cloud has changed meanwhile:");
            show(&changes, desired, &state);
        }
    }
    let ids: Vec<_> = state.instances.iter().map(|instance| instance.id.clone()).collect();
    let instances = await_running(aws, &desired.name, &ids).await?;
    let topic = state.topic.map(|topic| topic.arn).context("the stack has no topic")?;
    Ok(Converged { instances, topic, alarms: changes })
}

/// Ends all instances that were not there before, also those of launches whose answers were lost.
async fn end_new_ones(target: &Target, time: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + time;
    loop {
        let seen = discover::instances(&target.aws, &target.desired.name).await?;
        let is_new = |id: &String| target.state.instances.iter().all(|instance| instance.id != *id);
        let new: Vec<_> = seen.there.into_iter().map(|instance| instance.id).filter(is_new).collect();
        if !new.is_empty() {
            instances::end(&target.aws, new).await?;
        }
        if Instant::now() >= deadline {
            return Ok(());
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// Waits until the machines let us in, and gives them the application.
fn ready(
    prepared: &Prepared,
    boot_time: Duration,
    target: &Target,
    instances: &[Instance],
    model: Model,
    programs: Programs,
) -> anyhow::Result<()> {
    let hosts = hosts(prepared, instances)?;
    let wanted = Wanted {
        roles: assign_roles(&hosts)?,
        hosts,
        cluster_size: Some(prepared.settings.cluster_size),
        model,
        ssh_config: None,
        stack: prepared.settings.id().map(|id| id.to_string()),
        urls: format!("dashboard  {}\n", target.desired.dashboard_url()),
    };
    let access = prepared.access();
    let used = wanted.used_hosts();
    let bar = console::Steps::new("waiting for machines to let us in", used.len());
    let deadline = Instant::now() + boot_time;
    let probed = each(&used, |host| probe_until(host, &access, deadline, &bar));
    interrupt::check()?;
    let probed = all(probed)?;
    drop(bar);
    let rollout = Rollout::check(wanted, programs, probed)?;
    rollout.run(prepared.before.as_ref(), &prepared.inventory_path)
}

/// Tries until a machine has booted, and looks whether it will end itself.
fn probe_until(
    host: &HostEntry,
    access: &Access,
    deadline: Instant,
    bar: &console::Steps,
) -> anyhow::Result<Probed> {
    loop {
        match probe(host, access).and_then(|probed| Ok((probed.run(boot::ARMED)?, probed))) {
            Ok((answer, probed)) => {
                boot::ensure_armed(&host.name, &answer)?;
                bar.add();
                return Ok(probed);
            }
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("{} was launched, and does not let us in", host.name)));
            }
            Err(_) => {}
        }
        interrupt::check()?;
        std::thread::sleep(BOOT_PAUSE);
    }
}

/// Instances as hosts.
fn hosts(prepared: &Prepared, instances: &[Instance]) -> anyhow::Result<Vec<HostEntry>> {
    let key = std::path::absolute(&prepared.keys.private).context("finding the SSH key")?;
    names(instances)
        .into_iter()
        .map(|(name, instance)| {
            let address = instance.public_address.clone();
            let address =
                address.with_context(|| format!("{name} ({}) has no public address", instance.id))?;
            Ok(HostEntry {
                name,
                address,
                port: None,
                user: Some(prepared.settings.ssh_user.clone()),
                private_address: instance.private_address.clone(),
                key: Some(key.clone()),
                fingerprint: instance.fingerprint.clone(),
                role: instance.role,
                ends: instance.expires.map(|expires| UNIX_EPOCH + Duration::from_secs(expires.max(0) as u64)),
            })
        })
        .collect()
}

fn assign_roles(hosts: &[HostEntry]) -> anyhow::Result<RoleAssignment> {
    let of = |role: Role| hosts.iter().filter(move |host| host.role == Some(role)).cloned();
    let metrics = of(Role::Metrics).next().context("the stack has no metrics host")?;
    let machines: Vec<_> = of(Role::Initializer).chain(of(Role::Worker)).collect();
    ensure!(of(Role::Initializer).count() == 1, "the stack has no initializer");
    Ok(RoleAssignment { metrics, machines })
}
