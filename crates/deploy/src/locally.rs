//! A whole job on this machine: sender → classifiers → receiver.

mod before;
mod checks;
mod objects;
mod prepared;
mod shown;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use files::remove_if_there;
use protocol::result_files::{ARCHIVE, REPORT, results_name};
use protocol::results::Summary;
use records::format::{is_address, is_object};

use crate::host::local::Local;
use crate::input::{check_inputs, checked_identity, identity, needs_formats, show_hints};
use crate::job::{Export, Hub, Input};
use crate::notify::{Ending, notify};
use crate::objects::{UPLOADS, refuse_to_replace_object};
use crate::options::{JobOptions, ResultOptions, Rows, refuse_unnamed_model};
use crate::output::{JobFolder, Jobs, lock, lock_within};
use crate::{console, exit, interrupt, project};
pub use before::Before;
use before::Found;
use checks::{check, refuse_to_replace, same};
use objects::Objects;
use prepared::Prepared;
use shown::{already_done, describe};

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

    fn reads_objects(&self) -> bool {
        self.job.rows.paths().iter().any(|path| is_object(path))
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
        refuse_to_replace_object(paths, &args.job.results)?;
    }
    let programs = project::build_programs()?;
    let mut objects = Objects::prepare(args)?;
    let signed = objects.as_ref().map(|objects| objects.signed().to_owned());
    let ResultOptions { form, upload } = args.job.results.clone();
    let export = match args.job.results.is_plain() {
        true => None,
        false => {
            Some(Export { form, upload: upload.zip(signed.clone()), formats: project::build_formats()? })
        }
    };
    if let Some(reading) = input.reading_mut()
        && needs_formats(args.job.rows.paths(), reading)?
    {
        reading.formats = Some(project::build_formats()?);
        reading.signed = signed.filter(|_| args.reads_objects());
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
    objects.iter_mut().try_for_each(|objects| objects.sign_inputs(args))?;
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
    jobs.check_room(args.results_name(), form)?;
    let types = types.as_deref();
    let (folder, is_new) = match before::find(args, &jobs, &input, types, &programs)? {
        Found::Done(mut folder, summary) => {
            let is_packed = !args.pack || folder.path.join(ARCHIVE).exists();
            // Until archive, export and uploads are complete, the checkpoint stays.
            let is_exported = folder.is_exported()? && folder.record.upload.is_none();
            if is_packed && is_exported || !folder.files()?.checkpoint.exists() {
                folder.note_export()?;
                jobs.publish(&folder, folder.path.join(REPORT[0]).exists())?;
                remove_if_there(&folder.path.join(UPLOADS))?;
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
        Found::New(folder) => {
            jobs.abort_others(&folder)?;
            (folder, true)
        }
    };
    *progress.job.borrow_mut() = Some((input.clone(), folder.clone()));
    let prepared = Prepared {
        programs,
        host,
        input: input.clone(),
        types: types.map(str::to_owned),
        export,
        objects,
        folder: folder.clone(),
        logs,
        run_folder,
        threads,
        processes,
    };
    let outcome = prepared.run(args, start, &jobs, progress);
    if outcome.is_err() {
        objects::abort_failed(&folder, before::can_go_on(&input));
    }
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

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
