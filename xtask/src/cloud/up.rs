//! Subcommands: cargo xtask plan and up, in the cloud

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};

use super::apply::{Apply, NotOurs};
use super::aws::{self, Aws};
use super::desired::Desired;
use super::look::{instances, look, without_comment};
use super::place::Network;
use super::plan::{self, Change, Sign};
use super::settings::{Settings, on_call};
use super::state::{Instance, State, names};
use super::{destroy, launch, prices};
use crate::commands::remote::{Cloud, Place, Plan, Up};
use crate::host::ssh::Access;
use crate::hosts::{Cast, HostEntry, Inventory, Role};
use crate::interrupt::{self, Interrupted};
use crate::keys::{self, KeyFiles};
use crate::remote::probe::{Probed, probe};
use crate::remote::programs::{BlackBox, Programs};
use crate::remote::up::{Wanted, make_ready};
use crate::remote::{self, all, each};
use crate::runtime::runtime;
use crate::{step, ui};

/// How often a stack is brought to where it should be, when it is not after all changes.
const ROUNDS: usize = 5;
/// Before a stack is looked at again, at first; each further time twice as long.
const ROUND_PAUSE: Duration = Duration::from_secs(1);
/// How long an instance may be unseen that was launched.
const UNSEEN_TIME: Duration = Duration::from_secs(5);
/// Between two tries to log in to a machine that boots.
const BOOT_PAUSE: Duration = Duration::from_millis(500);
/// The exit code of an `up` that was refused before it changed anything.
pub(super) const NOTHING_DONE: u8 = 3;
/// The exit code of a plan that has changes.
const CHANGES: u8 = 2;

/// What is known before AWS is asked.
struct Prepared {
    settings: Settings,
    settings_path: PathBuf,
    on_call: BTreeSet<String>,
    keys: KeyFiles,
    public_key: String,
    inventory_path: PathBuf,
    before: Option<Inventory>,
}

impl Prepared {
    fn new(cloud: &Cloud, cluster_size: Option<u16>, place: &Place) -> anyhow::Result<Self> {
        let inventory_path = remote::inventory_path(place)?;
        let before = Inventory::load_if_there(&inventory_path)?;
        ensure!(
            before.as_ref().is_none_or(|before| before.stack.is_some()),
            "the hosts of {} are not in the cloud; take them down first (cargo xtask down), or use another folder \
             (--inventory FILE)",
            inventory_path.display()
        );
        let settings_path = Settings::path(place)?;
        let settings = Settings::new(cloud, cluster_size, Settings::load(&settings_path)?)?;
        let folder = inventory_path.parent().unwrap_or(Path::new(""));
        let on_call = on_call(cloud.oncall.as_deref().unwrap_or(&folder.join("ONCALL.json")))?;
        let keys = keys::make(folder)?;
        let public_key = std::fs::read_to_string(&keys.public)
            .with_context(|| format!("reading {}", keys.public.display()))?;
        let public_key = without_comment(&public_key);
        Ok(Self { settings, settings_path, on_call, keys, public_key, inventory_path, before })
    }

    /// Remembers whether something of the stack may be in the cloud.
    fn remember(&mut self, may_be_up: bool) -> anyhow::Result<()> {
        self.settings.may_be_up = may_be_up;
        self.settings.save(&self.settings_path)
    }

    /// Keeps two `up`s from working on the same stack. (Those of two folders have two keys, and the first one wins.)
    fn lock(&self) -> anyhow::Result<File> {
        let private = &self.keys.private;
        let file = File::open(private).with_context(|| format!("opening {}", private.display()))?;
        ensure!(file.try_lock().is_ok(), "another cargo xtask up is at work on this stack; wait for it");
        Ok(file)
    }

    fn access(&self) -> Access {
        remote::access(&self.inventory_path, None)
    }

    fn stack(&self) -> String {
        format!("{} in {}", self.settings.stack, self.settings.region)
    }
}

/// A stack as it should be, and as it is.
struct Target {
    aws: Aws,
    network: Network,
    desired: Desired,
    state: State,
}

impl Target {
    async fn find(prepared: &Prepared) -> anyhow::Result<Self> {
        let settings = &prepared.settings;
        let aws = Aws::connect(&settings.region).await?;
        let network = Network::find(&aws, settings.subnet.as_deref()).await?;
        let ssh_from = match &settings.ssh_from {
            Some(networks) => networks.clone(),
            None => {
                let address = aws::own_address().await?;
                BTreeSet::from([format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })])
            }
        };
        let (key, on_call) = (prepared.public_key.clone(), prepared.on_call.clone());
        let desired = Desired::new(settings, key, network.vpc.clone(), &ssh_from, on_call);
        let state = look(&aws, &settings.stack).await?;
        Ok(Self { aws, network, desired, state })
    }
}

/// Shows what `up` would change.
pub(super) fn plan(args: &Plan) -> anyhow::Result<ExitCode> {
    let prepared = Prepared::new(&args.cloud, args.cluster_size, &args.place)?;
    let target = runtime()?.block_on(Target::find(&prepared))?;
    let changes = plan::plan(&target.desired, &target.state)?;
    say_what_is_for_new_ones(&args.cloud, &target.state);
    if args.json {
        let json = plan::json(&changes, &target.desired, &target.state);
        ui::data(&serde_json::to_string_pretty(&json).context("encoding the plan")?);
    } else {
        show(&changes, &target.desired, &target.state);
    }
    Ok(if changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(CHANGES) })
}

fn show(changes: &[Change], desired: &Desired, state: &State) {
    let price = plan::hourly_price(desired, state);
    let price = price.map_or("a price that is not known here".to_owned(), |price| {
        format!("{} an hour, at list price", prices::usd(price))
    });
    let stack = format!("{} in {}", desired.name, desired.region);
    if changes.is_empty() {
        ui::data(&format!("nothing to change: {stack} is as it should be ({price})"));
        return;
    }
    for (sign, text) in plan::lines(changes, desired) {
        ui::marked(sign.mark(), sign.colour(), &text);
    }
    let count = |wanted: Sign| changes.iter().filter(|change| change.sign() == wanted).count();
    ui::data(&format!(
        "{stack}: {} to create, {} to change, {} to destroy; then for {price}",
        count(Sign::Create),
        count(Sign::Change),
        count(Sign::Destroy)
    ));
}

/// What `up` is about to do.
struct Begun {
    prepared: Prepared,
    black_box: BlackBox,
    programs: Programs,
    target: Target,
    changes: Vec<Change>,
    _lock: File,
}

/// All that can be refused before anything is changed.
fn begin(args: &Up) -> anyhow::Result<Begun> {
    ensure!(
        args.hosts.is_none() && args.ssh_config.is_none(),
        "--hosts and --ssh-config are for hosts that are there, and not for --provider aws"
    );
    let mut prepared = Prepared::new(&args.cloud, args.cluster_size, &args.place)?;
    let lock = prepared.lock()?;
    let black_box = BlackBox::new(args, prepared.before.as_ref())?;
    // What does not compile, and what is not there to be shipped, should cost nothing.
    let programs = Programs::build(&black_box)?;
    let target = runtime()?.block_on(Target::find(&prepared))?;
    let changes = plan::plan(&target.desired, &target.state)?;
    show(&changes, &target.desired, &target.state);
    say_what_is_for_new_ones(&args.cloud, &target.state);
    // From now on, a stack of another name or in another region would make this one be forgotten.
    prepared.remember(true)?;
    interrupt::check()?;
    Ok(Begun { prepared, black_box, programs, target, changes, _lock: lock })
}

/// Some of what is asked for makes no difference to machines that are there.
fn say_what_is_for_new_ones(cloud: &Cloud, state: &State) {
    let is_said = cloud.ttl.is_some() || cloud.spot.is_some() || cloud.disk_gib.is_some();
    if is_said && !state.instances.is_empty() {
        ui::note(&format!(
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
    let Begun { mut prepared, black_box, programs, target, changes, _lock } = match begin(args) {
        Ok(begun) => begun,
        Err(error) => {
            ui::fail(&error);
            return Ok(ExitCode::from(NOTHING_DONE));
        }
    };
    let runtime = runtime()?;
    let is_new = target.state.is_empty();
    let mut has_launched = false;
    let outcome =
        runtime.block_on(converge(&prepared, &target, changes, &mut has_launched)).and_then(|instances| {
            ready(&prepared, args.cloud.boot_time, &target, &instances, black_box, programs)
        });
    let Err(error) = outcome else { return Ok(ExitCode::SUCCESS) };
    if error.is::<NotOurs>() {
        // Made by somebody else since it was looked for; nothing of it is ours to undo.
        prepared.remember(false)?;
        ui::fail(&error);
        return Ok(ExitCode::from(NOTHING_DONE));
    }
    let undone = match (is_new, has_launched) {
        (true, _) => runtime.block_on(destroy::destroy(&target.aws, &target.desired.name)),
        (false, true) => runtime.block_on(end_new_ones(&target)),
        (false, false) => Ok(()),
    };
    if is_new && undone.is_ok() {
        destroy::forget(&prepared.inventory_path)?;
        prepared.remember(false)?;
    }
    match undone {
        Ok(()) if error.is::<Interrupted>() => Ok(ExitCode::from(interrupt::EXIT_CODE)),
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

/// Changes the stack until there is nothing to change any more; gives its instances.
async fn converge(
    prepared: &Prepared,
    target: &Target,
    mut changes: Vec<Change>,
    has_launched: &mut bool,
) -> anyhow::Result<Vec<Instance>> {
    let Target { aws, network, desired, .. } = target;
    let mut state = target.state.clone();
    let (mut rounds, mut pause) = (0..ROUNDS, ROUND_PAUSE);
    while !changes.is_empty() {
        ensure!(
            rounds.next().is_some(),
            "the stack is still not as it should be after {ROUNDS} rounds; is another cargo xtask up at work on it?"
        );
        *has_launched |= changes.iter().any(|change| matches!(change, Change::Launch { .. }));
        let mut apply = Apply::new(aws, &prepared.settings, desired, network, &state);
        apply.run(&changes).await?;
        let launched: Vec<_> = apply.launched.into_values().flatten().collect();
        state = look(aws, &desired.name).await?;
        // What was seen once and is not in a later answer must not be launched again.
        if !launched.iter().all(|id| state.instances.iter().any(|instance| instance.id == *id)) {
            state.instances = launch::await_running(aws, &desired.name, &launched).await?;
        }
        changes = plan::plan(desired, &state)?;
        if !changes.is_empty() {
            // Answers may be older than our own changes.
            tokio::time::sleep(pause).await;
            pause *= 2;
            state = look(aws, &desired.name).await?;
            changes = plan::plan(desired, &state)?;
        }
        if !changes.is_empty() {
            ui::note("the cloud has changed meanwhile:");
            show(&changes, desired, &state);
        }
    }
    let ids: Vec<_> = state.instances.iter().map(|instance| instance.id.clone()).collect();
    launch::await_running(aws, &desired.name, &ids).await
}

/// Ends all instances that were not there before, also those of launches whose answers were lost.
async fn end_new_ones(target: &Target) -> anyhow::Result<()> {
    let deadline = Instant::now() + UNSEEN_TIME;
    loop {
        let seen = instances(&target.aws, &target.desired.name).await?;
        let is_new = |id: &String| target.state.instances.iter().all(|instance| instance.id != *id);
        let new: Vec<_> = seen.there.into_iter().map(|instance| instance.id).filter(is_new).collect();
        if !new.is_empty() {
            launch::end(&target.aws, new).await?;
        }
        if Instant::now() >= deadline {
            return Ok(());
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
}

/// Waits until the machines let us in, and gives them the application.
fn ready(
    prepared: &Prepared,
    boot_time: Duration,
    target: &Target,
    instances: &[Instance],
    black_box: BlackBox,
    programs: Programs,
) -> anyhow::Result<()> {
    let hosts = hosts(prepared, instances)?;
    let wanted = Wanted {
        cast: cast(&hosts)?,
        hosts,
        cluster_size: Some(prepared.settings.cluster_size),
        black_box,
        ssh_config: None,
        stack: Some(prepared.stack()),
        urls: format!("dashboard  {}\n", target.desired.dashboard_url()),
    };
    let access = prepared.access();
    let everyone = wanted.everyone();
    let bar = ui::Steps::new("waiting for machines to let us in", everyone.len());
    let deadline = Instant::now() + boot_time;
    let probed = each(&everyone, |host| probe_until(host, &access, deadline, &bar));
    interrupt::check()?;
    let probed = all(probed)?;
    drop(bar);
    make_ready(&wanted, programs, &probed, prepared.before.as_ref(), &prepared.inventory_path)
}

/// Tries until a machine has booted.
fn probe_until(
    host: &HostEntry,
    access: &Access,
    deadline: Instant,
    bar: &ui::Steps,
) -> anyhow::Result<Probed> {
    loop {
        match probe(host, access) {
            Ok(probed) => {
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

fn cast(hosts: &[HostEntry]) -> anyhow::Result<Cast> {
    let of = |role: Role| hosts.iter().filter(move |host| host.role == Some(role)).cloned();
    let metrics = of(Role::Metrics).next().context("the stack has no metrics host")?;
    let machines: Vec<_> = of(Role::Initializer).chain(of(Role::Worker)).collect();
    ensure!(of(Role::Initializer).count() == 1, "the stack has no initializer");
    Ok(Cast { metrics, machines })
}
