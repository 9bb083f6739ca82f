//! The project's folder, and the programs built from it.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::console;

/// The programs that a job consists of; one call of cargo builds them.
pub const PROGRAMS: [&str; 4] = ["sender", "classifier", "receiver", "hub"];
/// The programs that hosts get. A first job on this machine does not wait for the agent.
const ON_HOSTS: [&str; 5] = ["sender", "classifier", "receiver", "agent", "hub"];

/// A variable in the environment: a folder of prebuilt programs to use.
pub const PREBUILT: &str = "XTASK_PROGRAMS";

/// The project's folder.
pub fn root() -> anyhow::Result<PathBuf> {
    // `cargo xtask` sets it to the folder of that crate. Without it, the project is where it was when this crate was built.
    let (crate_folder, depth) = match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(folder) => (PathBuf::from(folder), 1),
        None => (PathBuf::from(env!("CARGO_MANIFEST_DIR")), 2),
    };
    Ok(crate_folder.ancestors().nth(depth).context("this crate is not in a project")?.to_owned())
}

/// Changes to the project's folder, for a command that works on the project itself.
pub fn enter_root() -> anyhow::Result<()> {
    let root = root()?;
    std::env::set_current_dir(&root)
        .with_context(|| format!("changing to the project's folder {}", root.display()))
}

/// A folder in the project; relative if it is below the current folder.
pub fn default_folder(name: &str) -> anyhow::Result<PathBuf> {
    let folder = root()?.join(name);
    let here = std::env::current_dir().context("finding the current folder")?;
    Ok(folder.strip_prefix(here).map_or(folder.clone(), Path::to_owned))
}

/// The cargo that runs this command, or the one on the path.
pub fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Cargo's release folder, which has this command and the programs that it builds.
pub fn release_folder() -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe().context("finding this program's file")?;
    Ok(me.parent().context("this program is in no folder")?.to_owned())
}

/// Builds the programs if they are out of date; returns their folder.
pub fn build_programs() -> anyhow::Result<PathBuf> {
    build(&PROGRAMS, None)
}

/// Builds the programs that hosts get; returns their folder.
pub fn build_programs_for_hosts() -> anyhow::Result<PathBuf> {
    build(&ON_HOSTS, None)
}

/// Builds statically linked programs, which need no C library; `None` if the toolchain lacks the target.
pub fn build_static_programs() -> anyhow::Result<Option<PathBuf>> {
    let musl = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let installed = duct::cmd!("rustup", "target", "list", "--installed").stderr_null().read();
    let can = installed.is_ok_and(|targets| targets.lines().any(|target| target == musl));
    if can { build(&ON_HOSTS, Some(&musl)).map(Some) } else { Ok(None) }
}

/// Builds the program of the crate with its name; returns its path.
pub fn build_program(name: &str) -> anyhow::Result<PathBuf> {
    Ok(build(&[name], None)?.join(name))
}

/// Builds the program that reads and writes what is no plain CSV; returns its path.
pub fn build_formats() -> anyhow::Result<PathBuf> {
    build_when_needed("formats", "other formats, addresses and uploads")
}

/// Builds the program that signs requests to S3; returns its path.
pub fn build_s3() -> anyhow::Result<PathBuf> {
    build_when_needed("s3", "S3")
}

/// Builds a program that most jobs do not need, and says so the first time.
fn build_when_needed(name: &str, what: &str) -> anyhow::Result<PathBuf> {
    if std::env::var_os(PREBUILT).is_none() && !release_folder()?.join(name).exists() {
        console::note(&format!(
            "this job needs the program for {what}; the first time, it is compiled, which takes a minute or two"
        ));
    }
    build_program(name)
}

/// Prints a call of cargo, and returns it.
pub fn cargo_with(args: &[&str]) -> duct::Expression {
    console::echo(&format!("cargo {}", args.join(" ")));
    cargo_quietly(args)
}

/// As [`cargo_with`], without printing.
pub fn cargo_quietly<W: AsRef<OsStr>>(args: &[W]) -> duct::Expression {
    let args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
    without_own_variables(duct::cmd(cargo(), args))
}

fn without_own_variables(mut call: duct::Expression) -> duct::Expression {
    // Cargo set these for this program. Build scripts of C libraries run again when they change.
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

/// Runs cargo, and shows its output unless everything is up to date.
fn run_unless_fresh(args: &[&str], cargo: &duct::Expression) -> anyhow::Result<()> {
    let colour = if std::io::stderr().is_terminal() { "always" } else { "auto" };
    let cargo = cargo.env("CARGO_TERM_COLOR", colour).stderr_to_stdout().unchecked();
    let output = cargo.reader().context("starting cargo")?;
    let mut is_shown = false;
    for line in BufReader::new(&output).split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("reading cargo's output")?).into_owned();
        if !is_shown && line.contains("Finished") {
            continue;
        }
        if !is_shown {
            is_shown = true;
            console::echo(&format!("cargo {}", args.join(" ")));
        }
        console::note(&line);
    }
    let status = output.try_wait().context("waiting for cargo")?.map(|output| output.status);
    ensure!(status.is_some_and(|status| status.success()), "cargo failed; the reason is above");
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
    let args = [&["build", "--release"], &flags[..], &triple].concat();
    let folder = match target {
        Some(target) => target_folder.join(target).join("release"),
        None => release.clone(),
    };
    let cargo = cargo_quietly(&args).dir(root()?).env("CARGO_TARGET_DIR", target_folder);
    run_unless_fresh(&args, &cargo).with_context(|| format!("building {}", packages.join(", ")))?;
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
