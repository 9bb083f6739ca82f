//! Logs the output of a Python process to the classifier's log, up to a limit, and keeps the last lines for errors.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;

use crate::metrics::ModelMetrics;

/// How many bytes a worker's processes may print to the log, so that it does not fill a disk.
const MOST: u64 = 16 << 20;
/// Longer lines are split.
const LONGEST_LINE: u64 = 16 << 10;
/// How many of the last lines an error quotes.
const LAST_LINES: usize = 5;
/// How long to wait for the last lines of a process that has ended. Another process may keep the pipe open.
const PATIENCE: Duration = Duration::from_millis(500);

/// Counts the output of one worker's processes.
#[derive(Debug, Clone, Default)]
pub(super) struct Printed {
    bytes: Arc<AtomicU64>,
    metrics: ModelMetrics,
}

impl Printed {
    /// Also counts lines in `metrics`.
    pub(super) fn new(metrics: ModelMetrics) -> Self {
        Self { metrics, ..Self::default() }
    }

    /// Counts a line of `line` bytes. Returns whether it still goes to the log.
    fn passes(&self, line: usize) -> bool {
        let before = self.bytes.fetch_add(line as u64, Ordering::Relaxed);
        let after = before + line as u64;
        if before <= MOST && after > MOST {
            tracing::warn!(
                "python: it has printed {} MiB; further output of this worker's processes is dropped",
                MOST >> 20
            );
        }
        after <= MOST
    }

    /// The number of bytes that were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed).saturating_sub(MOST)
    }
}

/// The log of one process.
pub(super) struct Log {
    last: Arc<Mutex<VecDeque<String>>>,
    /// Disconnects when the process's standard output and standard error are closed.
    end: mpsc::Receiver<()>,
}

impl Log {
    /// Logs the lines of `printed` on a separate thread.
    pub(super) fn start(printed: impl Read + Send + 'static, count: Printed) -> anyhow::Result<Self> {
        let last = Arc::default();
        let (logging, end) = mpsc::channel();
        let lines = Arc::clone(&last);
        let pass_on = move || {
            pass_on(printed, &count, &lines);
            drop::<mpsc::Sender<()>>(logging);
        };
        std::thread::Builder::new().name("python log".into()).spawn(pass_on).context("starting a thread")?;
        Ok(Self { last, end })
    }

    /// The last lines of a process that has ended, as text to append to an error.
    pub(super) fn last_lines(&self) -> String {
        let _ = self.end.recv_timeout(PATIENCE);
        let lines = self.last.lock();
        let lines = lines.iter().map(String::as_str).collect::<Vec<_>>().join(" | ");
        if lines.is_empty() { lines } else { format!("; it last wrote: {lines}") }
    }
}

fn pass_on(printed: impl Read, count: &Printed, last: &Mutex<VecDeque<String>>) {
    let mut printed = BufReader::new(printed);
    let mut line = Vec::new();
    loop {
        line.clear();
        // Everything must be read, or the process would block.
        match printed.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return tracing::warn!("python: reading its output: {error}");
            }
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        count.metrics.count(|counts| counts.printed(&text));
        if count.passes(line.len()) {
            tracing::info!("python: {text}");
        }
        let mut last = last.lock();
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_pass_up_to_the_limit_and_dropped_bytes_are_counted() {
        let printed = Printed::default();
        assert!(printed.passes(MOST as usize - 1) && printed.passes(1));
        assert_eq!(printed.dropped(), 0);
        assert!(!printed.passes(1) && !printed.passes(100));
        assert_eq!(printed.dropped(), 101);
    }

    #[test]
    fn the_last_lines_are_kept_even_if_they_are_dropped_from_the_log() {
        let printed = Printed::default();
        printed.passes(MOST as usize);
        let lines: String = (0..20).map(|i| format!("line {i}\n")).collect();
        let log = Log::start(std::io::Cursor::new(lines.into_bytes()), printed).unwrap();
        let expected = "; it last wrote: line 15 | line 16 | line 17 | line 18 | line 19";
        assert_eq!(log.last_lines(), expected);
    }
}
