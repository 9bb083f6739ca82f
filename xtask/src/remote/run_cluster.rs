//! Subcommand: cargo xtask run-cluster

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use supervisor::protocol::{FOLDER, Request};
use wire::results::Summary;

use super::{SHORT, all, command_all, each, load, lock_all, python, status_of, stop_all};
use crate::cluster::{self, Hosts, Input, Job, Times};
use crate::commands::remote::RunCluster;
use crate::commands::run_locally::{DEFAULT_LINES, box_args, check_input};
use crate::host::Host;
use crate::host::ssh::Ssh;
use crate::hosts::Inventory;
use crate::interrupt::{self, Interrupted};
use crate::ui::{self, Transfer};

/// Where Python boxes find the module and the packages, from the hosts' folder.
pub(super) const PYTHON_PATH: &str = "app/python:packages";
/// Programs of an earlier job are of no more use.
const GRACE: Duration = Duration::from_secs(1);
/// Removing the results of an earlier job may take a while.
const CLEAN_TIME: Duration = Duration::from_secs(120);
/// How long a box may take to load, and an input to be looked at.
const CHECK_TIME: Duration = Duration::from_secs(180);
/// Where a file of rows goes, in the hosts' folder.
const INPUT: &str = "input/rows.csv";

/// Runs the command.
pub(super) fn run(args: &RunCluster) -> anyhow::Result<ExitCode> {
    interrupt::watch("interrupted twice: what is left of the job on the hosts is ended by cargo xtask stop")?;
    let (start, mut is_started) = (Instant::now(), false);
    let outcome = run_until_done(args, start, &mut is_started);
    match outcome {
        Err(error) if error.is::<Interrupted>() => {
            ui::note(if is_started {
                "interrupted: all programs of the job have ended; what was received is kept on the metrics host"
            } else {
                "interrupted before anything was started; results of an earlier job are as they were"
            });
            Ok(ExitCode::from(interrupt::EXIT_CODE))
        }
        outcome => outcome,
    }
}

fn run_until_done(args: &RunCluster, start: Instant, is_started: &mut bool) -> anyhow::Result<ExitCode> {
    let (inventory, access) = load(&args.place)?;
    ensure!(inventory.ready, "the last cargo xtask up did not come to its end; run it again");
    let classifier = args.classifier.clone().unwrap_or_else(|| inventory.classifier.clone());
    ensure!(
        python::module_of(&classifier)
            .is_none_or(|module| python::module_of(&inventory.classifier) == Some(module)),
        "{classifier} is not on the hosts, which have {}; ship it with: cargo xtask up --classifier {classifier}",
        inventory.classifier
    );
    if let Some(path) = &args.rows.input {
        // Better said before anything is started.
        ensure!(path != Path::new("-"), "standard input cannot be shipped to the hosts; give a file");
        check_input(path)?;
    }
    let hosts = command_all(&inventory.used_hosts()?, &access, &inventory.supervisor)?;
    // The metrics host first: it is the one that all who want these hosts have to ask.
    lock_all(&hosts, "cargo xtask run-cluster")?;
    let (metrics, classifiers) = roles(&inventory, &hosts)?;
    refuse_second_job(metrics)?;
    all(each(&hosts, |host| ensure_right_application(host, &inventory)))?;
    // What cannot work should not cost the results of the job before.
    let box_args = box_args(&classifier, Path::new("python3"), args.rows.slowness, args.rows.chunk_size);
    let initializer = hosts.iter().find(|host| host.entry().name == inventory.machines[0]);
    check_box(initializer.context("the inventory has no initializer")?, &box_args)?;
    let input = input(args, metrics)?;
    let token = cluster::make_token()?;
    interrupt::check()?;
    *is_started = true;
    all(each(&hosts, |host| {
        stop_all(host, GRACE)?;
        host.tell(&Request::Clean, CLEAN_TIME)?;
        let secret = Request::WriteSecret { path: "run/token".into(), text: token.secret().to_owned() };
        host.tell(&secret, SHORT)
    }))?;
    let workers = usize::from(args.rows.workers);
    ui::note(&format!(
        "{}, on {} workers ({} machines of {workers}), through {classifier}",
        describe(args),
        workers * classifiers.len(),
        classifiers.len()
    ));
    let job = Job {
        input,
        classifier: box_args,
        workers,
        environment: BTreeMap::from([("PYTHONPATH".to_owned(), PYTHON_PATH.to_owned())]),
        results: "output/results.log".into(),
        archive: Some("output/results.tgz".into()),
        run_folder: "run".into(),
        token,
        token_file: "run/token".into(),
    };
    let outcome = cluster::run(&job, &Hosts { metrics, classifiers });
    // Whatever happened: what could not be ended by name is ended now.
    let stopped = all(each(&hosts, |host| stop_all(host, GRACE)));
    let times = match (outcome, stopped) {
        (Ok(times), Ok(_)) => times,
        (Err(error), Ok(_)) => return Err(error),
        (Ok(_), Err(left)) => return Err(left.context("the job is done, but some of it is left running")),
        (Err(error), Err(left)) => {
            bail!("{error:#}\n\nbesides, what is left of the job could not be ended: {left:#}")
        }
    };
    let status = status_of(metrics)?;
    let summary = status.summary.context("the job is done, and the metrics host has no results.json")?;
    summarize(&summary, times, metrics.name(), start);
    Ok(ExitCode::SUCCESS)
}

/// The metrics host, and the hosts of the classifiers.
fn roles<'a>(inventory: &Inventory, hosts: &'a [Ssh]) -> anyhow::Result<(&'a Ssh, Vec<&'a dyn Host>)> {
    let by_name = |name: &String| {
        let host = hosts.iter().find(|host| host.entry().name == *name);
        host.with_context(|| format!("the inventory has no host {name}"))
    };
    let machines = inventory.machines.iter().map(|name| by_name(name).map(|host| host as &dyn Host));
    Ok((by_name(&inventory.metrics)?, machines.collect::<anyhow::Result<_>>()?))
}

/// Whether a host has what the inventory says, and not what somebody else has shipped since.
fn ensure_right_application(host: &Ssh, inventory: &Inventory) -> anyhow::Result<()> {
    let status = status_of(host)?;
    let is_python = python::module_of(&inventory.classifier).is_some();
    ensure!(
        status.app.as_ref() == Some(&inventory.app) && (!is_python || status.packages == inventory.packages),
        "{} has another application than the last cargo xtask up has shipped from here; run it again",
        host.name()
    );
    Ok(())
}

/// Whether the box can be made on a host.
pub(super) fn check_box(host: &Ssh, args: &[String]) -> anyhow::Result<()> {
    let args: Vec<_> = args.iter().map(|arg| shell_word(arg)).collect();
    let script = format!("cd {FOLDER} && PYTHONPATH={PYTHON_PATH} app/classifier check {}", args.join(" "));
    host.run(&script, CHECK_TIME).map(drop)
}

/// A word as the shell takes it for that very word.
fn shell_word(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A job whose `run-cluster` is gone goes on without it, and is not to be disturbed.
fn refuse_second_job(metrics: &Ssh) -> anyhow::Result<()> {
    let status = status_of(metrics)?;
    let receiver = status.programs.iter().find(|program| program.name == "receiver");
    if let Some(seconds) = receiver.and_then(|receiver| receiver.running) {
        let rows = status.progress.map_or(0, |progress| progress.rows);
        bail!(
            "a job is running on the hosts since {seconds} s, with {} rows done, and nobody watches it; wait for its end \
             (cargo xtask status shows how far it is), or end it with: cargo xtask stop",
            ui::count(rows)
        );
    }
    Ok(())
}

/// The sender's input; a file is shipped to where the sender is, so that this machine is no part of the job.
fn input(args: &RunCluster, metrics: &Ssh) -> anyhow::Result<Input> {
    // An earlier job's input takes room, and is no result.
    metrics.run(&format!("rm -rf {FOLDER}/input && mkdir {FOLDER}/input"), CLEAN_TIME)?;
    let Some(path) = &args.rows.input else {
        return Ok(Input::Fake { lines: lines(args), seed: args.rows.seed });
    };
    let length = std::fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.len();
    let bar = Transfer::new("shipping the rows", length);
    let shipped = metrics.upload(path, Path::new(INPUT), false, |bytes| bar.add(bytes));
    bar.clear();
    shipped?;
    let checked =
        metrics.run(&format!("cd {FOLDER} && app/sender 127.0.0.1:1 --check -- {INPUT}"), CHECK_TIME);
    checked.with_context(|| format!("{} cannot be sent", path.display()))?;
    Ok(Input::File(PathBuf::from(INPUT)))
}

fn lines(args: &RunCluster) -> u64 {
    args.rows.input_lines.or(args.rows.input_size).unwrap_or(DEFAULT_LINES)
}

fn describe(args: &RunCluster) -> String {
    match &args.rows.input {
        Some(path) => format!("rows from {}", path.display()),
        None => format!("{} fake rows", ui::count(lines(args))),
    }
}

fn summarize(summary: &Summary, times: Times, metrics: &str, start: Instant) {
    ui::summary(summary, start.elapsed());
    ui::data(&format!("cluster    formed in {:.2} s", times.forming.as_secs_f64()));
    ui::data(&format!(
        "results    on {metrics}, packed {:.2} s after the last row",
        times.packing.as_secs_f64()
    ));
    ui::data(&format!("sha256     {}", summary.sha256));
    ui::note("fetch them: cargo xtask get-results");
}
