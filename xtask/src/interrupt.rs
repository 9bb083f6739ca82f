//! Ctrl-C and SIGTERM: noticed, so that whoever is at work can clean up.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(feature = "remote")]
use process::signals::EndSignal;

use crate::ui;

/// How often.
static TIMES: AtomicUsize = AtomicUsize::new(0);

/// The exit code of a command that was interrupted, as shells have it for Ctrl-C.
pub(crate) const EXIT_CODE: u8 = 130;

/// What [`check`] gives when somebody wants the command to end.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// From now on the first signal is noted and ends nothing. The second ends this process at once, with these words.
pub(crate) fn watch(words: &'static str) -> anyhow::Result<()> {
    watch_and_say("", words)
}

/// As [`watch`], with words for the first signal, too.
pub(crate) fn watch_and_say(first: &'static str, second: &'static str) -> anyhow::Result<()> {
    process::signals::on_end_signals(move || {
        if TIMES.fetch_add(1, Ordering::SeqCst) > 0 {
            ui::note(second);
            exit();
        }
        if !first.is_empty() {
            ui::note(first);
        }
    })
}

/// As [`watch`]; but when the terminal is closed, this process ends at once, and leaves what it has started elsewhere alone.
#[cfg(feature = "remote")]
pub(crate) fn watch_or_leave(words: &'static str) -> anyhow::Result<()> {
    process::signals::on_signals(move |signal| match signal {
        EndSignal::Hangup => exit(),
        EndSignal::End => {
            if TIMES.fetch_add(1, Ordering::SeqCst) > 0 {
                ui::note(words);
                exit();
            }
        }
    })
}

/// From now on signals are counted, and nothing else: see [`times`].
#[cfg(feature = "aws")]
pub(crate) fn count() -> anyhow::Result<()> {
    process::signals::on_end_signals(|| {
        TIMES.fetch_add(1, Ordering::SeqCst);
    })
}

/// How often somebody has wanted the command to end.
#[cfg(feature = "aws")]
pub(crate) fn times() -> usize {
    TIMES.load(Ordering::SeqCst)
}

/// Ends this process as one that was interrupted.
pub(crate) fn exit() -> ! {
    leave(EXIT_CODE)
}

/// Ends this process, whatever its threads wait for.
pub(crate) fn leave(code: u8) -> ! {
    #[cfg(feature = "remote")]
    crate::scratch::leave();
    std::process::exit(i32::from(code))
}

/// Whether somebody wants the command to end.
pub(crate) fn is_wanted() -> bool {
    TIMES.load(Ordering::SeqCst) > 0
}

/// An error if somebody wants the command to end.
pub(crate) fn check() -> anyhow::Result<()> {
    if is_wanted() { Err(Interrupted.into()) } else { Ok(()) }
}
