//! `cargo xtask plan` and `up`, for hosts from EC2

pub(crate) mod target;

use std::fs::File;
use std::process::ExitCode;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};

use crate::apply::alarms::Alarms;
use crate::apply::boot;
use crate::apply::destroy::destroy;
use crate::apply::instances::{self, await_running};
use crate::apply::{Apply, NotOurs};
use crate::commands::down;
use crate::commands::up::target::{Prepared, Target, show};
use crate::discover;
use crate::discover::state::{Instance, State, names};
use crate::discover::{discover, prices};
use crate::errors::{Class, class_of};
use crate::plan::{self, Change};
use crate::polling::Polling;
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

/// How many rounds of planning and changing may be needed until a stack is in its desired state.
const ROUNDS: usize = 5;
/// For how long to search for the instances of a launch whose answer was lost.
const LOST_TIME: Duration = Duration::from_secs(60);
/// The pause between two tries to log in to a machine that boots.
const BOOT_PAUSE: Duration = Duration::from_millis(500);
/// The exit code of an `up` that failed before it changed anything, unless another command is changing the stack.
pub(crate) const NOTHING_DONE: u8 = exit::REFUSED;
/// The exit code of a plan that has changes.
const CHANGES: u8 = 2;

/// Prints what `up` would change.
pub(crate) fn plan(args: &Plan) -> anyhow::Result<ExitCode> {
    let prepared = Prepared::new(&args.stack, args.cluster_size, &args.inventory)?;
    let target = runtime()?.block_on(Target::discover(&prepared))?;
    note_options_for_new_machines(&args.stack, &target.state);
    if args.json {
        let json = plan::json(&target.changes, &target.desired, &target.state);
        console::data(&serde_json::to_string_pretty(&json).context("encoding the plan")?);
    } else {
        target.show();
    }
    Ok(if target.changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(CHANGES) })
}

/// What `up` needs to change the stack.
struct Begun {
    prepared: Prepared,
    model: Model,
    programs: Programs,
    target: Target,
    _lock: File,
}

/// Checks everything that can be refused before anything is changed.
fn begin(args: &Up) -> anyhow::Result<Begun> {
    ensure!(
        args.hosts.is_none() && args.ssh_config.is_none(),
        "--hosts and --ssh-config are for existing hosts, and not for --provider aws; leave them out"
    );
    let mut prepared = Prepared::new(&args.stack, args.cluster_size, &args.inventory)?;
    let lock = prepared.lock()?;
    let model = Model::new(args, prepared.before.as_ref())?;
    // Before anything costs money: what does not compile, or does not exist.
    let programs = Programs::build(&model)?;
    let target = runtime()?.block_on(Target::discover(&prepared))?;
    target.show();
    note_options_for_new_machines(&args.stack, &target.state);
    // From now on, this folder refuses a stack of another name, region or account, since it would lose track of this one.
    interrupt::check()?;
    prepared.settings.account = Some(target.aws.account.clone());
    prepared.remember(true)?;
    Ok(Begun { prepared, model, programs, target, _lock: lock })
}

/// Some options have no effect on existing machines.
fn note_options_for_new_machines(stack: &StackOptions, state: &State) {
    let has_some = stack.time_to_live.is_some() || stack.spot.is_some() || stack.disk_gib.is_some();
    if has_some && !state.instances.is_empty() {
        console::note(&format!(
            "--ttl, --spot and --disk-gib are for machines that are launched from now on; the {} existing ones stay as they are \
             (cargo xtask down and up replaces them)",
            state.instances.len()
        ));
    }
}

/// Brings the stack to the desired state, and makes its hosts ready. Undoes its own failure.
pub(crate) fn up(args: &Up) -> anyhow::Result<ExitCode> {
    // As a step of a job, it gets only one interruption.
    interrupt::watch_and_say(
        match step::hosts_go() {
            true => "interrupted; undoing what was made",
            false => "interrupted; undoing what was made (interrupt again to leave it)",
        },
        "interrupted twice: what was made stays; take it down with: cargo xtask down",
    )?;
    let Begun { mut prepared, model, programs, target, _lock } = match begin(args) {
        Ok(begun) => begun,
        Err(error) => {
            exit::fail(&error);
            // Then a job leaves the stack to the other command.
            let code = if exit::is_busy(&error) { exit::BUSY } else { NOTHING_DONE };
            return Ok(ExitCode::from(code));
        }
    };
    let runtime = runtime()?;
    let lag = args.stack.settle;
    let mut has_launched = false;
    let converged = runtime.block_on(converge(&prepared, &target, lag, &mut has_launched));
    let outcome = converged.and_then(|Converged { instances, topic, alarms }| {
        let alarms = Alarms::begin(runtime, &target.aws, &target.desired, &topic, alarms);
        match ready(&prepared, args.stack.boot_time, &target, &instances, model, programs) {
            Ok(()) => alarms.finish(runtime),
            Err(error) => {
                alarms.cancel(runtime);
                Err(error)
            }
        }
    });
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => give_up(error, &mut prepared, &target, has_launched, lag),
    }
}

/// Undoes what a failed `up` has made.
fn give_up(
    error: anyhow::Error,
    prepared: &mut Prepared,
    target: &Target,
    has_launched: bool,
    lag: Duration,
) -> anyhow::Result<ExitCode> {
    let is_new = target.state.is_empty();
    if exit::is::<NotOurs>(&error) {
        // Somebody else created it since `discover`, so nothing of it is ours to undo.
        if is_new {
            prepared.remember(false)?;
        }
        exit::fail(&error);
        return Ok(ExitCode::from(NOTHING_DONE));
    }
    let made = match (is_new, has_launched) {
        (true, _) => Made::Stack,
        (false, true) => Made::Instances,
        (false, false) => Made::Nothing,
    };
    let undone = runtime()?.block_on(undo(made, target, &error, lag));
    if made == Made::Stack && undone.is_ok() {
        down::forget(&prepared.inventory_path)?;
        prepared.remember(false)?;
    }
    match undone {
        Ok(()) if exit::is::<Interrupted>(&error) => Ok(ExitCode::from(interrupt::EXIT_CODE)),
        Ok(()) => Err(error.context(match made {
            Made::Stack => "the stack is not up; everything created for it is destroyed again",
            Made::Instances => {
                "the stack is not in its desired state; the instances launched for it are terminated again"
            }
            Made::Nothing => "the stack is not in its desired state",
        })),
        Err(left) => {
            bail!("{error:#}\n\nbesides, what was made could not be undone; see cargo xtask down: {left:#}")
        }
    }
}

/// What a failed `up` has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// The whole stack.
    Stack,
    /// Instances of a stack that existed before.
    Instances,
    Nothing,
}

async fn undo(made: Made, target: &Target, error: &anyhow::Error, lag: Duration) -> anyhow::Result<()> {
    match made {
        Made::Stack => destroy(&target.aws, &target.desired.name, lag).await,
        Made::Instances => {
            // Known ids become visible soon; a launch whose answer was lost can be found only in AWS's answers.
            let was_lost = class_of(error) == Some(Class::Unreachable);
            terminate_new(target, if was_lost { LOST_TIME } else { lag }).await
        }
        Made::Nothing => Ok(()),
    }
}

/// A stack in its desired state, except for its alarms.
struct Converged {
    instances: Vec<Instance>,
    /// The topic's ARN.
    topic: String,
    /// The remaining changes, all of alarms.
    alarms: Vec<Change>,
}

/// Changes the stack until only changes of alarms remain. `lag` is how old AWS's answers may be.
async fn converge(
    prepared: &Prepared,
    target: &Target,
    lag: Duration,
    has_launched: &mut bool,
) -> anyhow::Result<Converged> {
    let Target { aws, desired, .. } = target;
    let (mut state, mut changes) = (target.state.clone(), target.changes.clone());
    let mut rounds = 0..ROUNDS;
    let is_settled = |changes: &[Change]| changes.iter().all(Change::is_alarm);
    while !is_settled(&changes) {
        ensure!(
            rounds.next().is_some(),
            "the stack is not in its desired state after {ROUNDS} rounds; is another cargo xtask up changing it?"
        );
        *has_launched |= changes.iter().any(|change| matches!(change, Change::Launch { .. }));
        let mut apply = Apply::new(aws, &prepared.settings, desired, target.placement(), &state);
        apply.run(&changes).await?;
        let launched: Vec<_> = apply.launched.into_values().flatten().collect();
        state = discover(aws, &desired.name).await?;
        // An instance that is missing in a later answer must not be launched again.
        if !launched.iter().all(|id| state.instances.iter().any(|instance| instance.id == *id)) {
            state.instances = await_running(aws, &desired.name, &launched).await?;
        }
        changes = plan::plan(desired, &state)?;
        // Answers may be older than our own changes.
        let mut polling = Polling::until(lag);
        while !is_settled(&changes) && !polling.is_over() {
            polling.pause().await;
            state = discover(aws, &desired.name).await?;
            changes = plan::plan(desired, &state)?;
        }
        if !is_settled(&changes) {
            console::note("the stack has changed meanwhile:");
            show(&changes, desired, &state);
        }
    }
    let ids: Vec<_> = state.instances.iter().map(|instance| instance.id.clone()).collect();
    let instances = await_running(aws, &desired.name, &ids).await?;
    let topic = state.topic.map(|topic| topic.arn).context("the stack has no topic")?;
    Ok(Converged { instances, topic, alarms: changes })
}

/// Terminates all instances that did not exist before, including those of launches whose answers were lost.
async fn terminate_new(target: &Target, time: Duration) -> anyhow::Result<()> {
    let mut polling = Polling::until(time);
    loop {
        let found = discover::instances(&target.aws, &target.desired.name).await?;
        let is_new = |id: &String| target.state.instances.iter().all(|instance| instance.id != *id);
        let new: Vec<_> = found.live.into_iter().map(|instance| instance.id).filter(is_new).collect();
        if !new.is_empty() {
            instances::terminate(&target.aws, new).await?;
        }
        if polling.is_over() {
            return Ok(());
        }
        polling.pause().await;
    }
}

/// Waits until the machines let us in, and ships the application to them.
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

/// Probes a machine until it has booted, and checks that it will terminate itself.
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
                return Err(error.context(format!(
                    "{} was launched, but does not let us in; it may need more --boot-time",
                    host.name
                )));
            }
            Err(_) => {}
        }
        interrupt::check()?;
        std::thread::sleep(BOOT_PAUSE);
    }
}

/// The hosts of instances.
fn hosts(prepared: &Prepared, instances: &[Instance]) -> anyhow::Result<Vec<HostEntry>> {
    let key = std::path::absolute(&prepared.keys.private).context("resolving the path of the SSH key")?;
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
                usd_per_hour: prices::of_instance(instance, &prepared.settings),
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
