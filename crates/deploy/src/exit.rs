//! Exit codes of commands, and errors that carry one.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use crate::console;
use crate::interrupt::{self, Interrupted};

/// The command started its work and failed.
pub const FAILED: u8 = 1;
/// The command was refused before anything was changed.
pub const REFUSED: u8 = 3;
/// Another job or command uses the hosts or the folder.
pub const BUSY: u8 = 4;

/// An error with an exit code. It displays as the error that it wraps.
#[derive(Debug)]
struct Coded {
    code: u8,
    error: anyhow::Error,
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for Coded {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// Adds a code to an error, unless it has one already.
pub fn with(code: u8, error: anyhow::Error) -> anyhow::Error {
    if code_of(&error).is_some() { error } else { Coded { code, error }.into() }
}

/// Marks an error that came before anything was changed.
pub fn refused(error: anyhow::Error) -> anyhow::Error {
    with(REFUSED, error)
}

/// Marks an error whose cause is another job or command, which uses the hosts or the folder.
pub fn busy(error: anyhow::Error) -> anyhow::Error {
    with(BUSY, error)
}

/// Whether the cause is another job or command.
pub fn is_busy(error: &anyhow::Error) -> bool {
    code_of(error) == Some(BUSY)
}

pub(crate) fn code_of(error: &anyhow::Error) -> Option<u8> {
    match error.downcast_ref::<Coded>() {
        Some(coded) => Some(coded.code),
        None => error.is::<Interrupted>().then_some(interrupt::EXIT_CODE),
    }
}

/// Whether an error is of this type, with an exit code or without.
pub fn is<T: fmt::Display + fmt::Debug + Send + Sync + 'static>(error: &anyhow::Error) -> bool {
    error.is::<T>() || error.downcast_ref::<Coded>().is_some_and(|coded| is::<T>(&coded.error))
}

/// The exit code of a command that ends with this error.
pub fn code(error: &anyhow::Error) -> ExitCode {
    code_of(error).unwrap_or(FAILED).into()
}

/// Prints an error and its causes, and returns its exit code.
pub fn fail(error: &anyhow::Error) -> ExitCode {
    console::note(&format!("error: {error}"));
    for cause in error.chain().skip(1) {
        console::note(&format!("  because: {cause}"));
    }
    code(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn an_error_keeps_its_first_code_and_its_message() {
        let io = || anyhow::Error::from(std::io::Error::other("the cause")).context("doing it");
        let error = refused(busy(io())).context("outside");
        assert_eq!(code_of(&error), Some(BUSY));
        assert_eq!(format!("{error:#}"), "outside: doing it: the cause");
        assert_eq!(error.chain().count(), 3);
        assert_eq!(code_of(&refused(Interrupted.into())), Some(interrupt::EXIT_CODE));
        assert_eq!(code_of(&refused(io())), Some(REFUSED));
        assert_eq!(code_of(&anyhow!("x")), None);
        assert!(is::<std::io::Error>(&busy(io()).context("outside")) && !is::<Interrupted>(&busy(io())));
        let outcome: anyhow::Result<()> = Err(refused(io()));
        assert_eq!(code_of(&outcome.context("more").unwrap_err()), Some(REFUSED));
    }
}
