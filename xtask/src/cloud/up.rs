//! Subcommands: cargo xtask plan and up, in the cloud

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::apply::Apply;
use super::aws::{self, Aws};
use super::desired::Desired;
use super::look::{Network, look, without_comment};
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
use crate::remote::up::{BlackBox, Programs, Wanted, make_ready};
use crate::remote::{self, all, each};
use crate::runtime::runtime;
use crate::ui;

/// How often a stack is looked at again that is not as it should be after all changes.
const ROUNDS: usize = 3;
/// Between two tries to log in to a machine that boots.
const BOOT_PAUSE: Duration = Duration::from_millis(500);
/// The exit code of a plan that has changes.
const CHANGES: u8 = 2;

/// What is known before AWS is asked.
struct Prepared {
    settings: Settings,
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
        let mut remembered = Settings::load(&settings_path)?;
        if before.is_none()
            && let Some(remembered) = &mut remembered
        {
            // Nothing is up, so the next one may be elsewhere.
            remembered.stack = super::settings::stack(cloud.stack.as_deref(), Some(remembered))?;
            remembered.region = super::settings::region(&cloud.region, Some(remembered))?;
        }
        let settings = Settings::new(cloud, cluster_size, remembered)?;
        let folder = inventory_path.parent().unwrap_or(Path::new(""));
        let on_call = on_call(cloud.oncall.as_deref().unwrap_or(&folder.join("ONCALL.json")))?;
        let keys = keys::make(folder)?;
        let public_key = std::fs::read_to_string(&keys.public)
            .with_context(|| format!("reading {}", keys.public.display()))?;
        let public_key = without_comment(&public_key);
        Ok(Self { settings, on_call, keys, public_key, inventory_path, before })
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

/// Brings the stack to where it should be, and makes its hosts ready.
pub(super) fn up(args: &Up) -> anyhow::Result<ExitCode> {
    interrupt::watch(
        "interrupted twice: what there is of the stack stays; take it down with: cargo xtask down",
    )?;
    ensure!(
        args.hosts.is_none() && args.ssh_config.is_none(),
        "--hosts and --ssh-config are for hosts that are there, and not for --provider aws"
    );
    let prepared = Prepared::new(&args.cloud, args.cluster_size, &args.place)?;
    let black_box = BlackBox::new(args, prepared.before.as_ref())?;
    // What does not compile, and what is not there to be shipped, should cost nothing.
    let programs = Programs::build(&black_box)?;
    let runtime = runtime()?;
    let target = runtime.block_on(Target::find(&prepared))?;
    let changes = plan::plan(&target.desired, &target.state)?;
    show(&changes, &target.desired, &target.state);
    prepared.settings.save(&Settings::path(&args.place)?)?;

    let is_new = target.state.is_empty();
    let mut launched = Vec::new();
    let outcome =
        runtime.block_on(converge(&prepared, &target, changes, &mut launched)).and_then(|instances| {
            ready(&prepared, args.cloud.boot_time, &target, &instances, black_box, programs)
        });
    let Err(error) = outcome else { return Ok(ExitCode::SUCCESS) };
    let is_interruption = error.is::<Interrupted>();
    if is_interruption {
        ui::note("interrupted; what was launched is ended");
    }
    let undone = runtime.block_on(undo(&target, is_new, launched));
    if is_new && undone.is_ok() {
        destroy::forget(&prepared.inventory_path)?;
    }
    match undone {
        Ok(()) if is_interruption => Ok(ExitCode::from(interrupt::EXIT_CODE)),
        Ok(()) => Err(error.context(if is_new {
            "the stack is not up; all that was made of it is destroyed again"
        } else {
            "the stack is not as it should be; what was launched for it is ended again"
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
    launched: &mut Vec<String>,
) -> anyhow::Result<Vec<Instance>> {
    let Target { aws, network, desired, .. } = target;
    let mut state = target.state.clone();
    for round in 0..ROUNDS {
        if round > 0 && !changes.is_empty() {
            ui::note("the cloud has changed meanwhile:");
            show(&changes, desired, &state);
        }
        let mut apply = Apply::new(aws, &prepared.settings, desired, network, &state);
        let applied = apply.run(&changes).await;
        launched.extend(apply.launched.into_values().flatten());
        applied?;
        if changes.is_empty() {
            let ids: Vec<_> = state.instances.iter().map(|instance| instance.id.clone()).collect();
            return launch::await_running(aws, &desired.name, &ids).await;
        }
        state = look(aws, &desired.name).await?;
        changes = plan::plan(desired, &state)?;
        if changes.is_empty() {
            return Ok(state.instances);
        }
    }
    bail!(
        "the stack is still not as it should be after {ROUNDS} rounds; is another cargo xtask up at work on it?"
    )
}

/// Ends what this `up` has launched; all of the stack, if there was nothing of it before.
async fn undo(target: &Target, is_new: bool, launched: Vec<String>) -> anyhow::Result<()> {
    if is_new {
        return destroy::destroy(&target.aws, &target.desired.name).await;
    }
    if launched.is_empty() { Ok(()) } else { launch::end(&target.aws, launched).await }
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
    let probed = all(each(&everyone, |host| probe_until(host, &access, deadline, &bar)))?;
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
