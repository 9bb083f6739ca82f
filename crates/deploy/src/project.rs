//! The project's folder, and the programs built from it.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::console;

/// All programs, which are built by one call.
const PACKAGES: [&str; 5] = ["sender", "classifier", "receiver", "agent", "hub"];
/// The programs that a job consists of.
pub const PROGRAMS: [&str; 4] = ["sender", "classifier", "receiver", "hub"];

/// A variable in the environment: the folder of programs that are taken as they are, and not built.
pub const PREBUILT: &str = "XTASK_PROGRAMS";

/// The project's folder.
pub fn root() -> anyhow::Result<PathBuf> {
    // Cargo sets it for `cargo xtask`, to the folder of that crate; without it, this crate's own place says where the project was.
    let (crate_folder, depth) = match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(folder) => (PathBuf::from(folder), 1),
        None => (PathBuf::from(env!("CARGO_MANIFEST_DIR")), 2),
    };
    Ok(crate_folder.ancestors().nth(depth).context("this crate lies in no project")?.to_owned())
}

/// Goes to the project's folder, for a command that works on the project itself.
pub fn enter_root() -> anyhow::Result<()> {
    let root = root()?;
    std::env::set_current_dir(&root)
        .with_context(|| format!("going to the project's folder {}", root.display()))
}

/// A folder in the project, as short as it can be said from where the command was started.
pub fn default_folder(name: &str) -> anyhow::Result<PathBuf> {
    let folder = root()?.join(name);
    let here = std::env::current_dir().context("asking for the current folder")?;
    Ok(folder.strip_prefix(here).map_or(folder.clone(), Path::to_owned))
}

/// The cargo that runs this command, or the one on the path.
pub fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Where this command was built, and where it builds the programs: cargo's release folder.
pub fn release_folder() -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe().context("looking for this program's file")?;
    Ok(me.parent().context("this program lies in no folder")?.to_owned())
}

/// Builds the programs, unless they are up to date; returns the folder that they are in.
pub fn build_programs() -> anyhow::Result<PathBuf> {
    build(&PACKAGES, None)
}

/// Builds the programs so that they need no C library of their host, if the toolchain can do that.
pub fn build_static_programs() -> anyhow::Result<Option<PathBuf>> {
    let musl = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let installed = duct::cmd!("rustup", "target", "list", "--installed").stderr_null().read();
    let can = installed.is_ok_and(|targets| targets.lines().any(|target| target == musl));
    if can { build(&PACKAGES, Some(&musl)).map(Some) } else { Ok(None) }
}

/// Builds a program of a crate that has its name; returns its file.
pub fn build_program(name: &str) -> anyhow::Result<PathBuf> {
    Ok(build(&[name], None)?.join(name))
}

/// A call of cargo, which is printed.
pub fn cargo_with(words: &[&str]) -> duct::Expression {
    console::echo(&format!("cargo {}", words.join(" ")));
    cargo_quietly(words)
}

/// The same, that leaves the processor to others that want it.
pub fn cargo_with_low_priority(words: &[&str]) -> duct::Expression {
    console::echo(&format!("nice cargo {}", words.join(" ")));
    let words: Vec<_> = words.iter().map(OsStr::new).collect();
    let cargo = cargo();
    without_own_variables(duct::cmd("nice", [&[cargo.as_os_str()], &words[..]].concat()))
}

/// A call of cargo.
pub fn cargo_quietly<W: AsRef<OsStr>>(words: &[W]) -> duct::Expression {
    let words: Vec<_> = words.iter().map(AsRef::as_ref).collect();
    without_own_variables(duct::cmd(cargo(), words))
}

fn without_own_variables(mut call: duct::Expression) -> duct::Expression {
    // What cargo has told this program about itself; build scripts of C libraries run again when they see it change.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            call = call.env_remove(name);
        }
    }
    call
}

/// Runs cargo, and shows what it says if it has something to do: that all is up to date is no news for a user.
fn run_unless_fresh(words: &[&str], cargo: &duct::Expression) -> anyhow::Result<()> {
    let colour = if std::io::stderr().is_terminal() { "always" } else { "auto" };
    let cargo = cargo.env("CARGO_TERM_COLOR", colour).stderr_to_stdout().unchecked();
    let output = cargo.reader().context("starting cargo")?;
    let mut is_shown = false;
    for line in BufReader::new(&output).split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("reading what cargo says")?).into_owned();
        if !is_shown && line.contains("Finished") {
            continue;
        }
        if !is_shown {
            is_shown = true;
            console::echo(&format!("cargo {}", words.join(" ")));
        }
        console::note(&line);
    }
    let status = output.try_wait().context("waiting for cargo")?.map(|output| output.status);
    ensure!(status.is_some_and(|status| status.success()), "cargo failed; its reason is above");
    Ok(())
}

fn build(packages: &[&str], target: Option<&str>) -> anyhow::Result<PathBuf> {
    if let Some(folder) = std::env::var_os(PREBUILT) {
        return Ok(folder.into());
    }
    let release = release_folder()?;
    let target_folder = release.parent().context("the release folder has no parent")?;
    let flags: Vec<_> = packages.iter().flat_map(|package| ["--package", package]).collect();
    let triple: Vec<_> = target.iter().flat_map(|target| ["--target", target]).collect();
    let words = [&["build", "--release"], &flags[..], &triple].concat();
    let folder = match target {
        Some(target) => target_folder.join(target).join("release"),
        None => release.clone(),
    };
    let cargo = cargo_quietly(&words).dir(root()?).env("CARGO_TARGET_DIR", target_folder);
    run_unless_fresh(&words, &cargo).with_context(|| format!("building {}", packages.join(", ")))?;
    for program in packages {
        let path = folder.join(program);
        ensure!(path.exists(), "cargo built {program}, but not to {}", path.display());
    }
    Ok(folder)
}

/// Makes a folder and those above it.
pub fn make_folder(path: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("making the folder {}", path.display()))
}
