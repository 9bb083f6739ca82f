//! Subcommand: cargo xtask run-locally

mod earlier;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use clap::builder::BoolishValueParser;
use protocol::result_files::{ARCHIVE, ResultFiles};
use protocol::results::Summary;
use records::identity::Guard;

use super::job_args::{BoxArgs, RejectArgs, RowArgs, refuse_unnamed_model, threads, threads_each};
use crate::cluster::{self, Hosts, Hub, Input, Job};
use crate::host::local::Local;
use crate::host::{Host, Launch};
use crate::{exit, interrupt, project, ui};
use earlier::Earlier;

/// Worker threads that a classifier may have.
const MOST_THREADS: usize = 1024;
/// How often a check is asked whether it is over.
const CHECK_PAUSE: Duration = Duration::from_millis(1);
/// How much of what a failed check says is shown, in lines.
const LAST_LINES: usize = 20;

/// Run the whole job on this machine: sender → classifiers → receiver
///
/// Builds the programs, runs a million fake rows (or a CSV) through the classifier, and writes results.log,
/// results.rejects.csv and results.json to the output folder, replacing those of an earlier job.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    rows: RowArgs,
    #[command(flatten)]
    rejects: RejectArgs,
    #[command(flatten)]
    black_box: BoxArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Where and how it runs.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "This machine")]
struct RunArgs {
    /// Worker threads on this machine, in all [default: one for each core]
    #[arg(long, value_name = "W", env = "N_WORKERS", value_parser = clap::value_parser!(u16).range(1..))]
    workers: Option<u16>,
    /// Processes to split them over; all get the same number of threads
    #[arg(long, value_name = "P", env = "N_PROCESSES", default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=256))]
    processes: u16,
    /// The black box: native, python:MODULE[:FUNCTION] or sleep:MICROSECONDS [default for made up rows: native]
    #[arg(long, visible_alias = "model", value_name = "BOX")]
    classifier: Option<String>,
    /// The interpreter for Python boxes; it needs pandas
    #[arg(long, value_name = "PATH", default_value = "python3")]
    python: PathBuf,
    /// The folder for the results [default: output/ in the project]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The folder for the programs' logs [default: log/ in the project]
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
    /// Keep the Monitoring Hub's page when the job is done, until Ctrl-C
    #[arg(long)]
    keep_hub: bool,
    /// Run without the Monitoring Hub
    #[arg(long, conflicts_with = "keep_hub")]
    no_hub: bool,
    /// Pack the results to results.tgz beside them, too, as run-cluster does
    #[arg(long)]
    pack: bool,
    /// Fail when there are rejects
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true",
        hide_default_value = true, hide_possible_values = true, value_parser = BoolishValueParser::new())]
    strict: bool,
}

impl Args {
    fn input(&self) -> anyhow::Result<Input> {
        let Some(path) = &self.rows.input else {
            return Ok(Input::Fake { lines: self.rows.lines(), seed: self.rows.seed });
        };
        let commas = self.rows.commas();
        if ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"].iter().any(|stdin| path == Path::new(stdin)) {
            return Ok(Input::Stdin { commas });
        }
        check_input(path)?;
        let path = path.clone();
        if !path.is_file() {
            return Ok(Input::Pipe { path, commas });
        }
        let guard = guard(&path)?;
        Ok(Input::File { path, identity: guard.identity().to_string(), commas })
    }

    fn classifier(&self) -> &str {
        self.run.classifier.as_deref().unwrap_or("native")
    }

    fn box_args(&self) -> Vec<String> {
        self.black_box.words(self.classifier(), &self.run.python)
    }
}

/// Whether an input is there: better said before anything is built or started. It is not opened, since a pipe must not be
/// opened twice.
pub(crate) fn check_input(path: &Path) -> anyhow::Result<()> {
    let found = std::fs::metadata(path).with_context(|| format!("opening the input {}", path.display()))?;
    ensure!(!found.is_dir(), "the input {} is a folder; give a CSV file", path.display());
    Ok(())
}

/// Watches over a file that is the input.
pub(crate) fn guard(path: &Path) -> anyhow::Result<Guard> {
    let opening = || format!("opening the input {}", path.display());
    let file = File::open(path).with_context(opening)?;
    Guard::new(&file, Some(path), None).with_context(opening)
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    interrupt::watch("interrupted twice: what still runs of the job ends by itself in a moment")?;
    let (start, begun) = (Instant::now(), Cell::new(false));
    let outcome = run_until_done(args, start, &begun);
    if interrupt::is_wanted() && outcome.is_err() {
        // The error is what the interruption did: to cargo's build, to a program, or to the wait for them.
        ui::note("interrupted: all programs of the job have ended; nothing is left running");
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    }
    outcome.map_err(|error| if begun.get() { error } else { exit::refused(error) })
}

fn run_until_done(args: &Args, start: Instant, begun: &Cell<bool>) -> anyhow::Result<ExitCode> {
    let input = args.input()?;
    refuse_unnamed_model(args.rows.input.as_deref(), args.run.classifier.is_some())?;
    let output = args.run.output.clone().map_or_else(|| project::default_folder("output"), Ok)?;
    let log = args.run.log.clone().map_or_else(|| project::default_folder("log"), Ok)?;
    let files = ResultFiles::beside(&output.join("results.log"))?;
    if let Input::File { path, .. } = &input {
        spare(path, &files)?;
    }
    let programs = project::build_programs()?;
    let run_folder = log.join("run");
    project::make_folder(&output)?;
    project::make_folder(&run_folder)?;
    let _output_lock = lock(&output)?;
    let _log_lock = if same(&output, &log) { None } else { Some(lock(&log)?) };
    let workers = args.run.workers.map_or_else(cores, usize::from);
    let processes = usize::from(args.run.processes);
    let threads = workers.div_ceil(processes);
    ensure!(
        threads <= MOST_THREADS,
        "{threads} workers in a process are too many; there may be {MOST_THREADS}"
    );
    let host = Local::new(programs, log, run_folder.clone());
    check(&host, "classifier", [vec!["check".to_owned()], args.box_args()].concat(), &run_folder)?;
    if matches!(input, Input::File { .. }) {
        let words = vec!["127.0.0.1:1".to_owned(), "--check".to_owned()];
        let said = check(&host, "sender", [words, input.sender_args()].concat(), &run_folder)?;
        tell_hints(&said);
    }
    let earlier = Earlier::set_aside(&files, &output)?;
    let local = Locally { host, input, output, files, run_folder, threads, processes };
    let outcome = run_job(args, local, start, &earlier, begun);
    if begun.get() {
        return outcome;
    }
    // Last, since the hub leaves its report when it ends.
    match (outcome, earlier.put_back()) {
        (outcome, Ok(())) => outcome,
        (Ok(_), Err(left)) => Err(left),
        (Err(error), Err(left)) => {
            ui::note(&format!("{left:#}"));
            Err(error)
        }
    }
}

/// Where and of what a job is run.
struct Locally {
    host: Local,
    input: Input,
    output: PathBuf,
    files: ResultFiles,
    run_folder: PathBuf,
    /// In each of the processes.
    threads: usize,
    processes: usize,
}

fn run_job(
    args: &Args,
    local: Locally,
    start: Instant,
    earlier: &Earlier,
    begun: &Cell<bool>,
) -> anyhow::Result<ExitCode> {
    let Locally { host, input, output, files, run_folder, threads, processes } = local;
    let archive = args.run.pack.then(|| output.join(ARCHIVE));

    ui::note(&format!(
        "{} on {}{}, through {}",
        describe(&input),
        match processes {
            1 => format!("{threads} workers"),
            _ => format!("{} workers ({processes} processes of {threads})", processes * threads),
        },
        threads_each(args.classifier(), &args.box_args()),
        args.classifier()
    ));
    let token_file = run_folder.join("token");
    let token = cluster::make_token()?;
    token.save(&token_file)?;
    let job = Job {
        input,
        classifier: args.box_args(),
        workers: threads,
        environment: BTreeMap::new(),
        results: files.results.clone(),
        archive: archive.clone(),
        run_folder,
        token,
        token_file: token_file.clone(),
        max_rejects: args.rejects.max_rejects,
        lifetime: None,
    };
    let hosts = Hosts { metrics: &host, classifiers: vec![&host as &dyn Host; processes] };
    let hub = if args.run.no_hub { None } else { Hub::start(&job, &host, &output)? };
    let when_begun = || {
        begun.set(true);
        earlier.discard()
    };
    let outcome = cluster::run(&job, &hosts, hub.as_ref(), Some(&when_begun));
    // Only programs that are started again read it again; the hub does not need it to go on.
    let removed = std::fs::remove_file(&token_file);
    let summary = outcome.and_then(|times| {
        removed.with_context(|| format!("removing the job token {}", token_file.display()))?;
        let packed = archive.map(|archive| (archive, times.packing));
        summarize(args, &files, packed, start)
    });
    match hub.filter(|_| args.run.keep_hub && !interrupt::is_wanted()) {
        Some(hub) => {
            // Said now, and not when nobody looks any more.
            let coded = |error| if begun.get() { error } else { exit::refused(error) };
            let code = summary.unwrap_or_else(|error| ui::fail(&coded(error)));
            hub.stay(&host)?;
            Ok(code)
        }
        None => summary,
    }
}

/// Shows what a sender's check has found odd about its input.
pub(crate) fn tell_hints(said: &str) {
    said.lines()
        .filter_map(|line| line.strip_prefix("hint "))
        .for_each(|hint| ui::note(&format!("note: {hint}")));
}

/// What cannot work should not cost the results of the job before: a program sees whether it can. Gives the last lines of what
/// it says.
fn check(
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
        environment: BTreeMap::new(),
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
    let messages: Vec<_> = lines.iter().map(|line| process::log::message(line)).collect();
    let said = messages.join("\n");
    ensure!(end.is_success(), "{said}");
    Ok(said)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn describe(input: &Input) -> String {
    match input {
        Input::Fake { lines, .. } => format!("{} fake rows", ui::count(*lines)),
        Input::File { path, .. } | Input::Pipe { path, .. } => format!("rows from {}", path.display()),
        Input::Stdin { .. } => "rows from standard input".into(),
    }
}

/// Keeps two jobs from writing to the same folder.
fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join(".lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("the folder {} cannot be written", folder.display()))?;
    if file.try_lock().is_err() {
        let mut holder = String::new();
        // Without it, the message just knows less.
        let _ = file.read_to_string(&mut holder);
        return Err(exit::busy(anyhow!(
            "another job (process {}) writes to {}; wait for it, or choose other folders with --output and --log",
            holder.trim(),
            folder.display()
        )));
    }
    std::fs::write(&path, std::process::id().to_string())
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(file)
}

/// Whether both are there, and are the same.
fn same(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// An input that lies where the results go would be replaced by them.
fn spare(input: &Path, files: &ResultFiles) -> anyhow::Result<()> {
    ensure!(
        !files.all().iter().any(|file| same(file, input)),
        "the input {} would be replaced by the results; move it, or choose another folder with --output",
        input.display()
    );
    Ok(())
}

fn summarize(
    args: &Args,
    files: &ResultFiles,
    packed: Option<(PathBuf, Duration)>,
    start: Instant,
) -> anyhow::Result<ExitCode> {
    let path = &files.summary;
    let json =
        std::fs::read(path).with_context(|| format!("reading the job's summary {}", path.display()))?;
    let summary: Summary =
        serde_json::from_slice(&json).with_context(|| format!("understanding {}", path.display()))?;
    let box_args = args.box_args();
    ui::summary(&summary, start.elapsed(), threads(args.classifier(), &box_args));
    ui::data(&format!("results    {} ({})", files.results.display(), ui::bytes(summary.bytes)));
    ui::data(&format!("sha256     {}", summary.sha256));
    if let Some((archive, took)) = packed {
        let seconds = took.as_secs_f64();
        ui::data(&format!("packed     {seconds:.2} s after the last results, to {}", archive.display()));
    }
    if summary.rejects == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    ui::note(&format!(
        "{} rows are in {} with the reason",
        ui::count(summary.rejects),
        files.rejects.display()
    ));
    if args.run.strict {
        ui::note("error: there are rejects, and --strict takes none");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
