//! Keeps what the Python processes of a worker print, each line with the rows that were being classified. The last lines are
//! quoted in errors.
//!
//! The lines go to a file of the worker's; of those that are alike, the classifier's log has the first one, and at the end their
//! number. Without such a file, all of them go to the classifier's log, up to a limit.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{ErrorKind, Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

use crate::metrics::ModelMetrics;

/// How many bytes a worker's file may have before it is renamed, and how many the classifier's log gets in all.
const MOST: u64 = 8 << 20;
/// Longer lines are split.
const LONGEST_LINE: usize = 16 << 10;
/// How many of the last lines an error quotes.
const LAST_LINES: usize = 5;
/// How long to wait for the last lines of a process that has ended. Another process may keep the pipe open.
const PATIENCE: Duration = Duration::from_millis(500);
/// As much as a pipe holds.
const PIPE: usize = 64 << 10;

/// What a worker's processes are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Loading,
    /// Classifying rows of an earlier classifier, which has started the process.
    EarlierRows,
    /// The model is being measured.
    Measuring,
    /// Classifying rows with numbers from the first to the last.
    Rows(u64, u64),
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loading => f.write_str("loading"),
            Self::EarlierRows => f.write_str("earlier rows"),
            Self::Measuring => f.write_str("measuring"),
            Self::Rows(first, last) if first == last => write!(f, "row {first}"),
            Self::Rows(first, last) => write!(f, "rows {first}-{last}"),
        }
    }
}

/// The output of one worker's processes. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Printed(Arc<Mutex<Output>>);

#[derive(Debug)]
struct Output {
    doing: Doing,
    file: Option<Rotated>,
    /// Written to the classifier's log.
    logged: u64,
    metrics: ModelMetrics,
}

impl Printed {
    /// Output that goes to `file`, or to the classifier's log; lines are also counted in `metrics`.
    pub(super) fn new(file: Option<PathBuf>, metrics: ModelMetrics) -> Self {
        let file = file.map(Rotated::new);
        Self(Arc::new(Mutex::new(Output { doing: Doing::Loading, file, logged: 0, metrics })))
    }

    /// Lines that are read from now on belong to this.
    pub(super) fn begin(&self, doing: Doing) {
        self.0.lock().doing = doing;
    }

    /// Logs how often lines were printed of which the classifier's log has only the first.
    pub(super) fn finish(&self) {
        let Output { file, logged, metrics, .. } = &*self.0.lock();
        if *logged > MOST {
            tracing::warn!("python: {} bytes of what it printed were dropped", logged - MOST);
        }
        if let Some(file) = file {
            for alike in metrics.counts().printed.iter().filter(|alike| alike.lines > 1) {
                let (lines, path) = (alike.lines, file.path.display());
                tracing::info!("python: {lines} lines like {:?} in {path}", alike.first);
            }
        }
    }
}

impl Output {
    fn line(&mut self, text: &str, pending: &mut String) {
        let mut is_new = false;
        self.metrics.count(|counts| is_new = counts.printed(text));
        if self.file.is_some() {
            // Writing to a string does not fail.
            let _ = writeln!(pending, "{} {} | {text}", process::log::now(), self.doing);
        }
        if self.file.is_none() || is_new || self.doing == Doing::Loading {
            self.log(text);
        }
    }

    fn log(&mut self, text: &str) {
        let before = self.logged;
        self.logged += text.len() as u64 + 1;
        if self.logged <= MOST {
            tracing::info!("python: {text}");
        } else if before <= MOST {
            let mib = MOST >> 20;
            tracing::warn!(
                "python: it has printed {mib} MiB; further output of this worker's processes is dropped"
            );
        }
    }
}

/// A file that is renamed when it has [`MOST`] bytes, so that it and its predecessor have the latest lines.
#[derive(Debug)]
struct Rotated {
    path: PathBuf,
    /// The open file, and its length.
    file: Option<(File, u64)>,
    /// An error has been logged, and nothing is written any more.
    has_failed: bool,
}

impl Rotated {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None, has_failed: false }
    }

    /// Appends whole lines. If that fails, the job continues without the model's output.
    fn write(&mut self, lines: &str) {
        if self.has_failed || lines.is_empty() {
            return;
        }
        if let Err(error) = self.try_write(lines) {
            self.has_failed = true;
            tracing::warn!("what the model prints is no longer kept: {error:#}");
        }
    }

    fn try_write(&mut self, lines: &str) -> anyhow::Result<()> {
        let Self { path, file, .. } = self;
        let context = || format!("writing {}", path.display());
        if file.as_ref().is_some_and(|(_, length)| *length + lines.len() as u64 > MOST) {
            *file = None;
            std::fs::rename(&path, previous(path)).with_context(|| format!("renaming {}", path.display()))?;
        }
        let (file, length) = match file {
            Some(file) => file,
            None => {
                let opened = File::options().create(true).append(true).open(&path).with_context(context)?;
                let length = opened.metadata().with_context(context)?.len();
                file.insert((opened, length))
            }
        };
        file.write_all(lines.as_bytes()).with_context(context)?;
        *length += lines.len() as u64;
        Ok(())
    }
}

/// The name of a file that was renamed.
fn previous(path: &Path) -> PathBuf {
    path.with_added_extension("1")
}

/// The log of one process.
pub(super) struct Log {
    pipe: Arc<Mutex<Pipe>>,
    /// Disconnects when the process's standard output and standard error are closed.
    end: mpsc::Receiver<()>,
}

impl Log {
    /// Reads from `pipe` on a separate thread.
    pub(super) fn start(pipe: OwnedFd, printed: Printed) -> anyhow::Result<Self> {
        let awaited = pipe.try_clone().context("keeping a Python process's output")?;
        let (begin, last) = (Vec::new(), VecDeque::new());
        let pipe = Arc::new(Mutex::new(Pipe { pipe: pipe.into(), begin, last, printed }));
        let (reading, end) = mpsc::channel();
        let shared = Arc::clone(&pipe);
        let read = move || {
            // Everything must be read, or the process would block.
            while is_readable(awaited.as_fd(), PollTimeout::NONE) && shared.lock().catch_up() {}
            drop::<mpsc::Sender<()>>(reading);
        };
        std::thread::Builder::new().name("python log".into()).spawn(read).context("starting a thread")?;
        Ok(Self { pipe, end })
    }

    /// Calls this with the reading end.
    pub(super) fn with_pipe<T>(&self, call: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        call(self.pipe.lock().pipe.as_fd())
    }

    /// Reads what the process has printed so far.
    pub(super) fn catch_up(&self) {
        self.pipe.lock().catch_up();
    }

    /// The last lines of a process that has ended, as text to append to an error.
    pub(super) fn last_lines(&self) -> String {
        let _ = self.end.recv_timeout(PATIENCE);
        let last = &self.pipe.lock().last;
        let lines = last.iter().map(String::as_str).collect::<Vec<_>>().join(" | ");
        if lines.is_empty() { lines } else { format!("; it last wrote: {lines}") }
    }
}

/// Whether there is something to read, or the end. Waits for as long as this.
fn is_readable(pipe: BorrowedFd<'_>, timeout: PollTimeout) -> bool {
    loop {
        match poll(&mut [PollFd::new(pipe, PollFlags::POLLIN)], timeout) {
            Ok(ready) => return ready > 0,
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                tracing::warn!("python: waiting for its output: {error}");
                return false;
            }
        }
    }
}

/// The reading end of a process's output.
struct Pipe {
    pipe: File,
    /// The beginning of the next line.
    begin: Vec<u8>,
    last: VecDeque<String>,
    printed: Printed,
}

impl Pipe {
    /// Reads what is there, which may be nothing. Returns false at the end.
    fn catch_up(&mut self) -> bool {
        // Another thread may have been faster, and a read would block while this is locked.
        !is_readable(self.pipe.as_fd(), PollTimeout::ZERO) || self.read()
    }

    /// Reads once. Returns false at the end.
    fn read(&mut self) -> bool {
        let mut buffer = vec![0; PIPE];
        let read = match self.pipe.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => return true,
            Err(error) => {
                tracing::warn!("python: reading its output: {error}");
                0
            }
        };
        self.begin.extend_from_slice(&buffer[..read]);
        let printed = self.printed.clone();
        let mut output = printed.0.lock();
        let mut pending = String::new();
        let mut rest = &self.begin[..];
        while let Some(length) = next_line(rest, read == 0) {
            let (line, after) = rest.split_at(length);
            rest = after;
            let text = String::from_utf8_lossy(line).trim_end().to_owned();
            output.line(&text, &mut pending);
            if self.last.len() == LAST_LINES {
                self.last.pop_front();
            }
            self.last.push_back(text);
        }
        self.begin = rest.to_vec();
        if let Some(file) = &mut output.file {
            file.write(&pending);
        }
        read > 0
    }
}

/// The length of the first line, or of a part of it if it is too long; `None` if more of it may come.
fn next_line(bytes: &[u8], is_end: bool) -> Option<usize> {
    let end = bytes.iter().take(LONGEST_LINE).position(|&byte| byte == b'\n');
    match end {
        Some(end) => Some(end + 1),
        None if bytes.len() >= LONGEST_LINE => Some(LONGEST_LINE),
        None if is_end && !bytes.is_empty() => Some(bytes.len()),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prints this while the rows from 5 to 9 are classified; returns the log.
    fn print(text: &str, printed: &Printed) -> Log {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let log = Log::start(reader.into(), printed.clone()).unwrap();
        printed.begin(Doing::Rows(5, 9));
        writer.write_all(text.as_bytes()).unwrap();
        log.catch_up();
        printed.begin(Doing::Measuring);
        log
    }

    #[test]
    fn lines_are_kept_with_their_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model0.log");
        let metrics = ModelMetrics::default();
        let printed = Printed::new(Some(path.clone()), metrics.clone());
        print("one 1\none 2\n", &printed);
        print("last", &printed).last_lines();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_once("Z ").unwrap().1).collect();
        // A line without an end is complete when the process has ended.
        assert_eq!(lines, ["rows 5-9 | one 1", "rows 5-9 | one 2", "measuring | last"]);
        let counts = metrics.counts();
        let kinds: Vec<_> =
            counts.printed.iter().map(|alike| (&*alike.kind, alike.lines, &*alike.first)).collect();
        assert_eq!(kinds, [("one …", 2, "one 1"), ("last", 1, "last")]);
        assert_eq!(counts.printed_lines, 3);
    }

    #[test]
    fn a_file_is_renamed_before_it_is_too_long() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model0.log");
        let mut file = Rotated::new(path.clone());
        let line = format!("{}\n", "x".repeat(MOST as usize / 2));
        (0..3).for_each(|i| file.write(&format!("{i}{line}")));
        let first = |path: &Path| std::fs::read(path).unwrap()[0];
        assert_eq!((first(&previous(&path)), first(&path)), (b'1', b'2'));
        assert!(!file.has_failed);
        let mut nowhere = Rotated::new(folder.path().join("nowhere/model0.log"));
        nowhere.write(&line);
        assert!(nowhere.has_failed);
    }

    #[test]
    fn the_last_lines_are_kept_even_if_they_are_dropped_from_the_log() {
        let printed = Printed::new(None, ModelMetrics::default());
        printed.0.lock().logged = MOST;
        let lines: String = (0..20).map(|i| format!("line {i}\n")).collect();
        let log = print(&lines, &printed);
        let expected = "; it last wrote: line 15 | line 16 | line 17 | line 18 | line 19";
        assert_eq!(log.last_lines(), expected);
        assert!(printed.0.lock().logged > MOST);
    }

    #[test]
    fn long_lines_are_split() {
        let long = vec![b'x'; LONGEST_LINE + 1];
        assert_eq!(next_line(&long, false), Some(LONGEST_LINE));
        assert_eq!(
            (next_line(b"ab", false), next_line(b"ab", true), next_line(b"", true)),
            (None, Some(2), None)
        );
        assert_eq!(next_line(b"a\nb", false), Some(2));
    }
}
