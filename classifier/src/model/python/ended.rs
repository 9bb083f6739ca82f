//! Why a Python process must be replaced.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

/// Why a process must be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// It took longer than this.
    TimedOut(Duration),
    /// It and its descendants used more than this many MiB of memory.
    OverMemory(u64),
    /// A signal or a debugger had stopped it.
    Stopped,
    /// It exited, or another process's signal ended it.
    Died(ExitStatus),
    /// It is running, but broke the protocol in this way.
    Broken(String),
    /// Its guard was killed.
    Unguarded,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut(limit) => write!(f, "the Python process took longer than {limit:?}"),
            Self::OverMemory(limit) => write!(
                f,
                "the Python process took more than {limit} MiB of memory, and was killed; raise --model-memory, or lower \
                 --chunk-size or the number of workers"
            ),
            Self::Stopped => f.write_str("the Python process was stopped, and was killed"),
            Self::Died(status) if status.signal() == Some(9) => {
                write!(f, "the Python process died ({status}, as the system does when memory runs out)")
            }
            Self::Died(status) => write!(f, "the Python process died ({status})"),
            Self::Broken(what) => write!(f, "the Python process broke the protocol ({what}), and was killed"),
            Self::Unguarded => {
                f.write_str("the guard of the Python process was killed, and so was the process")
            }
        }
    }
}

/// The task for which a process took too long.
#[derive(Debug, Clone, Copy)]
pub(super) enum Task {
    Start,
    /// To classify `rows` rows.
    Rows {
        rows: usize,
        /// They got less than the whole limit, since many rows of their batch took too long.
        is_short: bool,
    },
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Rows { rows, is_short } = self else {
            return f.write_str(" to load the model, and was killed; raise --load-timeout");
        };
        match rows {
            1 => f.write_str(" for this row alone, and was killed; ")?,
            _ => write!(f, " for {rows} rows, and was killed; ")?,
        }
        if *is_short {
            f.write_str("that was a part of --model-timeout, since many rows of the batch took too long; ")?;
        }
        f.write_str("raise --model-timeout, or lower --chunk-size")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_process_is_explained_with_its_task() {
        let of = |rows, is_short| {
            format!("{}{}", Ended::TimedOut(Duration::from_secs(3)), Task::Rows { rows, is_short })
        };
        assert_eq!(
            of(1, false),
            "the Python process took longer than 3s for this row alone, and was killed; raise --model-timeout, or lower \
             --chunk-size"
        );
        assert!(of(7, true).contains("3s for 7 rows, and was killed; that was a part of --model-timeout"));
    }
}
