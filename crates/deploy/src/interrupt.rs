//! Ctrl-C and SIGTERM: noticed, so that whoever is at work can clean up.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use process::signals::EndSignal;

use crate::console;

/// What this process leaves behind unless it is removed.
static CLEAN_UP: OnceLock<fn()> = OnceLock::new();

/// Has this called before [`leave`] ends the process. Only the first call counts.
pub fn before_leaving(clean_up: fn()) {
    let _ = CLEAN_UP.set(clean_up);
}

/// How often.
static TIMES: AtomicUsize = AtomicUsize::new(0);

/// The exit code of a command that was interrupted, as shells have it for Ctrl-C.
pub const EXIT_CODE: u8 = 130;

/// What [`check`] gives when somebody wants the command to end.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// From now on the first signal is noted and ends nothing. The second ends this process at once, with these words.
pub fn watch(words: &'static str) -> anyhow::Result<()> {
    watch_and_say("", words)
}

/// As [`watch`], with words for the first signal, too.
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

/// As [`watch`]; but when the terminal is closed, this process ends at once, and leaves what it has started elsewhere alone.
pub fn watch_or_leave(words: &'static str) -> anyhow::Result<()> {
    process::signals::on_signals(move |signal| match signal {
        EndSignal::Hangup => exit(),
        EndSignal::End => {
            if TIMES.fetch_add(1, Ordering::SeqCst) > 0 {
                console::note(words);
                exit();
            }
        }
    })
}

/// From now on signals are counted, and nothing else: see [`times`].
pub fn count() -> anyhow::Result<()> {
    process::signals::on_end_signals(|| {
        TIMES.fetch_add(1, Ordering::SeqCst);
    })
}

/// How often somebody has wanted the command to end.
pub fn times() -> usize {
    TIMES.load(Ordering::SeqCst)
}

/// Ends this process as one that was interrupted.
pub fn exit() -> ! {
    leave(EXIT_CODE)
}

/// Ends this process, whatever its threads wait for.
pub fn leave(code: u8) -> ! {
    if let Some(clean_up) = CLEAN_UP.get() {
        clean_up();
    }
    std::process::exit(i32::from(code))
}

/// Whether somebody wants the command to end.
pub fn is_wanted() -> bool {
    TIMES.load(Ordering::SeqCst) > 0
}

/// An error if somebody wants the command to end.
pub fn check() -> anyhow::Result<()> {
    if is_wanted() { Err(Interrupted.into()) } else { Ok(()) }
}
