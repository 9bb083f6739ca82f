//! What a command's exit code says, and errors that know theirs.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use crate::console;
use crate::interrupt::{self, Interrupted};

/// It was begun, and failed.
pub const FAILED: u8 = 1;
/// It was refused before anything was changed.
pub const REFUSED: u8 = 3;
/// Another job is at work there.
pub const BUSY: u8 = 4;

/// An error with an exit code of its own. It says what the error says.
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

/// Gives an error this code, unless it has one already.
pub fn with(code: u8, error: anyhow::Error) -> anyhow::Error {
    if known(&error).is_some() { error } else { Coded { code, error }.into() }
}

/// An error from before anything was changed.
pub fn refused(error: anyhow::Error) -> anyhow::Error {
    with(REFUSED, error)
}

/// An error because another job is at work there.
pub fn busy(error: anyhow::Error) -> anyhow::Error {
    with(BUSY, error)
}

/// Whether another job is at work there.
pub fn is_busy(error: &anyhow::Error) -> bool {
    known(error) == Some(BUSY)
}

fn known(error: &anyhow::Error) -> Option<u8> {
    match error.downcast_ref::<Coded>() {
        Some(coded) => Some(coded.code),
        None => error.is::<Interrupted>().then_some(interrupt::EXIT_CODE),
    }
}

/// Whether an error is of this kind, with an exit code of its own or without.
pub fn is<T: fmt::Display + fmt::Debug + Send + Sync + 'static>(error: &anyhow::Error) -> bool {
    error.is::<T>() || error.downcast_ref::<Coded>().is_some_and(|coded| is::<T>(&coded.error))
}

/// The exit code of a command that ends with this error.
pub fn code(error: &anyhow::Error) -> ExitCode {
    known(error).unwrap_or(FAILED).into()
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
    fn an_error_keeps_its_first_code_and_its_words() {
        let io = || anyhow::Error::from(std::io::Error::other("the cause")).context("doing it");
        let error = refused(busy(io())).context("outside");
        assert_eq!(known(&error), Some(BUSY));
        assert_eq!(format!("{error:#}"), "outside: doing it: the cause");
        assert_eq!(error.chain().count(), 3);
        assert_eq!(known(&refused(Interrupted.into())), Some(interrupt::EXIT_CODE));
        assert_eq!(known(&refused(io())), Some(REFUSED));
        assert_eq!(known(&anyhow!("x")), None);
        assert!(is::<std::io::Error>(&busy(io()).context("outside")) && !is::<Interrupted>(&busy(io())));
        let outcome: anyhow::Result<()> = Err(refused(io()));
        assert_eq!(known(&outcome.context("more").unwrap_err()), Some(REFUSED));
    }
}
