//! Signals that end a program.

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Calls `act` at each SIGINT, SIGTERM and SIGHUP. SIGHUP is left out if the program was started with it ignored, as nohup does.
///
/// # Errors
/// The signals cannot be handled, or no thread can be started.
pub fn on_end_signals(act: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    on_signals(move |_| act())
}

/// Like [`on_end_signals`], and tells SIGHUP from the other signals.
///
/// # Errors
/// Those of [`on_end_signals`].
pub fn on_signals(act: impl Fn(EndSignal) + Send + 'static) -> anyhow::Result<()> {
    let mut wanted = vec![SIGINT, SIGTERM];
    if !ignores_hangup() {
        wanted.push(SIGHUP);
    }
    let mut signals = Signals::new(wanted).context("waiting for signals")?;
    let kind = |signal| if signal == SIGHUP { EndSignal::Hangup } else { EndSignal::End };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().for_each(|signal| act(kind(signal))))
        .context("starting a thread")?;
    Ok(())
}

/// A signal that ends a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndSignal {
    /// The terminal was closed (SIGHUP).
    Hangup,
    /// The program is asked to end (SIGINT, SIGTERM).
    End,
}

/// Whether SIGHUP is ignored; `false` if the system does not say.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & (1 << (SIGHUP - 1)) != 0)
}
