//! Subcommand: cargo xtask test

mod build;
mod counts;
mod fuzz;
pub(super) mod install;
mod limit;
mod part;

use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::thread::ScopedJoinHandle;

use anyhow::{Context, ensure};
use deploy::{console, project};
use xshell::Shell;

use counts::Counts;
use limit::Limit;
use part::{Part, Run};

/// Install the tools for the tests, and run all tests
///
/// Also checks the format, and fails on clippy warnings. Skips tests that cannot run on this machine. The last line counts
/// the tests.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this text
    filter: Option<String>,
    /// Run only the quick checks, in a minute or two
    ///
    /// These are the format check, clippy, unit and property tests, the simulation, and one end-to-end job.
    #[arg(long, conflicts_with = "filter")]
    quick: bool,
    /// Also run each fuzz target for five seconds
    ///
    /// Needs a C++ compiler.
    #[arg(long, conflicts_with = "quick")]
    fuzz: bool,
    /// End after this time
    ///
    /// Names the tests without an outcome by then, and counts them as skipped.
    #[arg(long, value_name = "MINUTES", conflicts_with = "filter")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000))]
    within: Option<u64>,
}

/// Tests that cannot run here write their reason to this file.
const SKIPPED: &str = "target/skipped-tests.txt";

/// All crates except those that depend on the AWS SDK, the browser driver or the server of objects. Those share HTTP crates with
/// the hub, which cargo would rebuild with the combined features.
const UNITS: Part = Part {
    name: "unit tests and simulations",
    targets: "--workspace --exclude deploy-aws --exclude aws-account --exclude s3 --exclude cloud --exclude browser --exclude objects --lib --bins --test simulation --test corpus",
    programs: &[],
    words: &[],
};

/// The programs, built by the same calls of cargo as for users.
const PROGRAMS: [&str; 4] = [
    "--package xtask",
    "--package sender --package classifier --package receiver --package agent --package hub",
    "--package deploy-ssh",
    "--package formats",
];

const END_TO_END: Part = Part {
    name: "end-to-end tests",
    targets: "--package tests --test e2e",
    programs: &PROGRAMS,
    // Four threads on any machine, since many tests wait for hosts, deadlines and restarts.
    words: &["--test-threads", "4", "--skip", WHOLE_JOB],
};

/// The test that runs a job as a user does, including cargo.
const WHOLE_JOB: &str = "run_locally::a_whole_job_writes_and_reports_its_results";

const BROWSER: Part = Part {
    name: "tests of the page in a browser",
    targets: "--package browser --test browser",
    programs: &[],
    words: &[],
};

const CLOUD: Part = Part {
    name: "tests of hosts from EC2",
    targets: "--package deploy-aws --package cloud --lib --test cloud",
    programs: &["--package deploy-aws"],
    // The longest ones are the first, and others wait for minutes.
    words: &["--test-threads", "6"],
};

/// By itself, since the test server of objects turns on features of crates that the SDK has, too.
const S3: Part = Part {
    name: "unit tests of S3",
    targets: "--package s3 --package aws-account --lib --bins",
    programs: &[],
    words: &[],
};

const OBJECTS: Part = Part {
    name: "tests of objects in S3",
    targets: "--package objects --test objects",
    programs: &["--package s3"],
    words: &[],
};

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    project::enter_root()?;
    let mut run = Run::new(Limit::start(args.within), SKIPPED)?;
    match &args.filter {
        Some(filter) => filtered(filter, args.fuzz, &mut run)?,
        None if args.quick => quick(&mut run)?,
        None => whole(args.fuzz, &mut run)?,
    }
    run.finish()
}

/// Checks in a minute or two what a change is likely to break.
fn quick(run: &mut Run) -> anyhow::Result<()> {
    check_formats(run);
    UNITS.run(run)?;
    let built = END_TO_END.build(run)?;
    run.tests(&built, &[WHOLE_JOB, "--exact"])
}

/// Runs everything. Installs and downloads while cargo builds, builds S3 and the AWS SDK while other tests run, and runs two parts
/// at a time, since most tests wait.
fn whole(fuzz: bool, run: &mut Run) -> anyhow::Result<()> {
    check_formats(run);
    check_dependencies(run);
    std::thread::scope(|scope| {
        let (installed, ready) = channel();
        let installer = scope.spawn(move || {
            let shell = Shell::new()?;
            let python = install::python();
            install::programs(&shell);
            // The receiver is gone only if the run has ended.
            let _ = installed.send(python);
            install::browser(&shell);
            install::machine(&shell);
            anyhow::Ok(())
        });
        let units = UNITS.build(run)?;
        let end_to_end = END_TO_END.build(run)?;
        let browser = BROWSER.build(run)?;
        // It calls cargo, which would wait for another build.
        run.tests(&end_to_end, &[WHOLE_JOB, "--exact"])?;
        let later = scope.spawn(|| (S3.try_build(), OBJECTS.try_build(), CLOUD.try_build()));
        run.part(&UNITS, &units)?;
        ensure!(run.counts.passed > 0, "no test was run within {}", run.limit);
        match ready.recv().context("installing what the tests need")? {
            Err(_) if run.limit.is_over() => {}
            outcome => outcome?,
        }
        let mut beside = run.beside();
        let others = scope.spawn(move || {
            match joined(installer) {
                Err(_) if beside.limit.is_over() => {}
                outcome => outcome?,
            }
            beside.part(&BROWSER, &browser)?;
            let (s3, objects, cloud) = joined(later);
            for (part, built) in [(&S3, s3), (&OBJECTS, objects), (&CLOUD, cloud)] {
                let built = beside.checked(part, built)?;
                beside.part(part, &built)?;
            }
            anyhow::Ok(beside)
        });
        run.part(&END_TO_END, &end_to_end)?;
        if fuzz {
            fuzz::run(&Shell::new()?, None, &run.limit, &mut run.counts)?;
        }
        run.add(joined(others)?);
        Ok(())
    })
}

/// The outcome of a thread, which includes its panic.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs the tests of all parts whose name contains `filter`.
fn filtered(filter: &str, fuzz: bool, run: &mut Run) -> anyhow::Result<()> {
    let shell = Shell::new()?;
    install::python()?;
    install::programs(&shell);
    install::browser(&shell);
    install::machine(&shell);
    for part in [&UNITS, &END_TO_END, &BROWSER, &S3, &OBJECTS, &CLOUD] {
        let built = part.build(run)?;
        run.tests(&built, &[filter])?;
    }
    if fuzz {
        fuzz::run(&shell, Some(filter), &run.limit, &mut run.counts)?;
    }
    Ok(())
}

fn check_formats(run: &mut Run) {
    let formats = [
        ("the format check", ["fmt", "--check", "--all"].as_slice()),
        ("the fuzz targets' format check", &["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]),
    ];
    for (name, words) in formats {
        if project::cargo_with(words).run().is_err() {
            run.failed.push(name);
        }
    }
}

/// Checks licences, sources and banned crates of all dependencies if cargo-deny is installed. Building it would take as long
/// as everything else.
fn check_dependencies(run: &mut Run) {
    if project::cargo_quietly(&["deny", "--version"]).stdout_null().stderr_null().run().is_err() {
        console::data(
            "skipped: the check of dependencies needs cargo-deny: cargo install cargo-deny --locked",
        );
        run.counts.skipped += 1;
        return;
    }
    if project::cargo_with(&["deny", "check", "bans", "licenses", "sources"]).run().is_err() {
        run.failed.push("the check of dependencies");
    }
}

/// The reasons why tests were skipped.
fn skipped_tests() -> anyhow::Result<Vec<String>> {
    let reasons = files::read_if_there(Path::new(SKIPPED))?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&reasons).lines().map(str::to_owned).collect())
}

impl Run {
    /// Prints the outcome.
    fn finish(mut self) -> anyhow::Result<ExitCode> {
        for reason in skipped_tests()? {
            console::data(&format!("skipped: {reason}"));
            self.counts.skip_passed();
        }
        if !self.failed.is_empty() {
            console::data(&format!("failed, besides tests: {}", self.failed.join(" and ")));
        }
        console::data(&self.counts.line());
        let is_good = self.counts.failed == 0 && self.failed.is_empty();
        Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
