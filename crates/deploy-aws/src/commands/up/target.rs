//! The actual and the desired state of a stack, and the changes between them, which `plan` prints and `up` makes.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::apply;
use crate::aws::{self, Aws};
use crate::desired::Desired;
use crate::discover::placement::{Machines, Network};
use crate::discover::prices;
use crate::discover::state::State;
use crate::discover::{discover, without_comment};
use crate::plan::{self, Change, Sign};
use crate::settings::{Settings, on_call};
use crate::sms;
use deploy::console;
use deploy::keys::{self, KeyFiles};
use deploy::request::StackOptions;
use deploy_ssh::inventory::Inventory;
use deploy_ssh::runtime::runtime;
use deploy_ssh::ssh::Access;

/// What is known before AWS is called.
pub(crate) struct Prepared {
    pub(crate) settings: Settings,
    settings_path: PathBuf,
    on_call: BTreeSet<String>,
    pub(crate) keys: KeyFiles,
    public_key: String,
    pub(crate) inventory_path: PathBuf,
    pub(crate) before: Option<Inventory>,
}

impl Prepared {
    pub(crate) fn new(
        stack: &StackOptions,
        cluster_size: Option<u16>,
        inventory: &Path,
    ) -> anyhow::Result<Self> {
        let inventory_path = inventory.to_owned();
        let before = Inventory::load_if_there(&inventory_path)?;
        ensure!(
            before.as_ref().is_none_or(|before| before.stack.is_some()),
            "the hosts of {} are not in the cloud; take them down first (cargo xtask down), or use another folder \
             (--inventory FILE)",
            inventory_path.display()
        );
        let settings_path = Settings::path(inventory);
        let profile_region = runtime()?.block_on(aws::profile_region())?;
        let remembered = Settings::load(&settings_path)?;
        let settings = Settings::new(stack, cluster_size, remembered, profile_region.as_deref())?;
        let folder = inventory_path.parent().unwrap_or(Path::new(""));
        let on_call = on_call(stack.on_call.as_deref().unwrap_or(&folder.join("ONCALL.json")))?;
        let keys = keys::make(folder)?;
        let public_key = std::fs::read_to_string(&keys.public)
            .with_context(|| format!("reading {}", keys.public.display()))?;
        let public_key = without_comment(&public_key);
        Ok(Self { settings, settings_path, on_call, keys, public_key, inventory_path, before })
    }

    /// Saves the settings, with whether something of the stack may exist.
    pub(crate) fn remember(&mut self, may_be_up: bool) -> anyhow::Result<()> {
        self.settings.may_be_up = may_be_up;
        self.settings.save(&self.settings_path)
    }

    /// Keeps two commands of this folder from changing the same stack. (Two folders have two keys, and the first one wins.)
    pub(crate) fn lock(&self) -> anyhow::Result<File> {
        keys::lock(&self.keys)
    }

    pub(crate) fn access(&self) -> Access {
        deploy_ssh::access(&self.inventory_path, None)
    }
}

/// The actual and the desired state of a stack.
pub(crate) struct Target {
    pub(crate) aws: Aws,
    pub(crate) desired: Desired,
    pub(crate) state: State,
    pub(crate) changes: Vec<Change>,
    network: Network,
    /// `None` if the plan launches nothing.
    machines: Option<Machines>,
}

impl Target {
    /// Discovers and checks everything that the changes depend on. Nothing is changed.
    ///
    /// # Errors
    /// Something cannot be created, or is not ours.
    pub(crate) async fn discover(prepared: &Prepared) -> anyhow::Result<Self> {
        let settings = &prepared.settings;
        let aws = Aws::connect(&settings.region).await?;
        settings.ensure_account(&aws.account)?;
        let network = Network::find(&aws, settings.subnet.as_deref()).await?;
        let ssh_from = match &settings.ssh_from {
            Some(networks) => networks.clone(),
            None => BTreeSet::from([aws::own_network().await?]),
        };
        let (key, on_call) = (prepared.public_key.clone(), prepared.on_call.clone());
        let account = aws.account.clone();
        let desired = Desired::new(settings, account, key, network.vpc.clone(), &ssh_from, on_call);
        let state = discover(&aws, &settings.stack).await?;
        let changes = plan::plan(&desired, &state)?;
        let machines = match changes.iter().any(|change| matches!(change, Change::Launch { .. })) {
            true => Some(Machines::find(&aws, settings, &network, &state.instances).await?),
            false => None,
        };
        let numbers: Vec<_> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Subscribe { number } => Some(number),
                _ => None,
            })
            .collect();
        sms::ensure_deliverable(&aws, &numbers).await?;
        Ok(Self { aws, desired, state, changes, network, machines })
    }

    pub(crate) fn placement(&self) -> apply::Placement<'_> {
        apply::Placement { network: &self.network, machines: self.machines.as_ref() }
    }

    /// Prints the plan.
    pub(crate) fn show(&self) {
        show(&self.changes, &self.desired, &self.state);
    }
}

/// Prints a plan.
pub(crate) fn show(changes: &[Change], desired: &Desired, state: &State) {
    let price = plan::hourly_price(desired, state);
    let at_most = if desired.spot { "at most " } else { "" };
    let price = price.map_or("a price that is not known here".to_owned(), |price| {
        format!("{at_most}{} an hour, at list price", prices::usd(price))
    });
    let stack = format!("{} in {}, account {}", desired.name, desired.region, desired.account);
    if changes.is_empty() {
        console::data(&format!("nothing to change: {stack} is as it should be ({price})"));
        return;
    }
    for (sign, text) in plan::lines(changes, desired) {
        console::marked(sign.mark(), sign.colour(), &text);
    }
    let count = |wanted: Sign| changes.iter().filter(|change| change.sign() == wanted).count();
    console::data(&format!(
        "{stack}: {} to create, {} to change, {} to destroy; then for {price}",
        count(Sign::Create),
        count(Sign::Change),
        count(Sign::Destroy)
    ));
}
