//! Subcommand: cargo xtask down, in the cloud

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};

use super::aws::{self, Aws, Explain};
use super::destroy::destroy;
use super::discover::{key_pair, without_comment};
use super::settings::{self, Settings};
use super::stack_id::StackId;
use deploy::keys;
use deploy::request::Down;
use deploy::{console, interrupt};
use deploy_ssh::inventory::Inventory;
use deploy_ssh::runtime::runtime;

/// Destroys all that there is of a stack.
pub(super) fn down(args: &Down) -> anyhow::Result<ExitCode> {
    interrupt::watch_and_say(
        "going on, so that nothing stays that costs money (once more: to stop)",
        "interrupted twice: another cargo xtask down goes on",
    )?;
    let inventory_path = args.inventory.clone();
    let settings_path = Settings::path(&args.inventory);
    let mut remembered = Settings::load(&settings_path)?;
    let inventory = Inventory::load_if_there(&inventory_path)?;
    // The inventory knows it as well, should stack.toml be gone.
    let known = inventory.as_ref().and_then(|inventory| StackId::parse(inventory.stack.as_ref()?));
    let only_known = known.as_ref().filter(|_| remembered.is_none());
    let said = args.stack.as_deref().or(only_known.map(|known| known.name.as_str()));
    let stack = settings::stack(said, remembered.as_ref())?;
    let own_key = own_key(args, &inventory_path)?;
    let folder = inventory_path.parent().unwrap_or(Path::new(""));
    let _lock = own_key.as_ref().map(|_| keys::lock(&keys::files(folder))).transpose()?;
    args.regions
        .iter()
        .filter(|region| *region != "all")
        .try_for_each(|region| settings::check_region(region))?;

    let runtime = runtime()?;
    let own_region = || -> anyhow::Result<String> {
        let of_profile = runtime.block_on(aws::profile_region())?;
        let known: Vec<_> = only_known.iter().map(|known| known.region.clone()).collect();
        settings::region(&known, remembered.as_ref(), of_profile.as_deref())
    };
    let asked_in = match args.regions.as_slice() {
        [] => own_region()?,
        [all] if all == "all" => settings::REGION.to_owned(),
        [first, ..] => first.clone(),
    };
    let aws = runtime.block_on(Aws::connect(&asked_in))?;
    if let Some(remembered) = remembered.as_ref().filter(|remembered| remembered.stack == stack) {
        remembered.ensure_account(&aws.account)?;
    }
    if let Some(known) = only_known.filter(|known| known.name == stack) {
        known.ensure_account(&aws.account)?;
    }
    let regions = match args.regions.as_slice() {
        [] => vec![asked_in],
        [all] if all == "all" => runtime.block_on(regions(&aws))?,
        regions => regions.to_vec(),
    };
    let is_known = |region: &String| {
        known.as_ref().is_some_and(|known| (&known.name, &known.region) == (&stack, region))
    };
    if let Some(inventory) = inventory.as_ref().filter(|inventory| inventory.ready && !args.discard_results)
        && regions.iter().any(is_known)
    {
        let access = deploy_ssh::access(&inventory_path, inventory.ssh_config.clone());
        deploy_ssh::ensure_all_fetched(inventory, &access, "cargo xtask down --discard-results")?;
    }
    let mut failed = Vec::new();
    for region in &regions {
        let aws = aws.in_region(region);
        match runtime.block_on(down_in(&aws, &stack, own_key.as_deref(), args)) {
            Ok(()) => {
                let account = aws.account.clone();
                let here = StackId { name: stack.clone(), region: region.clone(), account };
                console::note(&format!("nothing is left of {here}"));
                if known.as_ref() == Some(&here) {
                    forget(&inventory_path)?;
                }
                if let Some(remembered) = remembered.as_mut()
                    && (&remembered.stack, &remembered.region) == (&stack, region)
                {
                    remembered.may_be_up = false;
                    remembered.save(&settings_path)?;
                }
            }
            Err(error) => failed.push(format!("{region}: {error:#}")),
        }
    }
    match failed.as_slice() {
        [] => Ok(ExitCode::SUCCESS),
        failed => bail!("the stack {stack} of account {} is not down:\n{}", aws.account, failed.join("\n")),
    }
}

/// The key that the stack must have, unless the user names the stack: another person's is destroyed only by its name.
fn own_key(args: &Down, inventory: &Path) -> anyhow::Result<Option<String>> {
    if args.stack.is_some() && !args.own {
        return Ok(None);
    }
    let public = keys::files(inventory.parent().unwrap_or(Path::new(""))).public;
    let key = files::read_if_there(&public)?.with_context(|| {
        format!(
            "this folder has no SSH key ({}), so no stack is known to be its own; say which one is to be destroyed: cargo xtask \
             down --stack NAME ({} unless up was given another)",
            public.display(),
            settings::STACK
        )
    })?;
    Ok(Some(without_comment(&String::from_utf8_lossy(&key))))
}

/// Destroys a stack in a region, unless it has another key than it should have.
async fn down_in(aws: &Aws, stack: &str, own_key: Option<&str>, args: &Down) -> anyhow::Result<()> {
    if let Some(own) = own_key
        && let Some(pair) = key_pair(aws, stack).await?
    {
        ensure!(
            pair.public_key == own,
            "it has another SSH key than this folder has, so it may be somebody else's; if it is to be destroyed, name it: \
             --stack {stack}"
        );
    }
    destroy(aws, stack, args.settle).await
}

/// All regions that are enabled for the account.
async fn regions(aws: &Aws) -> anyhow::Result<Vec<String>> {
    let found = aws.ec2.describe_regions().send().await.explain("ec2:DescribeRegions", aws)?;
    Ok(found.regions().iter().filter_map(|region| region.region_name()).map(str::to_owned).collect())
}

/// Removes what is known here of hosts that are no more. What was asked for is remembered.
pub(super) fn forget(inventory: &Path) -> anyhow::Result<()> {
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
