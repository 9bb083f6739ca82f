//! How a program ends: its exit code, and an [`End`] as its supervisor sees it.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::process::ExitStatus;

use nix::sys::signal::Signal;
use protocol::Temporary;
use serde::{Deserialize, Serialize};

use crate::log::OUTCOME;

/// Logs why a program failed, and returns its exit code: [`TEMPORARY`] if [`Temporary`] is among the causes.
pub fn failure(error: &anyhow::Error) -> std::process::ExitCode {
    tracing::error!(target: OUTCOME, "{error:#}");
    if error.is::<Temporary>() { TEMPORARY.into() } else { std::process::ExitCode::FAILURE }
}

/// The exit code for a temporary failure, such as another program's death: a restart may succeed (`EX_TEMPFAIL` of sysexits.h).
pub const TEMPORARY: u8 = 75;

/// The exit code of a program that was told to stop before its work was done (128 + SIGTERM, as in shells).
pub const STOPPED: u8 = 143;

/// The exit code of a Rust program whose main thread panicked.
pub const PANICKED: u8 = 101;

/// Makes a panic on any thread log itself and end this process at once, so that a peer never waits for a half-dead one.
pub fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        let backtrace = match backtrace.status() {
            BacktraceStatus::Captured => format!("\n{backtrace}"),
            _ => String::new(),
        };
        tracing::error!(target: OUTCOME, "{panic}{backtrace}");
        std::process::exit(PANICKED.into());
    }));
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// By exiting with this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
    /// It did not start, or its status is lost, for this reason.
    Unknown(String),
}

impl End {
    /// Whether the program finished its work.
    pub fn is_success(&self) -> bool {
        *self == Self::Exited(0)
    }

    /// Whether the program was told to stop.
    pub fn is_stopped(&self) -> bool {
        *self == Self::Exited(STOPPED.into())
    }

    /// Whether the failure was temporary. Usually the program lost another one, whose own end says more.
    pub fn is_temporary(&self) -> bool {
        *self == Self::Exited(TEMPORARY.into())
    }
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Exited(code),
            (None, Some(signal)) => Self::Signaled(signal),
            (None, None) => Self::Unknown(status.to_string()),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit status: {code}"),
            Self::Signaled(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "signal: {number} ({signal})"),
                Err(_) => write!(f, "signal: {number}"),
            },
            Self::Unknown(why) => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn end_of(script: &str) -> End {
        Command::new("sh").args(["-c", script]).status().unwrap().into()
    }

    #[test]
    fn exit_statuses_become_ends_and_texts() {
        let ends = ["exit 0", "exit 75", "exit 1", "kill -KILL $$", "kill -TERM $$"].map(end_of);
        let values = [End::Exited(0), End::Exited(75), End::Exited(1), End::Signaled(9), End::Signaled(15)];
        assert_eq!(ends, values);
        assert_eq!(ends.iter().filter(|end| end.is_success()).collect::<Vec<_>>(), [&End::Exited(0)]);
        assert_eq!(ends.iter().filter(|end| end.is_temporary()).collect::<Vec<_>>(), [&End::Exited(75)]);
        assert_eq!(ends[1].to_string(), "exit status: 75");
        assert_eq!(ends[3].to_string(), "signal: 9 (SIGKILL)");
    }

    #[test]
    fn an_unknown_end_is_no_exit_status_whatever_its_text() {
        let text = End::Unknown("exit status: 75".to_owned());
        assert!(!text.is_temporary());
        assert!(!End::Unknown("exit status: 0".to_owned()).is_success());
        let json = serde_json::to_string(&[text.clone(), End::Exited(75)]).unwrap();
        assert_eq!(serde_json::from_str::<Vec<End>>(&json).unwrap(), [text, End::Exited(75)]);
    }
}
