//! Handles Ctrl-C and SIGTERM, so that a command can clean up before it ends.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use process::signals::EndSignal;

use crate::console;

/// Removes what this process would leave behind.
static CLEAN_UP: OnceLock<fn()> = OnceLock::new();

/// Sets a function that [`leave`] calls before it ends the process. Only the first call counts.
pub fn before_leaving(clean_up: fn()) {
    let _ = CLEAN_UP.set(clean_up);
}

/// How many signals have come.
static TIMES: AtomicUsize = AtomicUsize::new(0);

/// The exit code of a command that was interrupted, as shells report Ctrl-C.
pub const EXIT_CODE: u8 = 130;

/// The error of [`check`] after an interruption.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// From now on, the first signal only sets a flag. The second prints this message and ends the process at once.
pub fn watch(message: &'static str) -> anyhow::Result<()> {
    watch_and_say("", message)
}

/// As [`watch`]; the first signal also prints a message.
pub fn watch_and_say(first: &'static str, second: &'static str) -> anyhow::Result<()> {
    process::signals::on_end_signals(move || {
        if TIMES.fetch_add(1, Ordering::SeqCst) > 0 {
            console::note(second);
            exit();
        }
        if !first.is_empty() {
            console::note(first);
        }
    })
}

/// As [`watch`]; but a closed terminal ends this process at once, and what it started on hosts continues.
pub fn watch_or_leave(message: &'static str) -> anyhow::Result<()> {
    process::signals::on_signals(move |signal| match signal {
        EndSignal::Hangup => exit(),
        EndSignal::End => {
            if TIMES.fetch_add(1, Ordering::SeqCst) > 0 {
                console::note(message);
                exit();
            }
        }
    })
}

/// From now on, signals are only counted: see [`times`].
pub fn count() -> anyhow::Result<()> {
    process::signals::on_end_signals(|| {
        TIMES.fetch_add(1, Ordering::SeqCst);
    })
}

/// How often the command was interrupted.
pub fn times() -> usize {
    TIMES.load(Ordering::SeqCst)
}

/// Ends this process with [`EXIT_CODE`].
pub fn exit() -> ! {
    leave(EXIT_CODE)
}

/// Ends this process at once, without waiting for its threads.
pub fn leave(code: u8) -> ! {
    if let Some(clean_up) = CLEAN_UP.get() {
        clean_up();
    }
    std::process::exit(i32::from(code))
}

/// Whether the command was interrupted.
pub fn is_wanted() -> bool {
    TIMES.load(Ordering::SeqCst) > 0
}

/// # Errors
/// The command was interrupted.
pub fn check() -> anyhow::Result<()> {
    if is_wanted() { Err(Interrupted.into()) } else { Ok(()) }
}
