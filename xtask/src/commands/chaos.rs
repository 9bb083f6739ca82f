//! Subcommand: cargo xtask chaos

mod fault;
mod job;
pub(super) mod processes;
mod progress_monitor;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use chacha20::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use deploy::{console, interrupt, project};
use fault::Fault;
use job::Job;
use progress_monitor::ProgressMonitor;

/// Batches that were in flight at a fault still arrive. Only an advance after this time counts as recovery.
const SETTLE_TIME: Duration = Duration::from_millis(700);
/// Output counts as flowing after this many advances.
const FLOW: usize = 3;
/// How many lines of the job's output are shown when it fails.
const LAST_LINES: usize = 40;
/// Time limits until output flows for the first time, and for how long it may stand still after that.
const START_TIME: Duration = Duration::from_secs(600);
const STANDSTILL: Duration = Duration::from_secs(120);

/// Kill, stop and cut off parts of a job, and compare its results
///
/// Prints for how long no results were written after each fault. Fails if the results differ from an undisturbed job's.
///
/// As root, runs the job on the hosts of a lab on this machine; otherwise as processes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of faults, one after the other
    #[arg(long, value_name = "N", default_value_t = 50)]
    kills: u32,
    /// Seed for the choice of faults
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Number of rows to generate
    #[arg(long, value_name = "N", env = "INPUT_LINES", hide_env_values = true, default_value_t = 5_000_000)]
    input_lines: u64,
    /// The model [default: the pandas example, or native]
    ///
    /// The pandas example needs the Python environment that cargo xtask test makes.
    #[arg(long = "model", alias = "classifier", value_name = "MODEL")]
    classifier: Option<String>,
    /// How many times the model hashes each row
    ///
    /// A higher value makes the job longer, so that there is time for more faults.
    #[arg(long, value_name = "TIMES", default_value_t = 400)]
    slowness: u32,
    /// Machines (or processes) that classify
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    machines: u8,
    /// Worker threads on each machine
    #[arg(long, value_name = "W", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=100))]
    workers: u8,
    /// Seconds between faults [default: until results are written again]
    #[arg(long, value_name = "SECONDS")]
    every: Option<u64>,
    /// Run the job as processes, even as root
    #[arg(long)]
    no_lab: bool,
    /// Folder for the two jobs [default: target/chaos in the project]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// A fault and its effect.
struct Outcome {
    /// The kind of fault, and the role that it hit.
    what: String,
    /// The longest time without an advance of the output since the fault.
    stood_still: Duration,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = args.output.as_deref().map(std::path::absolute).transpose()?;
    project::enter_root()?;
    project::build_programs()?;
    interrupt::watch("interrupted twice: cargo xtask lab down removes hosts that are left")?;
    let folder = folder.unwrap_or_else(|| PathBuf::from("target/chaos"));
    for left in ["undisturbed", "disturbed"].map(|name| folder.join(name)) {
        if left.exists() {
            std::fs::remove_dir_all(&left).with_context(|| format!("removing {}", left.display()))?;
        }
    }
    project::make_folder(&folder)?;
    console::note("an undisturbed job, to compare with");
    let expected = job::undisturbed(&folder, args)?;
    let job = Job::start(&folder, args)?;
    job.await_folder()?;
    let monitor = ProgressMonitor::start(job.checkpoint())?;
    let disturbed = disturb(args, &job, &monitor);
    let finished = disturbed.and_then(|outcomes| job.finish().map(|()| outcomes));
    let outcomes = finished.with_context(|| {
        let last = files::last_lines(job.log(), LAST_LINES).unwrap_or_default().join("\n    ");
        format!("the job's last lines (all of them: {}):\n    {last}", job.log().display())
    })?;
    report(&outcomes);
    let processes = monitor.processes();
    processes.iter().for_each(|line| console::data(line));
    compare(&expected, &job.results())?;
    let rejects = job.results().with_extension("rejects.csv");
    let length = std::fs::metadata(&rejects).with_context(|| format!("reading {}", rejects.display()))?.len();
    ensure!(
        length == protocol::result_files::REJECTS_HEADER.len() as u64,
        "{} has rejects",
        rejects.display()
    );
    console::data("results    the same bytes, and no rejects");
    ensure!(
        outcomes.len() == args.kills as usize,
        "the job was done after {} faults; for {}, give it more rows with --input-lines",
        outcomes.len(),
        args.kills
    );
    Ok(ExitCode::SUCCESS)
}

/// Injects faults until `--kills` is reached or the job is done.
fn disturb(args: &Args, job: &Job, monitor: &ProgressMonitor) -> anyhow::Result<Vec<Outcome>> {
    let mut random = ChaCha8Rng::seed_from_u64(args.seed);
    let mut outcomes = Vec::new();
    let mut last = Instant::now();
    if !await_flow(job, monitor, START_TIME)? {
        return Ok(outcomes);
    }
    while outcomes.len() < args.kills as usize {
        let pause = match args.every {
            Some(seconds) => Duration::from_secs(seconds).saturating_sub(last.elapsed()),
            None => Duration::from_millis(random.random_range(50..300)),
        };
        if !job.runs_for(pause, || monitor.sample(&job.processes()))? {
            break;
        }
        last = Instant::now();
        let Some(fault) = Fault::choose(&mut random, &job.processes(), &job.cables()) else { continue };
        console::note(&format!("{:>3}  {fault}", outcomes.len() + 1));
        let start = Instant::now();
        fault.inject(job)?;
        if !job.runs_for(SETTLE_TIME, || {})? || !await_flow(job, monitor, STANDSTILL)? {
            break;
        }
        let stood_still = monitor.longest_gap(start);
        console::note(&format!("     stood still for {:.2} s", stood_still.as_secs_f64()));
        outcomes.push(Outcome { what: format!("{} {}", fault.kind, fault.target.role), stood_still });
    }
    Ok(outcomes)
}

/// Waits until output flows; `false` if the job has ended.
fn await_flow(job: &Job, monitor: &ProgressMonitor, limit: Duration) -> anyhow::Result<bool> {
    let since = Instant::now();
    while monitor.advances(since) < FLOW {
        if !job.runs_for(Duration::from_millis(5), || {})? {
            return Ok(false);
        }
        ensure!(since.elapsed() < limit, "output has stood still for {limit:?}");
    }
    Ok(true)
}

fn report(outcomes: &[Outcome]) {
    let line = |what: &str, times: Vec<Duration>| {
        let mut times = times;
        times.sort_unstable();
        if let Some(worst) = times.last() {
            console::data(&format!(
                "{what:<22} {:>3} {}; output stood still for {:.2} s (median), {:.2} s (worst)",
                times.len(),
                if times.len() == 1 { "time " } else { "times" },
                times[times.len() / 2].as_secs_f64(),
                worst.as_secs_f64()
            ));
        }
    };
    let what: BTreeSet<_> = outcomes.iter().map(|outcome| outcome.what.as_str()).collect();
    for what in what {
        let these = outcomes.iter().filter(|outcome| outcome.what == what);
        line(what, these.map(|outcome| outcome.stood_still).collect());
    }
    line("all", outcomes.iter().map(|outcome| outcome.stood_still).collect());
}

fn compare(expected: &Path, found: &Path) -> anyhow::Result<()> {
    let open = |path: &Path| std::fs::File::open(path).with_context(|| format!("opening {}", path.display()));
    let hash = |path: &Path| -> anyhow::Result<String> {
        let (hash, _) = protocol::hash::of_all(&mut open(path)?)
            .with_context(|| format!("reading {}", path.display()))?;
        Ok(protocol::hash::finish(hash))
    };
    let (expected_hash, found_hash) = (hash(expected)?, hash(found)?);
    if expected_hash != found_hash {
        bail!("{} ({found_hash}) differs from {} ({expected_hash})", found.display(), expected.display());
    }
    console::data(&format!("sha256     {found_hash}"));
    Ok(())
}
