//! Subcommand: cargo xtask test

mod build;
mod counts;
mod fuzz;
pub(super) mod install;
mod limit;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use xshell::Shell;

use counts::Counts;
use deploy::{console, project};
use limit::Limit;

/// Install what the tests need, and run them all
///
/// Also checks the format, and that clippy has nothing to say, runs each fuzz target for some seconds, and looks at the Monitoring
/// Hub's page in Chromium. The last line counts the tests.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this, and leave the checks out
    filter: Option<String>,
    /// End after so many minutes: what was not run by then is counted as skipped
    #[arg(long, value_name = "MINUTES", conflicts_with = "filter")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000))]
    within: Option<u64>,
}

/// Tests that cannot run here write their reason to this file.
const SKIPPED: &str = "target/skipped-tests.txt";

/// What is built and run together, without a filter. What needs least comes first, so that a run that ends early has said most.
struct Part {
    name: &'static str,
    /// Which tests, for cargo: words.
    targets: &'static str,
    /// Which of those, for the test programs.
    names: &'static [&'static str],
    /// What they start, as users build it: built before, not while the first test waits. Tests make these very calls, too.
    programs: &'static [&'static str],
}

const PARTS: [Part; 4] = [
    Part {
        name: "unit tests and simulations",
        targets: "--workspace --exclude deploy-aws --exclude cloud --exclude browser --lib --bins --test simulation",
        names: &[],
        programs: &[],
    },
    Part {
        name: "end-to-end tests",
        targets: "--package tests --test e2e",
        names: &[],
        programs: &[
            "--package xtask",
            "--package sender --package classifier --package receiver --package agent --package hub",
            "--package deploy-ssh",
        ],
    },
    Part {
        name: "tests of the page in a browser",
        targets: "--package browser --test browser",
        names: &[],
        programs: &[],
    },
    Part {
        name: "tests of hosts from EC2",
        targets: "--package deploy-aws --package cloud --lib --test cloud",
        // Most of these wait for clouds and hosts, so that more of them than there are cores run at the same time.
        names: &["--test-threads", "4"],
        programs: &["--package deploy-aws"],
    },
];

/// Runs the command.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    project::enter_root()?;
    let limit = Limit::start(args.within);
    let shell = Shell::new()?;
    files::remove_if_there(Path::new(SKIPPED))?;
    let mut counts = Counts::default();
    let mut failed = Vec::new();
    if let Some(filter) = &args.filter {
        install::python()?;
        install::programs(&shell);
        install::browser(&shell);
        install::machine(&shell);
        run_filtered(filter, &limit, &mut counts)?;
        fuzz::run(&shell, Some(filter), &limit, &mut counts)?;
    } else {
        check_formats(&mut failed);
        let [units, end_to_end, browser, cloud] = &PARTS;
        // Only the end-to-end tests need Python, and what it takes is waiting for the most part.
        std::thread::scope(|scope| {
            let python = scope.spawn(install::python);
            units.run(&limit, &mut counts, &mut failed)?;
            ensure!(counts.passed > 0, "no test was run within {limit}");
            install::programs(&shell);
            match python.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                Err(_) if limit.is_over() => Ok(()),
                outcome => outcome,
            }
        })?;
        end_to_end.run(&limit, &mut counts, &mut failed)?;
        fuzz::run(&shell, None, &limit, &mut counts)?;
        if !limit.is_over() {
            install::browser(&shell);
        }
        browser.run(&limit, &mut counts, &mut failed)?;
        if !limit.is_over() {
            install::machine(&shell);
        }
        cloud.run(&limit, &mut counts, &mut failed)?;
    }
    for reason in skipped_tests()? {
        console::data(&format!("skipped: {reason}"));
        counts.skip_passed();
    }
    if !failed.is_empty() {
        console::data(&format!("failed, besides tests: {}", failed.join(" and ")));
    }
    console::data(&counts.line());
    Ok(if counts.failed == 0 && failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check_formats(failed: &mut Vec<&str>) {
    let formats = [
        ("the format check", ["fmt", "--check", "--all"].as_slice()),
        ("the fuzz targets' format check", &["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]),
    ];
    for (name, words) in formats {
        if project::cargo_with(words).run().is_err() {
            failed.push(name);
        }
    }
}

impl Part {
    fn run(&self, limit: &Limit, counts: &mut Counts, failed: &mut Vec<&str>) -> anyhow::Result<()> {
        if !limit.is_over() {
            match self.build() {
                Ok(0) => {}
                Ok(_) => failed.push("clippy"),
                Err(_) if limit.is_over() => {}
                Err(error) => return Err(error.context(format!("building the {}", self.name))),
            }
        }
        if limit.is_over() {
            // How many they are is known only when they are built.
            counts.skipped += 1;
        } else {
            run_tests(&self.targets(), self.names, limit, counts)?;
        }
        if limit.is_over() {
            console::data(&format!("skipped: of the {} those that had not ended within {limit}", self.name));
        }
        Ok(())
    }

    fn targets(&self) -> Vec<&str> {
        self.targets.split(' ').collect()
    }

    /// Gives the number of warnings.
    fn build(&self) -> anyhow::Result<usize> {
        let mut warnings = build::build(&[&build::FOR_TESTS, &self.targets()[..], &["--no-run"]].concat())?;
        for words in self.programs {
            let words: Vec<_> = ["build", "--release"].into_iter().chain(words.split(' ')).collect();
            warnings += build::build(&words)?;
        }
        Ok(warnings)
    }
}

/// Runs tests of all parts.
fn run_filtered(filter: &str, limit: &Limit, counts: &mut Counts) -> anyhow::Result<()> {
    // Built before the tests, which would otherwise build them while the first of them waits.
    project::build_programs()?;
    for program in ["deploy-ssh", "deploy-aws"] {
        project::build_program(program)?;
    }
    // The hub, the AWS SDK and the browser's driver share HTTP crates, which would be built anew with the features of all.
    for targets in [
        "--workspace --exclude deploy-aws --exclude cloud --exclude browser --lib --bins --tests",
        "--package deploy-aws --package cloud --lib --tests",
        "--package browser --test browser",
    ] {
        let targets: Vec<_> = targets.split(' ').collect();
        run_tests(&targets, &[filter], limit, counts)?;
    }
    Ok(())
}

/// Runs tests, and counts them.
fn run_tests(targets: &[&str], names: &[&str], limit: &Limit, counts: &mut Counts) -> anyhow::Result<()> {
    let skipped = std::env::current_dir()?.join(SKIPPED);
    let words = [&build::FOR_TESTS, targets, &["--no-fail-fast", "--"], names].concat();
    let tests = project::cargo_with(&words).env("SKIPPED_TESTS", skipped).unchecked();
    let output = tests.reader().context("starting the tests")?;
    let failed_before = counts.failed;
    for line in BufReader::new(&output).lines() {
        let line = line.context("reading what the tests print")?;
        counts.add(&line);
        console::data(&line);
    }
    counts.end_run();
    let status = output.try_wait().context("waiting for the tests")?.map(|output| output.status);
    let ended_well = status.is_some_and(|status| status.success());
    // A failure that no test counted: something did not compile, or a test program broke off.
    ensure!(
        ended_well || counts.failed > failed_before || limit.is_over(),
        "cargo test failed; its reason is above"
    );
    Ok(())
}

fn skipped_tests() -> anyhow::Result<Vec<String>> {
    let reasons = files::read_if_there(Path::new(SKIPPED))?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&reasons).lines().map(str::to_owned).collect())
}
