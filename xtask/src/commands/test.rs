//! Subcommand: cargo xtask test

mod fuzz;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use xshell::{Shell, cmd};

use crate::{project, ui};

/// Install what the tests need, and run them all
///
/// Also checks the format, and that clippy has nothing to say, and runs each fuzz target for some seconds. The last line
/// counts the tests.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this, and leave the checks out
    filter: Option<String>,
}

/// How tests are built.
const TESTS_CONFIG: &str = ".cargo/tests.toml";
/// What clippy-driver is told in `CLIPPY_ARGS`.
const DENIED: &str = "-Dwarnings";
const VENV: &str = "target/venv";
const REQUIREMENTS: &str = "tests/requirements.txt";
/// Tests that cannot run here write their reason to this file.
const SKIPPED: &str = "target/skipped-tests.txt";

/// Runs the command.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    project::enter_root()?;
    let shell = Shell::new()?;
    install_python(&shell)?;
    install_programs(&shell);
    let mut failed = Vec::new();
    let mut lints = Lints::Shown;
    if args.filter.is_none() {
        let formats = [
            ("the format check", ["fmt", "--check", "--all"].as_slice()),
            ("the fuzz targets' format check", &["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]),
        ];
        for (name, words) in formats {
            if project::cargo_with(words).run().is_err() {
                failed.push(name);
            }
        }
        // First, since it builds all dependencies at once: none need wait for the largest.
        match cargo_test(Lints::Denied, &["--no-run"]).run() {
            Ok(_) => lints = Lints::Denied,
            // Or the compiler, which the tests then say.
            Err(_) => failed.push("clippy"),
        }
        // Tests have all features; with fewer, other parts may be left without use.
        for (name, features) in [("clippy without features", ""), ("clippy for other hosts", "remote")] {
            let words = [
                "build",
                "--release",
                "--config",
                TESTS_CONFIG,
                "--package",
                "xtask",
                "--lib",
                "--features",
                features,
            ];
            if project::cargo_with(&words).env("CLIPPY_ARGS", DENIED).run().is_err() {
                failed.push(name);
            }
        }
    }
    // Built before the tests, which would otherwise build them while the first of them waits.
    project::build_programs()?;
    for feature in ["remote", "aws"] {
        project::build_self(feature)?;
    }
    let mut counts = run_tests(lints, args.filter.as_deref())?;
    fuzz::run(&shell, args.filter.as_deref(), &mut counts)?;
    for reason in skipped_tests()? {
        ui::data(&format!("skipped: {reason}"));
    }
    if !failed.is_empty() {
        ui::data(&format!("failed, besides tests: {}", failed.join(" and ")));
    }
    ui::data(&counts.line());
    Ok(if counts.failed == 0 && failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes a virtual environment with what the tests need, unless it is there.
fn install_python(shell: &Shell) -> anyhow::Result<()> {
    let wanted = shell.read_file(REQUIREMENTS)?;
    let stamp = Path::new(VENV).join("installed.txt");
    if shell.read_file(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    shell.remove_path(VENV)?;
    if cmd!(shell, "python3 -m venv {VENV}").run().is_err() {
        // Debian's Python comes without the part that makes environments.
        install_debian_packages(shell, &["python3", "python3-venv"])
            .context("making a Python environment for the tests needs Python 3 with its venv module")?;
        shell.remove_path(VENV)?;
        cmd!(shell, "python3 -m venv {VENV}").run().context("making a Python environment for the tests")?;
    }
    cmd!(shell, "{VENV}/bin/python -m pip install --quiet --requirement {REQUIREMENTS}")
        .run()
        .context("installing the Python packages that the tests need")?;
    shell.write_file(stamp, wanted)?;
    Ok(())
}

/// Some tests need an sshd, an ssh, network namespaces, or to see system calls. Without that they are skipped, and say so.
fn install_programs(shell: &Shell) {
    let missing = |program: &&(&str, &str)| {
        let path = program.0;
        cmd!(shell, "sh -c 'command -v '{path}").quiet().ignore_stdout().run().is_err()
    };
    let needed = [
        ("/usr/sbin/sshd", "openssh-server"),
        ("ssh", "openssh-client"),
        ("ip", "iproute2"),
        ("strace", "strace"),
    ];
    let packages: Vec<_> = needed.iter().filter(missing).map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return;
    }
    if let Err(error) = install_debian_packages(shell, &packages) {
        ui::note(&format!("tests that need {} will be skipped: {error:#}", packages.join(" or ")));
    }
}

fn install_debian_packages(shell: &Shell, packages: &[&str]) -> anyhow::Result<()> {
    let words = packages.join(" ");
    let root = cmd!(shell, "id -u").quiet().read().is_ok_and(|user| user == "0");
    ensure!(root, "as root, run: apt-get install {words}");
    cmd!(shell, "apt-get update --quiet").run()?;
    cmd!(shell, "apt-get install --yes --quiet --no-install-recommends {packages...}").run()?;
    Ok(())
}

/// Tests by outcome.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    /// Adds what a line such as `test result: ok. 8 passed; 0 failed; 1 ignored; …` says.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result: ").and_then(|(_, rest)| rest.split_once(". "))
        else {
            return;
        };
        for (number, what) in counts.split("; ").filter_map(|part| part.split_once(' ')) {
            let number: u64 = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }

    fn line(&self) -> String {
        let Self { passed, failed, skipped } = self;
        match skipped {
            0 => format!("{passed} passed, {failed} failed"),
            _ => format!("{passed} passed, {failed} failed, {skipped} skipped"),
        }
    }
}

/// What becomes of clippy's warnings, and the compiler's.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lints {
    Shown,
    Denied,
}

/// `cargo test`, with all features. The tests are built with clippy in the compiler's place, so that what is linted is built only
/// once; see `.cargo/tests.toml`.
fn cargo_test(lints: Lints, more: &[&str]) -> duct::Expression {
    let words = ["test", "--release", "--config", TESTS_CONFIG, "--workspace", "--features", "xtask/aws"];
    let words = [&words, &["--no-fail-fast"][..], more].concat();
    let denied = if lints == Lints::Denied { DENIED } else { "" };
    project::cargo_with(&words).env("CLIPPY_ARGS", denied)
}

/// Runs all tests, unit, end to end and in documentation, and counts them.
fn run_tests(lints: Lints, filter: Option<&str>) -> anyhow::Result<Counts> {
    wire::program::remove_if_there(Path::new(SKIPPED))?;
    let skipped = std::env::current_dir()?.join(SKIPPED);
    let tests = cargo_test(lints, filter.as_slice()).env("SKIPPED_TESTS", skipped).unchecked();
    let output = tests.reader().context("starting the tests")?;
    let mut counts = Counts::default();
    for line in BufReader::new(&output).lines() {
        let line = line.context("reading what the tests print")?;
        counts.add(&line);
        ui::data(&line);
    }
    let status = output.try_wait().context("waiting for the tests")?.map(|output| output.status);
    let ended_well = status.is_some_and(|status| status.success());
    // A failure that no test counted: something did not compile, or a test program broke off.
    ensure!(ended_well || counts.failed > 0, "cargo test failed; its reason is above");
    let not_run = skipped_tests()?.len() as u64;
    counts.passed -= not_run.min(counts.passed);
    counts.skipped += not_run;
    Ok(counts)
}

fn skipped_tests() -> anyhow::Result<Vec<String>> {
    let reasons = wire::program::read_if_there(Path::new(SKIPPED))?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&reasons).lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up() {
        let mut counts = Counts::default();
        counts.add(
            "test result: ok. 8 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s",
        );
        counts.add("test bad::one ... ok");
        counts.add(
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9s",
        );
        assert_eq!(counts, Counts { passed: 9, failed: 2, skipped: 1 });
        assert_eq!(counts.line(), "9 passed, 2 failed, 1 skipped");
    }
}
