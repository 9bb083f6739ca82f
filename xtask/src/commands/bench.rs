//! Subcommand: cargo xtask bench

mod cases;
mod measure;
mod memory;
mod report;
mod targets;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use xshell::{Shell, cmd};

use super::test::install;
use cases::{Case, Files};
use deploy::host::arg;
use deploy::{console, interrupt, project};
use measure::Measured;

/// Measure this machine's speed, against pandas, polars and Dask
///
/// Measures jobs from a file and of fake rows, fitted models, slow models, and wide clusters. Compares them with one pandas
/// process, multiprocessing.Pool, polars, Dask, and hashing alone. Runs all cases in turn, several times, in about fifty
/// minutes.
///
/// Prints the medians and their targets, and writes bench/results.json and bench/results.svg. Writes and removes a GiB
/// before each run. Otherwise a virtual machine might have to fetch memory from its host during the run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Measure only cases whose name contains this text
    ///
    /// Prints the results, and writes no files.
    filter: Option<String>,
    /// Runs of each case
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Multiply the number of rows by this factor
    ///
    /// Prints the results, and writes no files.
    #[arg(long, value_name = "FACTOR")]
    scale: Option<f64>,
}

/// The Python environment of models and peers.
const VENV: &str = "target/bench/venv";
const REQUIREMENTS: &str = "bench/requirements.txt";

/// Measured runs, by case name.
type Results = BTreeMap<&'static str, Vec<Measured>>;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    project::enter_root()?;
    interrupt::watch("interrupted twice: programs of a job that still run will end in a moment")?;
    let scale = args.scale.unwrap_or(1.0);
    ensure!(scale > 0.0 && scale <= 100.0, "--scale {scale}: give a number above 0, and at most 100");
    let is_chosen =
        |case: &Case| args.filter.as_ref().is_none_or(|filter| case.name.contains(filter.as_str()));
    let cases: Vec<_> = cases::ALL.into_iter().filter(is_chosen).collect();
    let names = cases::ALL.map(|case| case.name);
    ensure!(!cases.is_empty(), "no case has that in its name; the cases are {}", names.join(", "));
    let files = Files::at(Path::new("target/bench"), &Path::new(VENV).join("bin/python"), scale)?;
    prepare(&files)?;

    let mut results = Results::new();
    let mut turn: Vec<_> = cases.iter().collect();
    for round in 1..=args.runs {
        for case in &turn {
            if case.once && round > 1 {
                continue;
            }
            let measured = measure::case(case, &files);
            interrupt::check()?;
            let measured = measured.with_context(|| format!("measuring {}", case.name))?;
            console::note(&format!(
                "{round} of {}  {:<22} {}",
                args.runs,
                case.name,
                report::line(&measured)
            ));
            results.entry(case.name).or_default().push(measured);
        }
        // A case can affect the next one, for example by data that is still on its way to the disk. Reversing the order
        // gives each case another predecessor in the next round.
        turn.reverse();
    }
    same_results(&cases, &results)?;
    let targets = targets::all(&results);
    report::print(&cases, &results, &targets);
    if args.filter.is_none() && args.scale.is_none() {
        report::write(Path::new("bench"), &cases, &results, &targets)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the programs, installs Python packages, fits models, and writes the input files.
fn prepare(files: &Files) -> anyhow::Result<()> {
    let shell = &Shell::new()?;
    install::environment(shell, Path::new(VENV), Path::new(REQUIREMENTS))
        .context("installing Python packages to measure")?;
    let programs = project::build_programs()?;
    // Together with xtask, which shares its dependencies.
    let floor = ["build", "--release", "--package", "xtask", "--package", "bench"];
    project::cargo_with(&floor).run().context("building the floor")?;
    for (path, rows) in files.of_fake_rows() {
        console::note(&format!("writing {} fake rows to {}", console::count(rows), path.display()));
        let sender = duct::cmd!(programs.join("sender"), "--stdout", "--lines", rows.to_string());
        sender.stdout_path(&path).run().with_context(|| format!("writing {}", path.display()))?;
    }
    console::note("fitting models, and writing rows for them");
    let (python, inputs) = (&files.python, files.of_fitted_models());
    let words = inputs.iter().flat_map(|(path, rows)| [arg(path), rows.to_string()]);
    cmd!(shell, "{python} bench/fit.py {words...}").quiet().run().context("fitting models")
}

/// Fails unless all cases of a group had the same results: a fast wrong answer does not count.
fn same_results(cases: &[Case], results: &Results) -> anyhow::Result<()> {
    let mut hashes = BTreeMap::new();
    for case in cases {
        let Some(group) = case.results else { continue };
        for measured in results.get(case.name).into_iter().flatten() {
            let (first, hash) = hashes.entry(group).or_insert((case.name, &measured.sha256));
            ensure!(
                *hash == &measured.sha256,
                "the results of {} differ from those of {first}, and should be the same",
                case.name
            );
        }
    }
    Ok(())
}
