//! `cargo xtask run-cluster`

mod attach;
mod description;
mod done;
mod input;
mod objects;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use agent::protocol::{FOLDER, Request, Status};
use anyhow::{Context, anyhow, bail, ensure};
use deploy::host::Host;
use deploy::input::check_inputs;
use deploy::interrupt::{self, Interrupted};
use deploy::job::{self, Export, Hosts, Hub, Job, Lifetime, LostContact, Times, WhileRunning};
use deploy::objects::{Signatures, refuse_to_replace_object};
use deploy::options::{self, refuse_unnamed_model, threads_each};
use deploy::python_module::module_of;
use deploy::request::{RunCluster, RunMode};
use deploy::{console, exit, step};
use protocol::result_files::results_name;
use protocol::token::Token;

use super::hub;
use crate::agents::{ARCHIVE, OUTPUT, SHORT, connect_all, load, lock_all, status_of, stop_all, stop_job};
use crate::inventory::Inventory;
use crate::parallel::{all, each};
use crate::ssh::Ssh;
use description::Description;
pub(crate) use description::recall;
use done::{Timing, conclude, is_packed};
pub(crate) use input::describe;
use objects::Objects;
pub(crate) use objects::uploaded;

/// Where Python models find the module and the packages, from the host's folder.
const PYTHON_PATH: &str = "app/python:packages";
/// The folder of the module and what was shipped with it, where Python models run.
const MODEL_FOLDER: &str = "app/python";
/// The environment variable in which the classifier's runner.py finds that folder.
const MODEL_FOLDER_VARIABLE: &str = "CLASSIFIER_MODEL_FOLDER";
/// How long programs may take to end. Their work is discarded.
const GRACE: Duration = Duration::from_secs(1);
/// How long a receiver may take to make its batches durable.
const RECEIVER_GRACE: Duration = Duration::from_secs(20);
/// How long a host may take to remove the results of an earlier job.
const CLEAN_TIME: Duration = Duration::from_secs(120);
/// How long the sender may take to check an input.
const CHECK_TIME: Duration = Duration::from_secs(180);

pub(crate) fn run(args: &RunCluster) -> anyhow::Result<ExitCode> {
    if args.mode == RunMode::Attach {
        return attach::run(args);
    }
    let hosts_go = step::hosts_go();
    interrupt::watch_or_leave(match hosts_go {
        true => "interrupted twice: the job is left as it is",
        false => "interrupted twice: cargo xtask stop ends what is left of the job on the hosts",
    })?;
    let (start, mut is_started) = (Instant::now(), false);
    let outcome = run_until_done(args, start, &mut is_started);
    match outcome {
        Err(error) if exit::is::<Interrupted>(&error) => {
            console::note(match (is_started, hosts_go) {
                (true, false) => {
                    "interrupted: all programs of the job have ended; the metrics host keeps what was received, and cargo xtask \
                     run-cluster --resume continues with it (cargo xtask get-results --partial fetches it)"
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

/// Runs the job. `is_started` is set before anything on the hosts is changed.
fn run_until_done(args: &RunCluster, start: Instant, is_started: &mut bool) -> anyhow::Result<ExitCode> {
    let (inventory, access) = load(&args.inventory)?;
    let lifetime = check(args, &inventory)?;
    let hosts = connect_all(&inventory.used_hosts()?, &access, &inventory.agent)?;
    // The metrics host is the first: every command for these hosts starts with it.
    lock_all(&hosts, "cargo xtask run-cluster")?;
    let cluster = Cluster::new(&inventory, &hosts)?;
    let (description, mut objects, is_done) = cluster.describe(args)?;
    let token = job::make_token()?;
    interrupt::check()?;
    *is_started = true;
    cluster.clear(args.mode, is_done, &description, &token)?;
    let verb = if args.mode == RunMode::Resume { "continuing with " } else { "" };
    show(verb, &description, args.job.rows.paths(), cluster.classifiers.len());
    let job = cluster.job(args, description, token, lifetime)?;
    let (metrics, classifiers) = (cluster.metrics, cluster.classifiers);
    let deliver = |signed: &Path| objects::deliver(signed, metrics);
    let signatures = objects.as_ref().and_then(|objects| objects.signatures(&deliver));
    let timing = if is_done {
        let packing = end(&hosts, job::pack(&job, metrics, signatures))?;
        Timing { forming: None, packing: Some(packing), start }
    } else {
        let outcome = run_with_hub(&job, &Hosts { metrics, classifiers }, signatures);
        let times = end(&hosts, outcome)?;
        Timing { forming: Some(times.forming), packing: Some(times.packing), start }
    };
    drop(objects.take());
    conclude(metrics, &args.inventory, &timing)
}

/// Checks what can be checked before any host is asked; returns when the hosts terminate themselves.
fn check(args: &RunCluster, inventory: &Inventory) -> anyhow::Result<Option<Lifetime>> {
    ensure!(inventory.ready, "the last cargo xtask up did not complete; run it again");
    let lifetime = lifetime(inventory);
    if let Some(warning) = lifetime.as_ref().and_then(|lifetime| lifetime.at_start(SystemTime::now())) {
        console::note(&warning);
    }
    let paths = args.job.rows.paths();
    ensure!(
        paths.iter().all(|path| path != Path::new("-")),
        "standard input cannot be shipped to the hosts; give a file"
    );
    check_inputs(paths)?;
    refuse_to_replace_object(paths, &args.job.results)?;
    let is_named = args.model.is_some() || inventory.has_named_model();
    refuse_unnamed_model(&args.job.rows, is_named)?;
    Ok(lifetime)
}

/// The locked hosts, by their roles.
struct Cluster<'a> {
    inventory: &'a Inventory,
    hosts: &'a [Ssh],
    metrics: &'a Ssh,
    initializer: &'a Ssh,
    /// The initializer is the first.
    classifiers: Vec<&'a dyn Host>,
}

impl<'a> Cluster<'a> {
    fn new(inventory: &'a Inventory, hosts: &'a [Ssh]) -> anyhow::Result<Self> {
        let by_name = |name: &String| {
            let host = hosts.iter().find(|host| host.entry().name == *name);
            host.with_context(|| format!("the inventory has no host {name}; run cargo xtask up again"))
        };
        let classifiers: Vec<_> = inventory.machines.iter().map(by_name).collect::<anyhow::Result<_>>()?;
        let initializer =
            *classifiers.first().context("the inventory has no initializer; run cargo xtask up again")?;
        let classifiers = classifiers.into_iter().map(|host| host as &dyn Host).collect();
        Ok(Self { inventory, hosts, metrics: by_name(&inventory.metrics)?, initializer, classifiers })
    }

    /// The job to run, what it does at S3, and whether only the packing of its results is left.
    fn describe(&self, args: &RunCluster) -> anyhow::Result<(Description, Option<Objects>, bool)> {
        if args.mode != RunMode::Resume {
            refuse_second_job(self.metrics)?;
        }
        all(each(self.hosts, |host| ensure_right_application(host, self.inventory)))?;
        match args.mode {
            RunMode::Resume => {
                let (job, is_done) = description::resume(args, self)?;
                let mut objects = Objects::new(objects::inputs(&job.input), &job.results, &args.inventory)?;
                if let Some(objects) = &mut objects {
                    objects.sign_inputs(self.metrics)?;
                    objects.begin_uploads(&job.name, &job.results, job.types.is_some(), self.metrics)?;
                }
                Ok((job, objects, is_done))
            }
            _ => {
                let mut objects = Objects::new(args.job.rows.paths(), &args.job.results, &args.inventory)?;
                Ok((description::new(args, &mut objects, self)?, objects, false))
            }
        }
    }

    /// Ends what still runs, removes what an earlier job left, and writes what the new one needs.
    fn clear(
        &self,
        mode: RunMode,
        is_done: bool,
        description: &Description,
        token: &Token,
    ) -> anyhow::Result<()> {
        let text = serde_json::to_string(description).context("encoding the job's description")?;
        let resumes = mode == RunMode::Resume;
        // A receiver that still runs makes its batches durable.
        let grace = if resumes { RECEIVER_GRACE } else { GRACE };
        all(each(self.hosts, |host| {
            let is_metrics = host.entry().name == self.inventory.metrics;
            // If only the packing is left, the hub already has all reports of the job.
            if is_done && is_metrics {
                stop_job(host, grace)?;
            } else {
                stop_all(host, grace)?;
            }
            if !resumes || !is_metrics {
                host.send(&Request::Clean, CLEAN_TIME)?;
            }
            let write = |path: &str, text: &str| Request::WriteSecret {
                path: path.to_owned(),
                text: text.to_owned(),
            };
            if is_metrics {
                host.send(&write(description::FILE, &text), SHORT)?;
            }
            host.send(&write("run/token", token.secret()), SHORT)
        }))
        .map(drop)
    }

    fn job(
        &self,
        args: &RunCluster,
        description: Description,
        token: Token,
        lifetime: Option<Lifetime>,
    ) -> anyhow::Result<Job> {
        let Description { input, model, model_args, workers, max_rejects, types, results, .. } = description;
        let shown = telemetry::job::Description {
            machines: self.inventory.machines.clone(),
            ..options::describe(
                &model,
                &model_args,
                input::describe(&input, args.job.rows.paths()),
                format!("{FOLDER}/output on {}", self.inventory.metrics),
                workers * self.classifiers.len(),
            )
        };
        let variables = [("PYTHONPATH", PYTHON_PATH), (MODEL_FOLDER_VARIABLE, MODEL_FOLDER)];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(Job {
            input,
            model_args,
            workers,
            environment: variables.into_iter().chain(args.job.environment.clone()).collect(),
            results: Path::new("output").join(results_name(types.is_some())),
            types,
            archive: Some(ARCHIVE.into()),
            export: (!results.is_plain()).then(|| Export {
                form: results.form,
                upload: results.upload.map(|prefix| (prefix, objects::SIGNED.into())),
                formats: input::FORMATS.into(),
            }),
            run_folder: "run".into(),
            token,
            token_file: "run/token".into(),
            max_rejects: max_rejects.map(|most| most.parse().map_err(anyhow::Error::msg)).transpose()?,
            lifetime,
            description: shown,
        })
    }
}

/// Shows what a job classifies and how; `path` is the user's name of its input.
fn show(verb: &str, description: &Description, paths: &[PathBuf], machines: usize) {
    let Description { input, model, model_args, workers, .. } = description;
    console::note(&format!(
        "{verb}{}, on {} workers ({machines} machines of {workers}){}, through {model}",
        input::describe(input, paths),
        workers * machines,
        threads_each(model, model_args)
    ));
}

/// When a host that the job cannot lose terminates itself, with advice for the user.
fn lifetime(inventory: &Inventory) -> Option<Lifetime> {
    let ends = inventory.ends()?;
    let advice = match step::hosts_go() {
        true => {
            "shortly before that, the complete batches are fetched to results.partial.tgz (Ctrl-C does it now); the whole job \
             needs a longer --ttl"
        }
        false => {
            "the complete batches can be fetched until then, with cargo xtask get-results --partial; the whole job needs other \
             machines: cargo xtask down, and up with a longer --ttl"
        }
    };
    Some(Lifetime::of_machines(ends, advice))
}

/// Runs the job with a hub that outlives it.
fn run_with_hub(job: &Job, hosts: &Hosts<'_>, signatures: Option<Signatures<'_>>) -> anyhow::Result<Times> {
    let mut hub = Hub::start(job, hosts.metrics, Path::new(OUTPUT))?;
    hub.iter_mut().for_each(Hub::leave);
    job::run(job, hosts, hub.as_ref(), WhileRunning { when_begun: None, signatures })
}

/// Ends what is left of the job on its hosts, except the hub.
fn end<T>(hosts: &[Ssh], outcome: anyhow::Result<T>) -> anyhow::Result<T> {
    if outcome.as_ref().is_err_and(exit::is::<LostContact>) {
        return outcome;
    }
    // Also ends programs that could not be ended by name. A lost host may still compute, to no effect.
    let (reachable, lost): (Vec<_>, Vec<_>) = hosts.iter().partition(|host| host.away().is_none());
    for host in lost {
        let advice = match step::hosts_go() {
            true => "",
            false => "; cargo xtask stop, or the next job, ends what is left of the job there",
        };
        console::note(&format!("{} is still lost{advice}", host.name()));
    }
    let stopped = all(each(&reachable, |host| stop_job(host, GRACE)));
    match (outcome, stopped) {
        (outcome, Ok(_)) => outcome,
        (Ok(_), Err(left)) => Err(left
            .context("the job is done, but some of its programs still run; end them with: cargo xtask stop")),
        (Err(error), Err(left)) => {
            bail!("{error:#}\n\nbesides, what is left of the job could not be ended: {left:#}")
        }
    }
}

/// Checks that a host has the application of the inventory, and no other one that was shipped since.
fn ensure_right_application(host: &Ssh, inventory: &Inventory) -> anyhow::Result<()> {
    let status = status_of(host)?;
    let is_python = module_of(&inventory.model).is_some();
    ensure!(
        status.app.as_ref() == Some(&inventory.app) && (!is_python || status.packages == inventory.packages),
        "{} has another application than the last cargo xtask up shipped from here; run it again",
        host.name()
    );
    Ok(())
}

/// Checks that a host can load the model.
pub(crate) fn check_model(host: &Ssh, args: &[String]) -> anyhow::Result<()> {
    let limit = options::ready_time(args);
    let args: Vec<_> = args.iter().map(|arg| shell_word(arg)).collect();
    let script = format!(
        "cd {FOLDER} && PYTHONPATH={PYTHON_PATH} {MODEL_FOLDER_VARIABLE}={MODEL_FOLDER} app/classifier check {}",
        args.join(" ")
    );
    host.run(&script, limit).map(drop)
}

/// Quotes a word for the shell.
pub(super) fn shell_word(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// For how many seconds the receiver has been running; `None` if it does not run.
pub(crate) fn receiver_runs_for(status: &Status) -> Option<u64> {
    status.programs.iter().find(|program| program.name == "receiver")?.running
}

/// A job continues without its `run-cluster`, and must not be disturbed.
fn refuse_second_job(metrics: &Ssh) -> anyhow::Result<()> {
    let status = status_of(metrics)?;
    if let Some(seconds) = receiver_runs_for(&status) {
        let rows = status.progress.map_or(0, |progress| progress.rows);
        return Err(exit::busy(anyhow!(
            "a job has been running on the hosts for {seconds} s, unwatched, and {} rows are done; wait for its end (cargo xtask \
             run-cluster --attach shows it), or end it with: cargo xtask stop",
            console::count(rows)
        )));
    }
    Ok(())
}
