//! A whole job on this machine: sender → classifiers → receiver.

mod before;
mod checks;
mod shown;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use protocol::result_files::{ARCHIVE, Form, REPORT, results_name};
use protocol::results::Summary;
use records::format::is_address;

use crate::host::Host;
use crate::host::local::Local;
use crate::input::{check_inputs, checked_identity, identity, needs_formats, show_hints};
use crate::job::{self, Export, Hosts, Hub, Input, Job, Times};
use crate::notify::{Ending, notify};
use crate::options::{self, JobOptions, Rows, refuse_unnamed_model, threads_each};
use crate::output::{JobFolder, Jobs, State, lock, lock_within};
use crate::{console, exit, interrupt, project};
pub use before::Before;
use before::Found;
use checks::{check, refuse_to_replace, same};
use shown::{already_done, describe, show, show_model_logs};

/// The most worker threads in a classifier.
const MAX_THREADS: usize = 1024;
/// Paths that mean standard input.
const STDIN: [&str; 4] = ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"];

#[derive(Debug, Clone)]
pub struct LocalJob {
    pub job: JobOptions,
    /// The model that the user named; `None` for native.
    pub model: Option<String>,
    /// The interpreter for Python models.
    pub python: PathBuf,
    /// Processes that the worker threads are split over.
    pub processes: u16,
    /// The folder for the results.
    pub output: PathBuf,
    /// The folder for the programs' logs.
    pub log: PathBuf,
    pub hub: HubMode,
    /// The form of results and rejects, if not plain text.
    pub form: Option<Form>,
    /// Also pack the results to an archive beside them.
    pub pack: bool,
    /// Fail if there are rejects.
    pub strict: bool,
    /// What becomes of a job that was done or begun before.
    pub before: Before,
    /// How long to wait for another job in the same folder.
    pub wait: Option<Duration>,
    /// Afterwards, remove all jobs but this many.
    pub keep: Option<usize>,
    /// The user's command that gets a JSON of how the job ended.
    pub notify: Option<String>,
}

/// How long the Monitoring Hub runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubMode {
    /// Not at all.
    None,
    /// Until the job is done.
    Job,
    /// Until Ctrl-C.
    Keep,
}

impl LocalJob {
    fn input(&self) -> anyhow::Result<Input> {
        let (paths, reading) = match &self.job.rows {
            Rows::Fake { lines, seed } => return Ok(Input::Fake { lines: *lines, seed: *seed }),
            Rows::Files { paths, reading } => (paths, reading.clone()),
        };
        if let [path] = &paths[..]
            && STDIN.iter().any(|stdin| path == Path::new(stdin))
        {
            return Ok(Input::Stdin { reading });
        }
        check_inputs(paths)?;
        match &paths[..] {
            [path] if !path.is_file() && !is_address(path) => Ok(Input::Pipe { path: path.clone(), reading }),
            paths => {
                // The sender asks the servers.
                let is_here = !paths.iter().any(|path| is_address(path));
                let identity = is_here.then(|| identity(paths)).transpose()?;
                Ok(Input::Files { paths: paths.to_vec(), identity, reading })
            }
        }
    }

    fn model(&self) -> &str {
        self.model.as_deref().unwrap_or("native")
    }

    /// The name of the results file.
    fn results_name(&self) -> &'static str {
        results_name(self.job.model.is_typed(self.model()))
    }

    fn model_args(&self) -> Vec<String> {
        self.job.model.to_args(self.model(), &self.python)
    }
}

/// Runs the job.
///
/// # Errors
/// The job was refused or failed; the error carries the exit code.
pub fn run(args: &LocalJob) -> anyhow::Result<ExitCode> {
    interrupt::watch("interrupted twice: what still runs of the job ends by itself in a moment")?;
    let progress = Progress::default();
    let outcome = run_until_done(args, &progress);
    let was_interrupted = interrupt::is_wanted() && outcome.is_err();
    let outcome = match outcome {
        // The error is only a consequence of the interruption: of cargo's build, a program, or a wait.
        Err(_) if was_interrupted => {
            console::note("interrupted: all programs of the job have ended; nothing is left running");
            Ok(interrupt::EXIT_CODE)
        }
        Err(error) if progress.begun.get() => Err(error),
        outcome => outcome.map_err(exit::refused),
    };
    if let Some(command) = &args.notify {
        let (job, summary) = (progress.job.borrow(), progress.summary.borrow());
        let folder = job.as_ref().map(|(_, folder)| folder);
        let ending = Ending::new(&outcome, was_interrupted, folder, summary.as_ref());
        if let Err(error) = notify(command, &ending) {
            console::note(&format!("--notify: {error:#}"));
        }
    }
    if let Some((input, folder)) = progress.job.borrow().as_ref()
        && progress.begun.get()
        && (was_interrupted || outcome.is_err())
    {
        before::say_what_is_left(args, input, folder);
    }
    let Some((hub, host)) = progress.hub.take().filter(|_| !interrupt::is_wanted()) else {
        return outcome.map(ExitCode::from);
    };
    // Printed now, since the hub may stay for long.
    let code = outcome.unwrap_or_else(|error| {
        exit::fail(&error);
        exit::code_of(&error).unwrap_or(exit::FAILED)
    });
    hub.stay(&host)?;
    Ok(code.into())
}

/// What has become of a job so far.
#[derive(Default)]
struct Progress {
    /// It has taken a row.
    begun: Cell<bool>,
    job: RefCell<Option<(Input, JobFolder)>>,
    /// Once it is done.
    summary: RefCell<Option<Summary>>,
    /// A hub that stays.
    hub: RefCell<Option<(Hub, Local)>>,
    /// The locks of the folders.
    locks: RefCell<Vec<File>>,
}

/// Returns the exit code of a job that is done.
fn run_until_done(args: &LocalJob, progress: &Progress) -> anyhow::Result<u8> {
    let mut input = args.input()?;
    refuse_unnamed_model(&args.job.rows, args.model.is_some())?;
    let types = args.job.model.types(args.model())?;
    let (output, log) = (args.output.clone(), args.log.clone());
    if let Input::Files { paths, .. } = &input {
        paths.iter().try_for_each(|path| refuse_to_replace(path, &output))?;
    }
    let programs = project::build_programs()?;
    let export = match args.form {
        Some(form) => Some(Export { form, formats: project::build_formats()? }),
        None => None,
    };
    if let Some(reading) = input.reading_mut()
        && needs_formats(args.job.rows.paths(), reading)?
    {
        reading.formats = Some(project::build_formats()?);
    }
    // Building the programs does not count as time of the job.
    let start = Instant::now();
    let run_folder = log.join("run");
    project::make_folder(&output)?;
    project::make_folder(&run_folder)?;
    let locked = |folder: &Path| args.wait.map_or_else(|| lock(folder), |limit| lock_within(folder, limit));
    progress.locks.borrow_mut().push(locked(&output)?);
    if !same(&output, &log) {
        progress.locks.borrow_mut().push(locked(&log)?);
    }
    let workers = args.job.workers.map_or_else(cores, usize::from);
    let processes = usize::from(args.processes);
    let threads = workers.div_ceil(processes);
    ensure!(
        threads <= MAX_THREADS,
        "{threads} workers in a process are too many; the maximum is {MAX_THREADS}"
    );
    let logs = log.clone();
    let host = Local::new(programs.clone(), log, run_folder.clone());
    if matches!(input, Input::Files { .. }) {
        let check_args = vec!["127.0.0.1:1".to_owned(), "--check".to_owned()];
        let output = check(args, &host, "sender", [check_args, input.sender_args()].concat(), &run_folder)?;
        show_hints(&output);
        if let Input::Files { identity, .. } = &mut input {
            *identity =
                Some(checked_identity(&output).context("the sender did not print the input's identity")?);
        }
    }
    let jobs = Jobs::of(&output);
    jobs.tidy()?;
    jobs.check_room(args.results_name(), args.form)?;
    let types = types.as_deref();
    let (folder, is_new) = match before::find(args, &jobs, &input, types, &programs)? {
        Found::Done(mut folder, summary) => {
            let is_packed = !args.pack || folder.path.join(ARCHIVE).exists();
            // Until archive and export are complete, the checkpoint stays.
            if is_packed && folder.is_exported()? || !folder.files()?.checkpoint.exists() {
                folder.note_export()?;
                jobs.publish(&folder, folder.path.join(REPORT[0]).exists())?;
                progress.begun.set(true);
                *progress.job.borrow_mut() = Some((input.clone(), folder.clone()));
                let code = already_done(args, &folder, &summary, is_packed, start)?;
                *progress.summary.borrow_mut() = Some(summary);
                remove_old(args, &jobs)?;
                return Ok(code);
            }
            (folder, false)
        }
        Found::Begun(folder) => (folder, false),
        Found::New(folder) => (folder, true),
    };
    *progress.job.borrow_mut() = Some((input.clone(), folder.clone()));
    let local = Locally {
        programs,
        host,
        input: input.clone(),
        types: types.map(str::to_owned),
        export,
        folder: folder.clone(),
        logs,
        run_folder,
        threads,
        processes,
    };
    let outcome = run_job(args, local, start, &jobs, progress);
    if outcome.is_err() && !progress.begun.get() {
        if is_new && progress.hub.borrow().is_none() {
            *progress.job.borrow_mut() = None;
            jobs.remove_or_say(&folder);
        }
        if !is_new {
            console::note("if the job cannot go on, --fresh starts over");
        }
    }
    let code = outcome?;
    remove_old(args, &jobs)?;
    Ok(code)
}

/// Removes the jobs that `--keep` does not keep.
fn remove_old(args: &LocalJob, jobs: &Jobs) -> anyhow::Result<()> {
    let Some(most) = args.keep else { return Ok(()) };
    let removed = jobs.keep(most)?;
    if removed > 0 {
        console::note(&format!(
            "{removed} old {} removed (--keep)",
            if removed == 1 { "job" } else { "jobs" }
        ));
    }
    Ok(())
}

/// A job that is ready to run on this machine.
struct Locally {
    programs: PathBuf,
    host: Local,
    input: Input,
    types: Option<String>,
    export: Option<Export>,
    folder: JobFolder,
    logs: PathBuf,
    run_folder: PathBuf,
    /// In each process.
    threads: usize,
    processes: usize,
}

fn run_job(
    args: &LocalJob,
    local: Locally,
    start: Instant,
    jobs: &Jobs,
    progress: &Progress,
) -> anyhow::Result<u8> {
    let Locally { programs, host, input, types, export, mut folder, logs, run_folder, threads, processes } =
        local;
    let files = folder.files()?;
    let archive = args.pack.then(|| folder.path.join(ARCHIVE));

    console::note(&format!(
        "{} on {}{}, through {}",
        describe(&input),
        match processes {
            1 => format!("{threads} workers"),
            _ => format!("{} workers ({processes} processes of {threads})", processes * threads),
        },
        threads_each(args.model(), &args.model_args()),
        args.model()
    ));
    console::note(&format!("logs       {}", logs.display()));
    let token_file = run_folder.join("token");
    let token = job::make_token()?;
    token.save(&token_file)?;
    let (input_words, output_words) = (describe(&input), args.output.display().to_string());
    let description =
        options::describe(args.model(), &args.model_args(), input_words, output_words, threads * processes);
    let job = Job {
        input,
        types,
        model_args: args.model_args(),
        workers: threads,
        environment: args.job.environment.clone(),
        results: files.results.clone(),
        archive: archive.clone(),
        export,
        run_folder,
        token,
        token_file: token_file.clone(),
        max_rejects: args.job.max_rejects,
        lifetime: None,
        description,
    };
    let hosts = Hosts { metrics: &host, classifiers: vec![&host as &dyn Host; processes] };
    let hub = if args.hub == HubMode::None { None } else { Hub::start(&job, &host, &folder.path)? };
    let when_begun = || {
        progress.begun.set(true);
        Ok(())
    };
    let outcome = match folder.state()? {
        State::Done(_) => job::pack(&job, &host).map(|packing| Times { forming: Duration::ZERO, packing }),
        _ => job::run(&job, &hosts, hub.as_ref(), Some(&when_begun)),
    };
    if progress.begun.get() {
        let changes = before::note_changes(args, &mut folder, &job.input, job.types.as_deref(), &programs);
        if let Err(error) = changes {
            console::note(&format!("{error:#}"));
        }
    }
    // Only restarted programs read the token again; the hub that stays does not need it.
    let removed = std::fs::remove_file(&token_file);
    let summary = outcome.and_then(|times| {
        removed.with_context(|| format!("removing the job token {}", token_file.display()))?;
        let State::Done(summary) = folder.state()? else {
            return Err(anyhow!(
                "the job's programs have ended, but {} is not complete",
                folder.path.display()
            ));
        };
        folder.note_export()?;
        jobs.publish(&folder, hub.is_some())?;
        let code = show(args, &folder, &summary, start.elapsed())?;
        *progress.summary.borrow_mut() = Some(summary);
        if archive.is_some() {
            let (seconds, path) = (times.packing.as_secs_f64(), args.output.join(ARCHIVE));
            console::data(&format!(
                "packed     {seconds:.2} s after the last results, to {}",
                path.display()
            ));
        }
        // The job is done, whatever comes of this.
        if let Err(error) = show_model_logs(&host, processes) {
            console::note(&format!("{error:#}"));
        }
        Ok(code)
    });
    if args.hub == HubMode::Keep {
        *progress.hub.borrow_mut() = hub.map(|hub| (hub, host));
    }
    summary
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
