//! `cargo xtask down`, for hosts from EC2

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};

use crate::apply::destroy::destroy;
use crate::aws::{self, Aws, Explain};
use crate::discover::{key_pair, without_comment};
use crate::settings::{self, Settings};
use crate::stack_id::StackId;
use deploy::keys;
use deploy::objects::{self, UPLOADS};
use deploy::request::Down;
use deploy::{console, interrupt};
use deploy_ssh::inventory::Inventory;
use deploy_ssh::runtime::runtime;
use tokio::runtime::Runtime;

/// Destroys a stack.
pub(crate) fn down(args: &Down) -> anyhow::Result<ExitCode> {
    interrupt::watch_and_say(
        "continuing, so that nothing you pay for is left (interrupt again to stop)",
        "interrupted twice: another cargo xtask down continues",
    )?;
    let mut known = Known::load(args)?;
    let own_key = own_key(args, &args.inventory)?;
    let folder = args.inventory.parent().unwrap_or(Path::new(""));
    let _lock = own_key.as_ref().map(|_| keys::lock(&keys::files(folder))).transpose()?;
    let runtime = runtime()?;
    let (aws, regions) = known.regions(args, runtime)?;
    let stack = known.stack.clone();
    if let Some(inventory) =
        known.inventory.as_ref().filter(|inventory| inventory.ready && !args.discard_results)
        && regions.iter().any(|region| known.is_in(region))
    {
        let access = deploy_ssh::access(&args.inventory, inventory.ssh_config.clone());
        deploy_ssh::ensure_all_fetched(inventory, &access, "cargo xtask down --discard-results")?;
    }
    let mut failed = Vec::new();
    for region in &regions {
        let aws = aws.in_region(region);
        match runtime.block_on(down_in(&aws, &stack, own_key.as_deref(), args)) {
            Ok(()) => {
                let account = aws.account.clone();
                let id = StackId { name: stack.clone(), region: region.clone(), account };
                console::note(&format!("nothing is left of {id}"));
                known.forget(&id, args)?;
            }
            Err(error) => failed.push(format!("{region}: {error:#}")),
        }
    }
    match failed.as_slice() {
        // With an inventory, this folder has another stack, whose job may run.
        [] if !args.inventory.exists() => {
            let uploads = folder.join(UPLOADS);
            objects::abort(folder).with_context(|| {
                format!(
                    "the stack is down, but an upload of the last job is open at S3 ({})",
                    uploads.display()
                )
            })?;
            Ok(ExitCode::SUCCESS)
        }
        [] => Ok(ExitCode::SUCCESS),
        failed => bail!("the stack {stack} of account {} is not down:\n{}", aws.account, failed.join("\n")),
    }
}

/// What this folder knows of the stack.
struct Known {
    stack: String,
    remembered: Option<Settings>,
    inventory: Option<Inventory>,
    /// The stack of the inventory.
    id: Option<StackId>,
}

impl Known {
    fn load(args: &Down) -> anyhow::Result<Self> {
        let remembered = Settings::load(&Settings::path(&args.inventory))?;
        let inventory = Inventory::load_if_there(&args.inventory)?;
        let id = inventory.as_ref().and_then(|inventory| StackId::parse(inventory.stack.as_ref()?));
        let mut known = Self { stack: String::new(), remembered, inventory, id };
        let only_known = known.only_known().map(|id| id.name.as_str());
        known.stack = settings::stack(args.stack.as_deref().or(only_known), known.remembered.as_ref())?;
        Ok(known)
    }

    /// The stack of the inventory, if stack.toml is missing.
    fn only_known(&self) -> Option<&StackId> {
        self.id.as_ref().filter(|_| self.remembered.is_none())
    }

    /// Whether the inventory is of this stack in this region.
    fn is_in(&self, region: &str) -> bool {
        self.id.as_ref().is_some_and(|id| (id.name.as_str(), id.region.as_str()) == (&self.stack, region))
    }

    /// Connects to AWS; returns also the regions to destroy the stack in.
    ///
    /// # Errors
    /// The name of a region is invalid, or the stack is in another account.
    fn regions(&self, args: &Down, runtime: &Runtime) -> anyhow::Result<(Aws, Vec<String>)> {
        let mut named = args.regions.iter().filter(|region| *region != "all");
        named.try_for_each(|region| settings::check_region(region))?;
        let first = match args.regions.as_slice() {
            [] => {
                let of_profile = runtime.block_on(aws::profile_region())?;
                let known: Vec<_> = self.only_known().map(|id| id.region.clone()).into_iter().collect();
                settings::region(&known, self.remembered.as_ref(), of_profile.as_deref())?
            }
            [all] if all == "all" => settings::REGION.to_owned(),
            [first, ..] => first.clone(),
        };
        let aws = runtime.block_on(Aws::connect(&first))?;
        if let Some(remembered) = self.remembered.as_ref().filter(|settings| settings.stack == self.stack) {
            remembered.ensure_account(&aws.account)?;
        }
        if let Some(id) = self.only_known().filter(|id| id.name == self.stack) {
            id.ensure_account(&aws.account)?;
        }
        let regions = match args.regions.as_slice() {
            [] => vec![first],
            [all] if all == "all" => runtime.block_on(enabled_regions(&aws))?,
            regions => regions.to_vec(),
        };
        Ok((aws, regions))
    }

    /// Removes what this folder has of a stack that is down. Its settings stay, for another `up`.
    fn forget(&mut self, down: &StackId, args: &Down) -> anyhow::Result<()> {
        if self.id.as_ref() == Some(down) {
            forget(&args.inventory)?;
        }
        if let Some(remembered) = self.remembered.as_mut()
            && (&remembered.stack, &remembered.region) == (&down.name, &down.region)
        {
            remembered.may_be_up = false;
            remembered.save(&Settings::path(&args.inventory))?;
        }
        Ok(())
    }
}

/// The key that the stack must have; `None` if the user names the stack. Another person's stack is destroyed only by its name.
fn own_key(args: &Down, inventory: &Path) -> anyhow::Result<Option<String>> {
    if args.stack.is_some() && !args.own {
        return Ok(None);
    }
    let public = keys::files(inventory.parent().unwrap_or(Path::new(""))).public;
    let key = files::read_if_there(&public)?.with_context(|| {
        format!(
            "this folder has no SSH key ({}), so no stack is known to be its own; name the one to destroy: cargo xtask down --stack \
             NAME ({} by default)",
            public.display(),
            settings::STACK
        )
    })?;
    Ok(Some(without_comment(&String::from_utf8_lossy(&key))))
}

/// Destroys a stack in a region, unless it has another key than `own_key`.
async fn down_in(aws: &Aws, stack: &str, own_key: Option<&str>, args: &Down) -> anyhow::Result<()> {
    if let Some(own) = own_key
        && let Some(pair) = key_pair(aws, stack).await?
    {
        ensure!(
            pair.public_key == own,
            "it has another SSH key than this folder has, so it may be somebody else's; to destroy it, name it: --stack {stack}"
        );
    }
    destroy(aws, stack, args.settle).await
}

/// All regions that the account has enabled.
async fn enabled_regions(aws: &Aws) -> anyhow::Result<Vec<String>> {
    let found = aws.ec2.describe_regions().send().await.explain("ec2:DescribeRegions", aws)?;
    Ok(found.regions().iter().filter_map(|region| region.region_name()).map(str::to_owned).collect())
}

/// Removes what this folder has of hosts that no longer exist.
pub(crate) fn forget(inventory: &Path) -> anyhow::Result<()> {
    let known_hosts = deploy_ssh::access(inventory, None).known_hosts;
    if known_hosts.exists() {
        std::fs::remove_dir_all(&known_hosts)
            .with_context(|| format!("removing {}", known_hosts.display()))?;
    }
    for file in [inventory.with_file_name("urls.txt"), inventory.to_owned()] {
        files::remove_if_there(&file)?;
    }
    Ok(())
}
