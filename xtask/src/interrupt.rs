//! Ctrl-C and SIGTERM: noticed, so that whoever is at work can clean up.

use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The exit code of a command that was interrupted, as shells have it for Ctrl-C.
pub(crate) const EXIT_CODE: u8 = 130;

/// From now on signals are noted and end nothing.
pub(crate) fn watch() -> anyhow::Result<()> {
    wire::program::on_end_signals(|| INTERRUPTED.store(true, Ordering::SeqCst))
}

/// Whether somebody wants the command to end.
pub(crate) fn is_wanted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}
