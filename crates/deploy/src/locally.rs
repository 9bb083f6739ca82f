//! A whole job on this machine: sender → classifiers → receiver.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use protocol::result_files::{ARCHIVE, ResultFiles, results_name};
use protocol::results::Summary;

use crate::host::local::Local;
use crate::host::{Host, Launch};
use crate::input::{check_input, guard, show_hints};
use crate::job::{self, Hosts, Hub, Input, Job};
use crate::options::{self, JobOptions, Rows, refuse_unnamed_model, threads, threads_each};
use crate::output::{Earlier, lock};
use crate::{console, exit, interrupt, project};

/// The most worker threads in a classifier.
const MAX_THREADS: usize = 1024;
/// The pause between two polls of a check.
const CHECK_PAUSE: Duration = Duration::from_millis(1);
/// How many of the last lines of a check are shown.
const LAST_LINES: usize = 20;
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
        let (path, commas) = match &self.job.rows {
            Rows::Fake { lines, seed } => return Ok(Input::Fake { lines: *lines, seed: *seed }),
            Rows::File { path, commas } => (path.clone(), *commas),
        };
        if STDIN.iter().any(|stdin| path == Path::new(stdin)) {
            return Ok(Input::Stdin { commas });
        }
        check_input(&path)?;
        if !path.is_file() {
            return Ok(Input::Pipe { path, commas });
        }
        let guard = guard(&path)?;
        Ok(Input::File { path, identity: guard.identity().to_string(), commas })
    }

    fn model(&self) -> &str {
        self.model.as_deref().unwrap_or("native")
    }

    /// The results file.
    fn results(&self) -> PathBuf {
        self.output.join(results_name(self.job.model.is_typed(self.model())))
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
    let begun = Cell::new(false);
    let outcome = run_until_done(args, &begun);
    if interrupt::is_wanted() && outcome.is_err() {
        // The error is only a consequence of the interruption: of cargo's build, a program, or a wait.
        console::note("interrupted: all programs of the job have ended; nothing is left running");
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    }
    outcome.map_err(|error| if begun.get() { error } else { exit::refused(error) })
}

fn run_until_done(args: &LocalJob, begun: &Cell<bool>) -> anyhow::Result<ExitCode> {
    let input = args.input()?;
    refuse_unnamed_model(&args.job.rows, args.model.is_some())?;
    let types = args.job.model.types(args.model())?;
    let (output, log) = (args.output.clone(), args.log.clone());
    let files = ResultFiles::beside(&args.results())?;
    if let Input::File { path, .. } = &input {
        refuse_to_overwrite(path, &files)?;
    }
    let programs = project::build_programs()?;
    // Building the programs does not count as time of the job.
    let start = Instant::now();
    let run_folder = log.join("run");
    project::make_folder(&output)?;
    project::make_folder(&run_folder)?;
    let _output_lock = lock(&output)?;
    let _log_lock = if same(&output, &log) { None } else { Some(lock(&log)?) };
    let workers = args.job.workers.map_or_else(cores, usize::from);
    let processes = usize::from(args.processes);
    let threads = workers.div_ceil(processes);
    ensure!(
        threads <= MAX_THREADS,
        "{threads} workers in a process are too many; the maximum is {MAX_THREADS}"
    );
    let logs = log.clone();
    let host = Local::new(programs, log, run_folder.clone());
    if matches!(input, Input::File { .. }) {
        let check_args = vec!["127.0.0.1:1".to_owned(), "--check".to_owned()];
        let output = check(args, &host, "sender", [check_args, input.sender_args()].concat(), &run_folder)?;
        show_hints(&output);
    }
    let earlier = Earlier::set_aside(&files, &output)?;
    let local = Locally { host, input, types, output, logs, files, run_folder, threads, processes };
    let outcome = run_job(args, local, start, &earlier, begun);
    if begun.get() {
        return outcome;
    }
    // Last, since the hub writes its report when it ends.
    match (outcome, earlier.put_back()) {
        (outcome, Ok(())) => outcome,
        (Ok(_), Err(left)) => Err(left),
        (Err(error), Err(left)) => {
            console::note(&format!("{left:#}"));
            Err(error)
        }
    }
}

/// A job that is ready to run on this machine.
struct Locally {
    host: Local,
    input: Input,
    types: Option<String>,
    output: PathBuf,
    logs: PathBuf,
    files: ResultFiles,
    run_folder: PathBuf,
    /// In each process.
    threads: usize,
    processes: usize,
}

fn run_job(
    args: &LocalJob,
    local: Locally,
    start: Instant,
    earlier: &Earlier,
    begun: &Cell<bool>,
) -> anyhow::Result<ExitCode> {
    let Locally { host, input, types, output, logs, files, run_folder, threads, processes } = local;
    let archive = args.pack.then(|| output.join(ARCHIVE));

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
    let (input_words, output_words) = (describe(&input), output.display().to_string());
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
        run_folder,
        token,
        token_file: token_file.clone(),
        max_rejects: args.job.max_rejects,
        lifetime: None,
        description,
    };
    let hosts = Hosts { metrics: &host, classifiers: vec![&host as &dyn Host; processes] };
    let hub = if args.hub == HubMode::None { None } else { Hub::start(&job, &host, &output)? };
    let when_begun = || {
        begun.set(true);
        earlier.discard()
    };
    let outcome = job::run(&job, &hosts, hub.as_ref(), Some(&when_begun));
    // Only restarted programs read the token again; the hub that stays does not need it.
    let removed = std::fs::remove_file(&token_file);
    let summary = outcome.and_then(|times| {
        removed.with_context(|| format!("removing the job token {}", token_file.display()))?;
        let packed = archive.map(|archive| (archive, times.packing));
        let summary = summarize(args, &files, packed, start)?;
        // The job is done, whatever comes of this.
        if let Err(error) = show_model_logs(&host, processes) {
            console::note(&format!("{error:#}"));
        }
        Ok(summary)
    });
    match hub.filter(|_| args.hub == HubMode::Keep && !interrupt::is_wanted()) {
        Some(hub) => {
            // Printed now, since the hub may stay for long.
            let coded = |error| if begun.get() { error } else { exit::refused(error) };
            let code = summary.unwrap_or_else(|error| exit::fail(&coded(error)));
            hub.stay(&host)?;
            Ok(code)
        }
        None => summary,
    }
}

/// Has a program check its arguments, so that a mistake does not cost the results of the job before; returns its last lines.
fn check(
    job: &LocalJob,
    host: &Local,
    program: &'static str,
    args: Vec<String>,
    run_folder: &Path,
) -> anyhow::Result<String> {
    let name = format!("{program}-check");
    let launch = Launch {
        ready_file: run_folder.join(format!("{name}.ready")),
        name,
        program,
        args,
        environment: job.job.environment.clone(),
        stdin: false,
        restart: false,
    };
    let mut running = host.start(&launch)?;
    let end = loop {
        interrupt::check()?;
        if let Some(end) = running.try_wait()? {
            break end;
        }
        std::thread::sleep(CHECK_PAUSE);
    };
    let lines = running.last_lines(LAST_LINES)?;
    if end.is_success() {
        let messages: Vec<_> = lines.iter().map(|line| process::log::message(line)).collect();
        return Ok(messages.join("\n"));
    }
    let said = job::in_own_words(&lines, |_| true);
    Err(said.unwrap_or_else(|| anyhow!("the {program} ended ({end})")))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn describe(input: &Input) -> String {
    match input {
        Input::Fake { lines, .. } => format!("{} fake rows", console::count(*lines)),
        Input::File { path, .. } | Input::Pipe { path, .. } => format!("rows from {}", path.display()),
        Input::Stdin { .. } => "rows from standard input".into(),
    }
}

/// Whether both paths exist, and are the same file or folder.
fn same(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// # Errors
/// The input is one of the files that the job writes.
fn refuse_to_overwrite(input: &Path, files: &ResultFiles) -> anyhow::Result<()> {
    ensure!(
        !files.all().iter().any(|file| same(file, input)),
        "the input {} would be replaced by the results; move it, or choose another folder with --output",
        input.display()
    );
    Ok(())
}

/// Says where the model's output is, if there is any.
fn show_model_logs(host: &Local, processes: usize) -> anyhow::Result<()> {
    let logs = host.model_logs(processes)?;
    if let Some(first) = logs.first() {
        let others = match logs.len() - 1 {
            0 => String::new(),
            1 => " and one other".to_owned(),
            others => format!(" and {others} others"),
        };
        console::data(&format!("printed    by the model: {}{others}", first.display()));
    }
    Ok(())
}

fn summarize(
    args: &LocalJob,
    files: &ResultFiles,
    packed: Option<(PathBuf, Duration)>,
    start: Instant,
) -> anyhow::Result<ExitCode> {
    let path = &files.summary;
    let json =
        std::fs::read(path).with_context(|| format!("reading the job's summary {}", path.display()))?;
    let summary: Summary =
        serde_json::from_slice(&json).with_context(|| format!("parsing {}", path.display()))?;
    let model_args = args.model_args();
    console::summary(&summary, start.elapsed(), threads(args.model(), &model_args));
    console::data(&format!("results    {} ({})", files.results.display(), console::bytes(summary.bytes)));
    console::data(&format!("sha256     {}", summary.sha256));
    if let Some((archive, took)) = packed {
        let seconds = took.as_secs_f64();
        console::data(&format!("packed     {seconds:.2} s after the last results, to {}", archive.display()));
    }
    console::rejects(&summary, &files.rejects);
    if args.strict && summary.rejects > 0 {
        console::note("error: there are rejects, and --strict allows none");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
