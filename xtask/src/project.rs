//! The project's folder, and the programs built from it.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use xshell::{Shell, cmd};

use crate::ui;

/// The programs that a job consists of.
const PROGRAMS: [&str; 3] = ["sender", "classifier", "receiver"];

/// The project's folder.
pub(crate) fn root() -> anyhow::Result<PathBuf> {
    // Set by cargo for `cargo xtask`, to the folder of this crate.
    let crate_folder = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    Ok(crate_folder.parent().context("this crate lies in no project")?.to_owned())
}

/// Goes to the project's folder, for a command that works on the project itself.
pub(crate) fn enter_root() -> anyhow::Result<()> {
    let root = root()?;
    std::env::set_current_dir(&root)
        .with_context(|| format!("going to the project's folder {}", root.display()))
}

/// A folder in the project, as short as it can be said from where the command was started.
pub(crate) fn default_folder(name: &str) -> anyhow::Result<PathBuf> {
    let folder = root()?.join(name);
    let here = std::env::current_dir().context("asking for the current folder")?;
    Ok(folder.strip_prefix(here).map_or(folder.clone(), Path::to_owned))
}

/// The cargo that runs this command, or the one on the path.
pub(crate) fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// Where this command was built, and where it builds the programs: cargo's release folder.
pub(crate) fn release_folder() -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe().context("looking for this program's file")?;
    Ok(me.parent().context("this program lies in no folder")?.to_owned())
}

/// Builds the programs, unless they are up to date; gives the folder that they are in.
pub(crate) fn build_programs() -> anyhow::Result<PathBuf> {
    let folder = release_folder()?;
    let target = folder.parent().context("the release folder has no parent")?;
    let shell = Shell::new()?;
    shell.change_dir(root()?);
    let cargo = cargo();
    let packages: Vec<_> = PROGRAMS.iter().flat_map(|program| ["--package", program]).collect();
    let command = cmd!(shell, "{cargo} build --release --target-dir {target} {packages...}").quiet();
    ui::echo(&format!("cargo build --release --package {}", PROGRAMS.join(" --package ")));
    command.run().context("building the programs")?;
    for program in PROGRAMS {
        let path = folder.join(program);
        ensure!(path.exists(), "cargo built {program}, but not to {}", path.display());
    }
    Ok(folder)
}

/// Makes a folder and those above it.
pub(crate) fn make_folder(path: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("making the folder {}", path.display()))
}
