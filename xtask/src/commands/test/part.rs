//! Parts of the tests; each is built and run together.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use deploy::{console, project};

use super::build::{self, Built, WRAPPER};
use super::counts::Counts;
use super::limit::Limit;

/// Tests that are built by one call of cargo.
pub(super) struct Part {
    pub(super) name: &'static str,
    /// Arguments that select the tests for cargo, separated by spaces.
    pub(super) targets: &'static str,
    /// Arguments that select the programs that the tests start, for one call of cargo each.
    pub(super) programs: &'static [&'static str],
    /// Arguments of the test programs.
    pub(super) words: &'static [&'static str],
}

/// A run of tests, and its outcome so far.
pub(super) struct Run {
    pub(super) limit: Limit,
    pub(super) counts: Counts,
    /// Failed checks other than tests.
    pub(super) failed: Vec<&'static str>,
    /// The file to which tests that cannot run here write their reason.
    skipped: PathBuf,
    /// The folder of the programs that tests start.
    programs: PathBuf,
}

impl Part {
    pub(super) fn run(&self, run: &mut Run) -> anyhow::Result<()> {
        let built = self.build(run)?;
        run.part(self, &built)
    }

    /// Builds the part, unless the time is over.
    pub(super) fn build(&self, run: &mut Run) -> anyhow::Result<Built> {
        if run.limit.is_over() {
            return Ok(Built::default());
        }
        let built = self.try_build();
        run.checked(self, built)
    }

    pub(super) fn try_build(&self) -> anyhow::Result<Built> {
        let targets: Vec<_> = self.targets.split(' ').collect();
        let mut built = build::build(&[&["test", "--release", "--no-run"], &targets[..]].concat())?;
        for words in self.programs {
            let words: Vec<_> = ["build", "--release"].into_iter().chain(words.split(' ')).collect();
            built.warnings += build::build(&words)?.warnings;
        }
        Ok(built)
    }
}

impl Run {
    pub(super) fn new(limit: Limit, skipped: &str) -> anyhow::Result<Self> {
        let skipped = std::path::absolute(skipped).context("finding the project's folder")?;
        files::remove_if_there(&skipped)?;
        let programs = project::release_folder()?;
        Ok(Self { limit, counts: Counts::default(), failed: Vec::new(), skipped, programs })
    }

    /// A run of other parts at the same time.
    pub(super) fn beside(&self) -> Self {
        Self {
            limit: self.limit.clone(),
            counts: Counts::default(),
            failed: Vec::new(),
            skipped: self.skipped.clone(),
            programs: self.programs.clone(),
        }
    }

    /// Adds the outcome of a run beside this one.
    pub(super) fn add(&mut self, beside: Self) {
        self.counts.add(&beside.counts);
        self.failed.extend(beside.failed);
    }

    /// Notes the warnings of a build; ignores its failure if the time is over.
    pub(super) fn checked(&mut self, part: &Part, built: anyhow::Result<Built>) -> anyhow::Result<Built> {
        match built {
            Ok(built) => {
                if built.warnings > 0 {
                    self.failed.push("clippy");
                }
                Ok(built)
            }
            Err(_) if self.limit.is_over() => Ok(Built::default()),
            Err(error) => Err(error.context(format!("building the {}", part.name))),
        }
    }

    pub(super) fn part(&mut self, part: &Part, built: &Built) -> anyhow::Result<()> {
        if built.tests.is_empty() {
            // The number of tests is known only once they are built.
            self.counts.skipped += 1;
        } else {
            self.tests(built, part.words)?;
        }
        if self.limit.is_over() {
            console::data(&format!(
                "skipped: those of the {} that did not end within {}",
                part.name, self.limit
            ));
        }
        Ok(())
    }

    /// Runs test programs, and counts their tests.
    pub(super) fn tests(&mut self, built: &Built, words: &[&str]) -> anyhow::Result<()> {
        for test in &built.tests {
            if self.limit.is_over() {
                return Ok(());
            }
            let name = test.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            console::echo(&[&[name.as_str()], words].concat().join(" "));
            self.test(&test.path, &test.folder, words)
                .with_context(|| format!("running the tests in {}", test.path.display()))?;
        }
        Ok(())
    }

    fn test(&mut self, path: &Path, folder: &Path, words: &[&str]) -> anyhow::Result<()> {
        let test = duct::cmd(path, words)
            .dir(folder)
            .env(WRAPPER.0, WRAPPER.1)
            .env("SKIPPED_TESTS", &self.skipped)
            .env(project::PREBUILT, &self.programs);
        let output = test.unchecked().reader().context("starting them")?;
        let failed_before = self.counts.failed;
        // Another part may print meanwhile, so that the reasons of failures are printed in one piece.
        let mut failures = Vec::new();
        for line in BufReader::new(&output).lines() {
            let line = line.context("reading what they print")?;
            self.counts.read(&line);
            if line == "failures:" || !failures.is_empty() {
                failures.push(line);
            } else {
                console::data(&line);
            }
        }
        if !failures.is_empty() {
            console::data(&failures.join("\n"));
        }
        self.counts.end_run();
        let status = output.try_wait().context("waiting for their end")?.map(|output| output.status);
        let ended_well = status.is_some_and(|status| status.success());
        // A failure without a failed test: the test program aborted.
        ensure!(
            ended_well || self.counts.failed > failed_before || self.limit.is_over(),
            "the test program aborted; its reason is above"
        );
        Ok(())
    }
}
