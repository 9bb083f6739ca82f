//! Subcommand: cargo xtask run-cluster

mod attach;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use agent::protocol::{FOLDER, Request, Status};
use anyhow::{Context, anyhow, bail, ensure};
use protocol::results::Summary;
use serde::{Deserialize, Serialize};

use super::get_results::{ARCHIVE, OUTPUT};
use super::{SHORT, all, command_all, each, hub, load, lock_all, python, status_of, stop_all, stop_job};
use crate::hosts::Inventory;
use crate::ssh::Ssh;
use deploy::console::{self, Transfer};
use deploy::host::Host;
use deploy::input::{check_input, guard, show_hints};
use deploy::interrupt::{self, Interrupted};
use deploy::job::{self, Hosts, Hub, Input, Job, Lifetime, LostSight, Times};
use deploy::options::{self, Rows, refuse_unnamed_model, threads, threads_each};
use deploy::request::{RunCluster, RunMode};
use deploy::{exit, step};

/// Where Python boxes find the module and the packages, from the hosts' folder.
pub(super) const PYTHON_PATH: &str = "app/python:packages";
/// Programs of an earlier job are of no more use.
const GRACE: Duration = Duration::from_secs(1);
/// How long a receiver may take to make durable what it has.
const RECEIVER_GRACE: Duration = Duration::from_secs(20);
/// What is to be known of the job, in the metrics host's folder.
const DESCRIPTION: &str = "run/job.json";
/// Removing the results of an earlier job may take a while.
const CLEAN_TIME: Duration = Duration::from_secs(120);
/// How long a box may take to load, and an input to be looked at.
const CHECK_TIME: Duration = Duration::from_secs(180);
/// Worker threads on each machine, when nobody says how many.
const WORKERS: u16 = 7;
/// Where a file of rows goes, in the hosts' folder.
const INPUT: &str = "input/rows.csv";

/// Runs the command.
pub(super) fn run(args: &RunCluster) -> anyhow::Result<ExitCode> {
    if args.mode == RunMode::Attach {
        return attach::run(args);
    }
    let hosts_go = step::hosts_go();
    interrupt::watch_or_leave(match hosts_go {
        true => "interrupted twice: the job is left as it is",
        false => "interrupted twice: what is left of the job on the hosts is ended by cargo xtask stop",
    })?;
    let (start, mut is_started) = (Instant::now(), false);
    let outcome = run_until_done(args, start, &mut is_started);
    match outcome {
        Err(error) if exit::is::<Interrupted>(&error) => {
            console::note(match (is_started, hosts_go) {
                (true, false) => {
                    "interrupted: all programs of the job have ended; what was received is kept on the metrics host, and \
                     gone on with by: cargo xtask run-cluster --resume (cargo xtask get-results --partial fetches it)"
                }
                (true, true) => "interrupted: all programs of the job have ended",
                (false, false) => {
                    "interrupted before anything was started; results of an earlier job are as they were"
                }
                (false, true) => "interrupted before anything was started",
            });
            Ok(ExitCode::from(interrupt::EXIT_CODE))
        }
        outcome => outcome.map_err(|error| if is_started { error } else { exit::refused(error) }),
    }
}

/// What is to be known of a job to go on with it. It lies on the metrics host.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Description {
    pub(super) input: Input,
    /// The model, as the user names it.
    model: String,
    /// The model and its settings, as arguments.
    model_args: Vec<String>,
    /// Worker threads on each machine.
    workers: usize,
    /// How many rows may be rejected, as the user says it.
    #[serde(default)]
    max_rejects: Option<String>,
    /// The content hashes of application and packages: others may give other results.
    app: String,
    packages: Option<String>,
}

fn run_until_done(args: &RunCluster, start: Instant, is_started: &mut bool) -> anyhow::Result<ExitCode> {
    let (inventory, access) = load(&args.inventory)?;
    ensure!(inventory.ready, "the last cargo xtask up did not come to its end; run it again");
    let lifetime = lifetime(&inventory);
    if let Some(words) = lifetime.as_ref().and_then(|lifetime| lifetime.at_start(SystemTime::now())) {
        console::note(&words);
    }
    if let Some(path) = args.job.rows.path() {
        // Better said before anything is started.
        ensure!(path != Path::new("-"), "standard input cannot be shipped to the hosts; give a file");
        check_input(path)?;
    }
    let is_named = args.model.is_some() || inventory.has_named_model();
    refuse_unnamed_model(&args.job.rows, is_named)?;
    let hosts = command_all(&inventory.used_hosts()?, &access, &inventory.agent)?;
    // The metrics host first: it is the one that all who want these hosts have to ask.
    lock_all(&hosts, "cargo xtask run-cluster")?;
    let (metrics, classifiers) = roles(&inventory, &hosts)?;
    if args.mode != RunMode::Resume {
        refuse_second_job(metrics)?;
    }
    all(each(&hosts, |host| ensure_right_application(host, &inventory)))?;
    let initializer = hosts.iter().find(|host| host.entry().name == inventory.machines[0]);
    let initializer = initializer.context("the inventory has no initializer")?;
    let (description, is_done) = if args.mode == RunMode::Resume {
        let (mut description, is_done) = recall(metrics, &inventory)?;
        // What does not decide the results can be another one from now on.
        args.job.model.change(&mut description.model_args);
        description.max_rejects =
            args.job.max_rejects.map(|most| most.to_string()).or(description.max_rejects);
        description.workers = args.job.workers.map_or(description.workers, usize::from);
        (description, is_done)
    } else {
        (describe_new(args, &inventory, metrics, initializer)?, false)
    };
    let token = job::make_token()?;
    interrupt::check()?;
    *is_started = true;
    let text = serde_json::to_string(&description).context("describing the job")?;
    all(each(&hosts, |host| {
        let is_metrics = host.entry().name == inventory.metrics;
        // A receiver that still runs makes durable what it has.
        let grace = if args.mode == RunMode::Resume { RECEIVER_GRACE } else { GRACE };
        // The hub of a job that is only to be packed has nothing to learn any more.
        if is_done && is_metrics {
            stop_job(host, grace)?;
        } else {
            stop_all(host, grace)?;
        }
        if args.mode != RunMode::Resume || !is_metrics {
            host.tell(&Request::Clean, CLEAN_TIME)?;
        }
        let write =
            |path: &str, text: &str| Request::WriteSecret { path: path.to_owned(), text: text.to_owned() };
        if is_metrics {
            host.tell(&write(DESCRIPTION, &text), SHORT)?;
        }
        host.tell(&write("run/token", token.secret()), SHORT)
    }))?;
    let Description { input, model, model_args, workers, max_rejects, .. } = description;
    // It decides no result, so a job that is gone on with may have another one.
    let said = max_rejects.map(|most| most.parse().map_err(anyhow::Error::msg)).transpose()?;
    let max_rejects = args.job.max_rejects.or(said);
    console::note(&format!(
        "{}{}, on {} workers ({} machines of {workers}){}, through {model}",
        if args.mode == RunMode::Resume { "going on with " } else { "" },
        describe(&input, args.job.rows.path()),
        workers * classifiers.len(),
        classifiers.len(),
        threads_each(&model, &model_args)
    ));
    let shown = telemetry::job::Description {
        machines: inventory.machines.clone(),
        ..options::describe(
            &model,
            &model_args,
            describe(&input, args.job.rows.path()),
            format!("{FOLDER}/output on {}", inventory.metrics),
            workers * classifiers.len(),
        )
    };
    let job = Job {
        input,
        model_args,
        workers,
        environment: [("PYTHONPATH".to_owned(), PYTHON_PATH.to_owned())]
            .into_iter()
            .chain(args.job.environment.clone())
            .collect(),
        results: "output/results.log".into(),
        archive: Some(ARCHIVE.into()),
        run_folder: "run".into(),
        token,
        token_file: "run/token".into(),
        max_rejects,
        lifetime,
        description: shown,
    };
    if is_done {
        let packing = end(&hosts, job::pack(&job, metrics))?;
        return conclude(metrics, None, Some(packing), start);
    }
    let outcome = run_with_hub(&job, &Hosts { metrics, classifiers });
    let times = end(&hosts, outcome)?;
    conclude(metrics, Some(times.forming), Some(times.packing), start)
}

/// When the hosts end by themselves, if they do.
fn lifetime(inventory: &Inventory) -> Option<Lifetime> {
    let ends = inventory.ends()?;
    let advice = match step::hosts_go() {
        true => {
            "shortly before that, what is complete is fetched to results.partial.tgz (Ctrl-C does it now); all of it needs a \
             longer --ttl"
        }
        false => {
            "what is complete can be fetched until then, with cargo xtask get-results --partial; all of it needs other \
             machines: cargo xtask down, and up with a longer --ttl"
        }
    };
    Some(Lifetime::new(ends, humantime::format_rfc3339_seconds(ends).to_string(), advice))
}

/// Runs the job with a hub that stays when it is done.
fn run_with_hub(job: &Job, hosts: &Hosts<'_>) -> anyhow::Result<Times> {
    let mut hub = Hub::start(job, hosts.metrics, Path::new(OUTPUT))?;
    hub.iter_mut().for_each(Hub::leave);
    job::run(job, hosts, hub.as_ref(), None)
}

/// Ends what is left of a job on its hosts, but for the hub.
fn end<T>(hosts: &[Ssh], outcome: anyhow::Result<T>) -> anyhow::Result<T> {
    if outcome.as_ref().is_err_and(exit::is::<LostSight>) {
        return outcome;
    }
    // Whatever happened: what could not be ended by name is ended now. A host that is lost has nothing more to do, and what it
    // does is of no use to anybody.
    let (there, lost): (Vec<_>, Vec<_>) = hosts.iter().partition(|host| host.away().is_none());
    for host in lost {
        let what_ends_it = match step::hosts_go() {
            true => "",
            false => "; what is left of the job there is ended by cargo xtask stop, or the next job",
        };
        console::note(&format!("{} is still lost{what_ends_it}", host.name()));
    }
    let stopped = all(each(&there, |host| stop_job(host, GRACE)));
    match (outcome, stopped) {
        (outcome, Ok(_)) => outcome,
        (Ok(_), Err(left)) => Err(left.context("the job is done, but some of it is left running")),
        (Err(error), Err(left)) => {
            bail!("{error:#}\n\nbesides, what is left of the job could not be ended: {left:#}")
        }
    }
}

fn conclude(
    metrics: &Ssh,
    forming: Option<Duration>,
    packing: Option<Duration>,
    start: Instant,
) -> anyhow::Result<ExitCode> {
    let status = status_of(metrics)?;
    let summary =
        status.summary.as_ref().context("the job is done, and the metrics host has no results.json")?;
    let job = recall_if_there(metrics)?;
    let threads = job.as_ref().and_then(|job| threads(&job.model, &job.model_args));
    summarize(summary, forming, packing, metrics.name(), start, threads);
    // As a step of a job, they are fetched anyway, and nothing stays.
    if !step::hosts_go() {
        let hub = if hub::runs(&status) { "; the job's Monitoring Hub stays: cargo xtask hub" } else { "" };
        console::note(&format!("fetch them: cargo xtask get-results{hub}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// A job as the arguments have it. What cannot work should not cost the results of the job before, so it is tried here.
fn describe_new(
    args: &RunCluster,
    inventory: &Inventory,
    metrics: &Ssh,
    initializer: &Ssh,
) -> anyhow::Result<Description> {
    let model = args.model.clone().unwrap_or_else(|| inventory.model.clone());
    ensure!(
        python::module_of(&model).is_none_or(|module| python::module_of(&inventory.model) == Some(module)),
        "{model} is not on the hosts, which have {}; ship it with: cargo xtask up --model {model}",
        inventory.model
    );
    let model_args = args.job.model.words(&model, Path::new("python3"));
    check_model(initializer, &model_args)?;
    let input = input(args, metrics)?;
    let (app, packages) = (inventory.app.clone(), inventory.packages.clone());
    let max_rejects = args.job.max_rejects.map(|most| most.to_string());
    let workers = usize::from(args.job.workers.unwrap_or(WORKERS));
    Ok(Description { input, model, model_args, workers, max_rejects, app, packages })
}

/// The last job, from the metrics host; and whether it is done but for the packing of its results.
fn recall(metrics: &Ssh, inventory: &Inventory) -> anyhow::Result<(Description, bool)> {
    let status = status_of(metrics)?;
    let summary = status.summary.as_ref();
    if let Some(summary) = summary
        && is_packed(metrics)?
    {
        bail!(
            "the last job is done, with {} rows; fetch its results with: cargo xtask get-results",
            console::count(summary.rows)
        );
    }
    ensure!(
        summary.is_none() || receiver_runs_for(&status).is_none(),
        "the last job is done, and its results are being packed; cargo xtask run-cluster --attach waits for them"
    );
    let description = recall_if_there(metrics)?.context(
        "there is no job on the metrics host to go on with; start one with cargo xtask run-cluster",
    )?;
    ensure!(
        description.app == inventory.app && description.packages == inventory.packages,
        "the application is another one than the one that the last job was begun with, and might give other results; start the \
         job anew, without --resume"
    );
    Ok((description, summary.is_some()))
}

/// Whether the results can be fetched; the archive is there when it is whole.
fn is_packed(metrics: &Ssh) -> anyhow::Result<bool> {
    Ok(metrics.length(Path::new(ARCHIVE))?.is_some())
}

pub(super) fn recall_if_there(metrics: &Ssh) -> anyhow::Result<Option<Description>> {
    let text =
        metrics.run(&format!("cd {FOLDER} && if [ -e {DESCRIPTION} ]; then cat {DESCRIPTION}; fi"), SHORT)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&text).map(Some).context("understanding the description of the last job")
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
    let is_python = python::module_of(&inventory.model).is_some();
    ensure!(
        status.app.as_ref() == Some(&inventory.app) && (!is_python || status.packages == inventory.packages),
        "{} has another application than the last cargo xtask up has shipped from here; run it again",
        host.name()
    );
    Ok(())
}

/// Whether the box can be made on a host.
pub(super) fn check_model(host: &Ssh, args: &[String]) -> anyhow::Result<()> {
    let args: Vec<_> = args.iter().map(|arg| shell_word(arg)).collect();
    let script = format!("cd {FOLDER} && PYTHONPATH={PYTHON_PATH} app/classifier check {}", args.join(" "));
    host.run(&script, CHECK_TIME).map(drop)
}

/// A word as the shell takes it for that very word.
fn shell_word(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// For how many seconds, if it runs.
pub(super) fn receiver_runs_for(status: &Status) -> Option<u64> {
    status.programs.iter().find(|program| program.name == "receiver")?.running
}

/// A job whose `run-cluster` is gone goes on without it, and is not to be disturbed.
fn refuse_second_job(metrics: &Ssh) -> anyhow::Result<()> {
    let status = status_of(metrics)?;
    if let Some(seconds) = receiver_runs_for(&status) {
        let rows = status.progress.map_or(0, |progress| progress.rows);
        return Err(exit::busy(anyhow!(
            "a job is running on the hosts since {seconds} s, with {} rows done, and nobody watches it; wait for its end \
             (cargo xtask run-cluster --attach shows it), or end it with: cargo xtask stop",
            console::count(rows)
        )));
    }
    Ok(())
}

/// The sender's input; a file is shipped to where the sender is, so that this machine is no part of the job.
fn input(args: &RunCluster, metrics: &Ssh) -> anyhow::Result<Input> {
    // An earlier job's input takes room, and is no result.
    metrics.run(&format!("rm -rf {FOLDER}/input && mkdir {FOLDER}/input"), CLEAN_TIME)?;
    let (path, commas) = match &args.job.rows {
        Rows::Fake { lines, seed } => return Ok(Input::Fake { lines: *lines, seed: *seed }),
        Rows::File { path, commas } => (path, *commas),
    };
    let reading = || format!("reading the input {}", path.display());
    // A pipe can be read only once, and has neither.
    let guard = path.is_file().then(|| guard(path)).transpose()?;
    if guard.is_some() {
        check_header(path, commas)?;
    }
    let bar = Transfer::new("shipping the rows", guard.as_ref().map_or(0, |guard| guard.identity().size()));
    let shipped = metrics.upload(path, Path::new(INPUT), false, |bytes| bar.add(bytes));
    bar.clear();
    shipped?;
    // What is on the host from now on is what it was here at the beginning, and at the end.
    guard.map_or(Ok(()), |guard| guard.check()).with_context(reading)?;
    let delimiter = if commas { "--delimiter , " } else { "" };
    let checked = metrics
        .run(&format!("cd {FOLDER} && app/sender 127.0.0.1:1 --check {delimiter}-- {INPUT}"), CHECK_TIME);
    let said = checked.with_context(|| format!("{} cannot be sent", path.display()))?;
    show_hints(&said);
    let identity = said.lines().find_map(|line| line.strip_prefix("identity "));
    let identity = identity.with_context(|| {
        format!("the sender on {} does not say which file {} is there", metrics.name(), path.display())
    })?;
    Ok(Input::File { path: PathBuf::from(INPUT), identity: identity.trim().to_owned(), commas })
}

/// Whether a file is a CSV at all, before all of it is shipped.
fn check_header(path: &Path, commas: bool) -> anyhow::Result<()> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).with_context(|| format!("opening the input {name}"))?;
    let name = records::sniff::Name { name: &name, is_file: true };
    records::read_header(&mut records::Reader::new(file, protocol::frame::DEFAULT_LIMIT), name, commas)?;
    Ok(())
}

fn describe(input: &Input, path: Option<&Path>) -> String {
    match (input.rows(), path) {
        (Some(rows), _) => format!("{} fake rows", console::count(rows)),
        (None, Some(path)) => format!("rows from {}", path.display()),
        (None, None) => "rows from the file that was shipped".to_owned(),
    }
}

fn summarize(
    summary: &Summary,
    forming: Option<Duration>,
    packing: Option<Duration>,
    metrics: &str,
    start: Instant,
    threads: Option<&str>,
) {
    console::summary(summary, start.elapsed(), threads);
    if let Some(forming) = forming {
        console::data(&format!("cluster    formed in {:.2} s", forming.as_secs_f64()));
    }
    let packed = packing.map(|time| format!(", packed {:.2} s after the last row", time.as_secs_f64()));
    console::data(&format!("results    on {metrics}{}", packed.unwrap_or_default()));
    console::data(&format!("sha256     {}", summary.sha256));
}
