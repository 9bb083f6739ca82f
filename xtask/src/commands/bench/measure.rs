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

/// How long one run may take.
const PATIENCE: Duration = Duration::from_secs(3600);
/// What would make other jobs of those that are measured.
const VARIABLES: [&str; 6] =
    ["INPUT_LINES", "INPUT_SIZE", "N_WORKERS", "N_PROCESSES", "CLASSIFIER_SLOWNESS", "CHUNK_SIZE"];
/// More than the results of 5,000,000 rows.
const TOUCHED_MIB: usize = 1024;
/// How many of the last lines of a run that failed are shown.
const LAST_LINES: usize = 10;

/// What a run has shown.
#[derive(Debug, Clone, Default)]
pub(super) struct Measured {
    /// How many rows there were.
    pub(super) rows: u64,
    /// How long the whole command took.
    pub(super) seconds: f64,
    /// How long its rows took, from the first results to the last, and how many they were.
    pub(super) steady: (u64, f64),
    /// Processor time of all its processes.
    pub(super) cpu_seconds: f64,
    /// The most memory that each of its processes had, all together, if that was watched.
    pub(super) memory: Option<u64>,
    /// From the last results to the packed ones.
    pub(super) packing_seconds: Option<f64>,
    /// Of a job's results.
    pub(super) sha256: Option<String>,
}

impl Measured {
    /// Rows a second, of the whole command.
    pub(super) fn rate(&self) -> f64 {
        self.rows as f64 / self.seconds
    }

    /// Rows a second, without the start.
    pub(super) fn steady_rate(&self) -> f64 {
        self.steady.0 as f64 / self.steady.1.max(1e-6)
    }

    /// Processor time for a row, in microseconds.
    pub(super) fn cpu_per_row(&self) -> f64 {
        1e6 * self.cpu_seconds / self.rows.max(1) as f64
    }
}

/// Runs a case once.
///
/// # Errors
/// When it fails, or takes too long.
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
    let summary: Summary = serde_json::from_slice(&json).context("understanding the job's summary")?;
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
    let last = run.said.lines().last().unwrap_or_default();
    let said: Value =
        serde_json::from_str(last).with_context(|| format!("{last:?} is not what it should print"))?;
    let steady =
        said["rows"].as_u64().zip(said["seconds"].as_f64()).context("it should print rows and seconds")?;
    Ok(Measured { rows: steady.0, steady, ..run.measured })
}

struct Run {
    measured: Measured,
    said: String,
}

impl Run {
    /// As the job says it.
    fn packing_seconds(&self) -> Option<f64> {
        let line = self.said.lines().find_map(|line| line.strip_prefix("packed "))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

fn run(command: &duct::Expression, watches_memory: bool, output: &Path) -> anyhow::Result<Run> {
    // Each finds memory, an empty folder, and a disk that has nothing left to do for the one before.
    touch_memory(&output.join("memory"))?;
    std::fs::remove_dir_all(output).with_context(|| format!("removing {}", output.display()))?;
    project::make_folder(output)?;
    nix::unistd::sync();
    let (out, log) = (output.join("said.txt"), output.join("log.txt"));
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
    let said = std::fs::read_to_string(&out).with_context(|| format!("reading {}", out.display()))?;
    Ok(Run { measured: Measured { seconds, cpu_seconds, memory, ..Measured::default() }, said })
}

/// Writes a file that is removed then, so that the operating system has memory at hand for as many results as a case writes.
/// A virtual machine may give memory that is free for a second back to its host, and fetches it again page by page, which
/// takes ten times as long as to write the results there: then the time between two cases would be what is measured.
fn touch_memory(file: &Path) -> anyhow::Result<()> {
    let write = || {
        let mut file = std::fs::File::create(file)?;
        let block = vec![0; 1 << 20];
        (0..TOUCHED_MIB).try_for_each(|_| file.write_all(&block))
    };
    write().with_context(|| format!("writing {}", file.display()))
}

/// Of all processes that have ended, and whose end was waited for.
fn processor_time() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("asking for the processor time of children")?;
    let of =
        |time: TimeVal| Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or_default());
    Ok(of(usage.user_time()) + of(usage.system_time()))
}
