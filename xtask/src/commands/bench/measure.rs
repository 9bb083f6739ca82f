//! One run of one case.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use protocol::result_files::ResultFiles;
use protocol::results::Summary;
use serde_json::Value;

use super::cases::{Case, Files};
use super::memory::Memory;
use deploy::host::arg;
use deploy::project;

/// Time limit for one run.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Environment variables that would change the jobs; they are removed.
const VARIABLES: [&str; 6] =
    ["INPUT_LINES", "INPUT_SIZE", "N_WORKERS", "N_PROCESSES", "CLASSIFIER_SLOWNESS", "CHUNK_SIZE"];
/// Size of the file that [`touch_memory`] writes: more than the results of 5,000,000 rows.
const TOUCHED_MIB: usize = 1024;
/// How many of a failed run's last lines are shown.
const LAST_LINES: usize = 10;

/// The figures of one run.
#[derive(Debug, Clone, Default)]
pub(super) struct Measured {
    pub(super) rows: u64,
    /// Duration of the whole command.
    pub(super) seconds: f64,
    /// Number of rows, and seconds from their first results to their last.
    pub(super) steady: (u64, f64),
    /// Processor time of all its processes.
    pub(super) cpu_seconds: f64,
    /// The sum of its processes' peak memory in bytes, if it was sampled.
    pub(super) memory: Option<u64>,
    /// Time from the last results to the packed ones.
    pub(super) packing_seconds: Option<f64>,
    /// SHA-256 of a job's results.
    pub(super) sha256: Option<String>,
}

impl Measured {
    /// Rows a second over the whole command.
    pub(super) fn rate(&self) -> f64 {
        self.rows as f64 / self.seconds
    }

    /// Rows a second, not counting the start.
    pub(super) fn steady_rate(&self) -> f64 {
        self.steady.0 as f64 / self.steady.1.max(1e-6)
    }

    /// Processor time a row, in microseconds.
    pub(super) fn cpu_per_row(&self) -> f64 {
        1e6 * self.cpu_seconds / self.rows.max(1) as f64
    }
}

/// Runs a case once.
///
/// # Errors
/// If it fails, or exceeds its time limit.
pub(super) fn case(case: &Case, files: &Files) -> anyhow::Result<Measured> {
    let words = files.fill(case.command);
    if words[0] == "run-locally" {
        job(words, case.watches_memory, &files.output)
    } else {
        peer(&words, &files.output)
    }
}

fn job(words: Vec<String>, watches_memory: bool, output: &Path) -> anyhow::Result<Measured> {
    let mut command = vec!["xtask".to_owned()];
    command.extend(words);
    command.extend(["--output".to_owned(), arg(output), "--log".to_owned(), arg(&output.join("log"))]);
    let run = run(&project::cargo_quietly(&command), watches_memory, output)?;
    let files = ResultFiles::beside(&output.join("results.log"))?;
    let json =
        std::fs::read(&files.summary).with_context(|| format!("reading {}", files.summary.display()))?;
    let summary: Summary = serde_json::from_slice(&json).context("parsing the job's summary")?;
    Ok(Measured {
        rows: summary.rows,
        steady: (summary.rows, summary.seconds),
        packing_seconds: run.packing_seconds(),
        sha256: Some(summary.sha256),
        ..run.measured
    })
}

fn peer(words: &[String], output: &Path) -> anyhow::Result<Measured> {
    let run = run(&duct::cmd(&words[0], &words[1..]), false, output)?;
    let last = run.stdout.lines().last().unwrap_or_default();
    let figures: Value = serde_json::from_str(last).with_context(|| format!("parsing {last:?} as JSON"))?;
    let steady = figures["rows"].as_u64().zip(figures["seconds"].as_f64());
    let steady = steady.context("it should print rows and seconds")?;
    Ok(Measured { rows: steady.0, steady, ..run.measured })
}

struct Run {
    measured: Measured,
    stdout: String,
}

impl Run {
    /// The packing time that the job prints.
    fn packing_seconds(&self) -> Option<f64> {
        let line = self.stdout.lines().find_map(|line| line.strip_prefix("packed "))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

fn run(command: &duct::Expression, watches_memory: bool, output: &Path) -> anyhow::Result<Run> {
    // Each run begins with free memory, an empty folder, and nothing left to write to the disk.
    touch_memory(&output.join("memory"))?;
    std::fs::remove_dir_all(output).with_context(|| format!("removing {}", output.display()))?;
    project::make_folder(output)?;
    nix::unistd::sync();
    let (out, log) = (output.join("stdout.txt"), output.join("log.txt"));
    let before = processor_time()?;
    let start = Instant::now();
    let command = VARIABLES.iter().fold(command.clone(), |command, name| command.env_remove(name));
    let running = command.stdin_null().stdout_path(&out).stderr_path(&log).unchecked().start()?;
    let memory = watches_memory.then(|| Memory::watch(std::process::id())).transpose()?;
    let ended = running.wait_timeout(PATIENCE).context("waiting for it")?;
    let seconds = start.elapsed().as_secs_f64();
    let Some(ended) = ended else {
        running.kill().context("ending it")?;
        anyhow::bail!("it took longer than {PATIENCE:?}");
    };
    let cpu_seconds = processor_time()?.saturating_sub(before).as_secs_f64();
    let memory = memory.map(Memory::most);
    let last_lines = || files::last_lines(&log, LAST_LINES).unwrap_or_default().join("\n    ");
    ensure!(ended.status.success(), "it failed ({}):\n    {}", ended.status, last_lines());
    let stdout = std::fs::read_to_string(&out).with_context(|| format!("reading {}", out.display()))?;
    Ok(Run { measured: Measured { seconds, cpu_seconds, memory, ..Measured::default() }, stdout })
}

/// Writes a file that the caller removes, so that the operating system has enough free memory for the results of a case.
/// A virtual machine may return memory to its host after it was free for a second. To fetch it again, page by page, takes
/// ten times as long as to write the results; the time would then depend on the pause between two cases.
fn touch_memory(file: &Path) -> anyhow::Result<()> {
    let write = || {
        let mut file = std::fs::File::create(file)?;
        let block = vec![0; 1 << 20];
        (0..TOUCHED_MIB).try_for_each(|_| file.write_all(&block))
    };
    write().with_context(|| format!("writing {}", file.display()))
}

/// Processor time of all child processes that have ended and were waited for.
fn processor_time() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("asking for the processor time of children")?;
    let of =
        |time: TimeVal| Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or_default());
    Ok(of(usage.user_time()) + of(usage.system_time()))
}
