//! `cargo xtask up`, for hosts of a file: checks them, and ships the programs to them.

mod rollout;
mod wanted;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use deploy::exit;
use deploy::request::Up;

use super::end_on_interrupt;
use crate::agents::{access, ensure_all_fetched};
use crate::inventory::Inventory;
use crate::package::Programs;
use crate::parallel::{all, each};
use crate::probe::probe;
pub use rollout::Rollout;
pub use wanted::Wanted;

pub(crate) fn run(args: &Up) -> anyhow::Result<ExitCode> {
    end_on_interrupt("interrupted; another cargo xtask up continues")?;
    let path = args.inventory.clone();
    let before = Inventory::load_if_there(&path)?;
    let rollout = prepare(args, &path, before.as_ref()).map_err(exit::refused)?;
    rollout.run(before.as_ref(), &path)?;
    Ok(ExitCode::SUCCESS)
}

/// Checks everything that can be refused before anything is changed.
fn prepare(args: &Up, path: &Path, before: Option<&Inventory>) -> anyhow::Result<Rollout> {
    if let Some(stack) = before.and_then(|before| before.stack.as_ref()) {
        bail!(
            "the hosts of this folder are the stack {stack} in the cloud; take it down first: cargo xtask down"
        );
    }
    refuse_beside_stack(path)?;
    let wanted = Wanted::new(args, before)?;
    let access = access(path, wanted.ssh_config.clone());
    let used = wanted.used_hosts();
    // This machine compiles while the hosts answer.
    let (programs, probed) = std::thread::scope(|scope| {
        let probes = scope.spawn(|| all(each(&used, |host| probe(host, &access))));
        let programs = Programs::build(&wanted.model);
        (programs, probes.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let probed = probed?;
    // Hosts that are no longer used are cleared.
    if let Some(before) = before.filter(|before| before.ready)
        && wanted.left(Some(before))?.iter().any(|host| host.name == before.metrics)
    {
        ensure_all_fetched(before, &access, "cargo xtask down --discard-results, before up")?;
    }
    Rollout::check(wanted, programs?, probed)
}

/// A folder is for one set of hosts. With another inventory in it, `down` would not find a stack that is up.
fn refuse_beside_stack(inventory: &Path) -> anyhow::Result<()> {
    let path = inventory.with_file_name("stack.toml");
    let Some(text) = files::read_if_there(&path)? else { return Ok(()) };
    let context = || format!("parsing the settings of the stack in {}", path.display());
    let remembered: toml::Table = toml::from_slice(&text).with_context(context)?;
    let may_be_up = remembered.get("may_be_up").and_then(toml::Value::as_bool) == Some(true);
    ensure!(
        !may_be_up,
        "a stack of this folder may be up in the cloud ({}); take it down first (cargo xtask down), or use another folder \
         (--inventory FILE)",
        path.display()
    );
    Ok(())
}
