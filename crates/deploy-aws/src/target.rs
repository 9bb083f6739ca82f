//! A stack as it should be, as it is, and what has to change: all that `plan` shows and `up` begins with.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::aws::{self, Aws};
use super::desired::Desired;
use super::discover::{discover, without_comment};
use super::placement::{Machines, Network};
use super::plan::{self, Change, Sign};
use super::settings::{Settings, on_call};
use super::state::State;
use super::{apply, prices, sms};
use deploy::console;
use deploy::keys::{self, KeyFiles};
use deploy::request::StackOptions;
use deploy_ssh::inventory::Inventory;
use deploy_ssh::runtime::runtime;
use deploy_ssh::ssh::Access;

/// What is known before AWS is asked.
pub(super) struct Prepared {
    pub(super) settings: Settings,
    settings_path: PathBuf,
    on_call: BTreeSet<String>,
    pub(super) keys: KeyFiles,
    public_key: String,
    pub(super) inventory_path: PathBuf,
    pub(super) before: Option<Inventory>,
}

impl Prepared {
    pub(super) fn new(
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

    /// Remembers whether something of the stack may be in the cloud.
    pub(super) fn remember(&mut self, may_be_up: bool) -> anyhow::Result<()> {
        self.settings.may_be_up = may_be_up;
        self.settings.save(&self.settings_path)
    }

    /// Keeps two commands of this folder from working on the same stack. (Two folders have two keys, and the first one wins.)
    pub(super) fn lock(&self) -> anyhow::Result<File> {
        keys::lock(&self.keys)
    }

    pub(super) fn access(&self) -> Access {
        deploy_ssh::access(&self.inventory_path, None)
    }
}

/// A stack as it should be, and as it is.
pub(super) struct Target {
    pub(super) aws: Aws,
    pub(super) desired: Desired,
    pub(super) state: State,
    /// What leads from one to the other.
    pub(super) changes: Vec<Change>,
    network: Network,
    /// What is to be launched, if something is.
    machines: Option<Machines>,
}

impl Target {
    /// Looks at all that changes depend on; nothing is changed.
    ///
    /// # Errors
    /// What cannot be made, or is not ours; better told before anything is made.
    pub(super) async fn find(prepared: &Prepared) -> anyhow::Result<Self> {
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

    /// Where machines are launched.
    pub(super) fn place(&self) -> apply::Place<'_> {
        apply::Place { network: &self.network, machines: self.machines.as_ref() }
    }

    /// Shows what has to change.
    pub(super) fn show(&self) {
        show(&self.changes, &self.desired, &self.state);
    }
}

/// Shows what has to change.
pub(super) fn show(changes: &[Change], desired: &Desired, state: &State) {
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
