//! Prints to users: messages on standard error, data on standard output.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use protocol::results::{Progress, Summary};
use records::format::shown;

/// Prints a message.
pub fn note(text: &str) {
    // If standard error is closed, there is nowhere to report that.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Why data could not be written; the first error.
static LOST: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Prints a line of data. If that fails, the command continues, since its results matter more; at its end it fails with
/// [`lost_data`].
pub fn data(text: &str) {
    note_loss(writeln!(std::io::stdout(), "{text}"));
}

fn note_loss(written: std::io::Result<()>) {
    if let Err(error) = written {
        LOST.lock().get_or_insert(error);
    }
}

/// The error of writing data to standard output, if there was one: the disk is full, or the reading program has ended.
pub fn lost_data() -> Option<anyhow::Error> {
    note_loss(std::io::stdout().flush());
    let error = LOST.lock().take()?;
    Some(
        anyhow::Error::new(error)
            .context("writing to standard output; the output of this command is incomplete"),
    )
}

/// Shows a command that is about to run.
pub fn echo(command: &str) {
    note(&format!("$ {command}"));
}

/// A count with separators: 1,000,000.
pub fn count(n: u64) -> String {
    HumanCount(n).to_string()
}

/// A number of rows, with the noun.
pub fn rows(n: u64) -> String {
    format!("{} {}", count(n), if n == 1 { "row" } else { "rows" })
}

/// A size in binary units: 1.50 MiB.
pub fn bytes(n: u64) -> String {
    HumanBytes(n).to_string()
}

/// Names one file, or the number of files with the first and the last.
pub fn files(paths: &[PathBuf]) -> String {
    match paths {
        [path] => shown(path),
        [first, .., last] => {
            format!("{} files, {} to {}", count(paths.len() as u64), shown(first), shown(last))
        }
        [] => "no file".to_owned(),
    }
}

/// How many kinds of reasons for rejects the summary lists at most.
const MAX_REASONS: usize = 5;

/// Prints a job's results and times. `whole` is the duration of the command; `threads` are those for the libraries of each
/// worker.
pub fn summary(summary: &Summary, whole: Duration, threads: Option<&str>) {
    data(&format!("rows in    {}", count(summary.rows)));
    data(&format!("rows out   {}", count(summary.rows - summary.rejects)));
    data(&format!("rejected   {}", count(summary.rejects)));
    let reasons = summary.reject_reasons.by_rows();
    for reason in reasons.iter().take(MAX_REASONS) {
        let first = reason.first_row;
        // One row's reason stands for itself.
        let (kind, example) = match reason.rows == 1 || reason.example == reason.kind {
            true => (&reason.example, String::new()),
            false => (&reason.kind, format!(": {}", reason.example)),
        };
        data(&format!("           {}: {kind} (row {first}{example})", rows(reason.rows)));
    }
    if reasons.len() > MAX_REASONS {
        let more = reasons.len() - MAX_REASONS;
        data(&format!("           and {more} more {} of reasons", if more == 1 { "kind" } else { "kinds" }));
    }
    data(&format!(
        "seconds    {:.2} from the first results to the last ({:.2} for the whole command)",
        summary.seconds,
        whole.as_secs_f64()
    ));
    data(&format!("rows/s     {}", count((summary.rows as f64 / summary.seconds.max(1e-3)) as u64)));
    if let Some(threads) = threads {
        data(&format!("threads    {threads} for the libraries of each worker (--threads-per-worker)"));
    }
    // Only of a model with typed columns, whose last bits may depend on it.
    if let Some(terms) = &summary.terms {
        data(&format!("batches    of {} rows (--chunk-size)", count(terms.chunk_size.into())));
    }
}

/// Says where the rejects are, if there are any.
pub fn rejects(summary: &Summary, path: &Path) {
    if summary.rejects > 0 {
        let are = if summary.rejects == 1 { "is" } else { "are" };
        note(&format!("{} {are} in {} with the reason", rows(summary.rejects), path.display()));
    }
}

/// The pause between two lines of progress without a terminal.
const LINE_PAUSE: Duration = Duration::from_secs(5);

/// A job's progress, as users see it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct JobStatus {
    /// Durable rows, rejects included.
    pub rows: u64,
    pub rejects: u64,
    /// Rows of the whole job; an estimate if only the input's size is known.
    pub total: Option<u64>,
    /// Rows a second.
    pub rate: Option<f64>,
    /// The estimated remaining time in seconds: the shortest and the longest.
    pub left: Option<(f64, f64)>,
}

impl JobStatus {
    /// From the receiver's progress; `elapsed` is the time since its first rows.
    pub fn of(progress: &Progress, total: Option<u64>, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64();
        let rate = (seconds >= 0.5).then(|| progress.rows as f64 / seconds);
        let left = rate.zip(total).map(|(rate, total)| total.saturating_sub(progress.rows) as f64 / rate);
        let left = left.map(|left| (left, left));
        Self { rows: progress.rows, rejects: progress.rejects, total, rate, left }
    }
}

/// Shows a job's progress: as a bar on a terminal, else as a line every five seconds.
pub struct JobBar {
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl JobBar {
    /// `total` is the job's number of rows, if that is known from the start.
    pub fn new(total: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(style("{spinner} {human_pos} rows, {wide_msg}"));
            bar.set_message("waiting for the first");
            bar
        });
        let job = Self { bar, last_line: Instant::now() };
        job.set_total(total);
        job
    }

    /// A file's number of rows is estimated when part of it is read.
    fn set_total(&self, total: Option<u64>) {
        let (Some(bar), Some(total)) = (&self.bar, total) else { return };
        if bar.length().is_none() {
            bar.set_style(style("{percent:>3}% {bar:16} {human_pos} rows, {wide_msg}"));
        }
        bar.set_length(total);
    }

    pub fn show(&mut self, status: &JobStatus) {
        if status.rows == 0 {
            return;
        }
        self.set_total(status.total);
        let message = message(status);
        match &self.bar {
            Some(bar) => {
                bar.set_position(status.rows);
                bar.set_message(message);
            }
            None if self.last_line.elapsed() >= LINE_PAUSE => {
                self.last_line = Instant::now();
                let share = status.total.filter(|total| *total > 0);
                let share = share.map(|total| format!(" ({} %)", 100 * status.rows.min(total) / total));
                note(&format!("{} rows{}, {message}", count(status.rows), share.unwrap_or_default()));
            }
            None => {}
        }
    }

    /// Removes the bar.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Falls back to the default bar; the templates are constant and valid.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar())
}

fn message(status: &JobStatus) -> String {
    // A rate below one row a second means nothing yet.
    let Some(rate) = status.rate.filter(|rate| *rate >= 1.0) else { return "at work".to_owned() };
    let mut message = format!("{} rows/s", count(rate as u64));
    if let Some((least, most)) = status.left {
        let (least, most) = (clock(least), clock(most));
        match least == most {
            true => message.push_str(&format!(", {least} left")),
            false => message.push_str(&format!(", {least} to {most} left")),
        }
    }
    if status.rejects > 0 {
        message.push_str(&format!(", {} rejected", count(status.rejects)));
    }
    message
}

/// Shows the progress of copying files between machines.
pub struct Transfer(ProgressBar);

impl Transfer {
    /// `total` is in bytes.
    pub fn new(what: &'static str, total: u64) -> Self {
        let bar = if std::io::stderr().is_terminal() && total > 0 {
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10))
        } else {
            ProgressBar::hidden()
        };
        let template = "{percent:>3}% {bar:16} {bytes} at {bytes_per_sec}, {msg}";
        bar.set_style(style(template));
        bar.set_message(what);
        Self(bar)
    }

    /// Counts bytes that have arrived.
    pub fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Removes the bar.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// Shows how many of some steps are done.
pub struct Steps(ProgressBar);

impl Steps {
    /// Without a terminal, this only prints that the steps have begun.
    pub fn new(what: &'static str, total: usize) -> Self {
        if total == 0 {
            return Self(ProgressBar::hidden());
        }
        if !std::io::stderr().is_terminal() {
            note(what);
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr_with_hz(10));
        let template = "{spinner} {bar:16} {pos} of {len}, {msg} ({elapsed})";
        bar.set_style(style(template));
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// Counts one more step as done.
    pub fn add(&self) {
        self.0.inc(1);
    }

    /// Sets how many steps are done.
    pub fn set(&self, done: usize) {
        self.0.set_position(done as u64);
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Prints a line of data after a mark in an ANSI colour, if standard output shows colours.
pub fn marked(mark: char, colour: u8, text: &str) {
    note_loss(writeln!(anstream::stdout(), "\x1b[{colour}m{mark}\x1b[0m {text}"));
}

/// A duration in seconds, rounded up: 1 min 05 s.
pub fn clock(seconds: f64) -> String {
    let seconds = seconds.ceil() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_has_rate_remaining_time_and_rejects() {
        let progress = Progress { rows: 1_500_000, rejects: 2, bytes: 0, ended: false };
        let of = |seconds| JobStatus::of(&progress, Some(120_000_000), Duration::from_secs_f64(seconds));
        assert_eq!(message(&of(3.0)), "500,000 rows/s, 3 min 57 s left, 2 rejected");
        assert_eq!(message(&of(0.1)), "at work");
        let range = JobStatus { left: Some((61.0, 130.0)), rejects: 0, ..of(3.0) };
        assert_eq!(message(&range), "500,000 rows/s, 1 min 01 s to 2 min 10 s left");
        assert_eq!(clock(0.2), "1 s");
        assert_eq!(clock(3661.0), "1 h 01 min");
    }
}
