//! Signals to end.

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What to do when somebody wants this program to end: SIGINT and SIGTERM; and SIGHUP, unless the program was started
/// with that ignored, as nohup does.
///
/// # Errors
/// Those of the system.
pub fn on_end_signals(act: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    on_signals(move |_| act())
}

/// As [`on_end_signals`], with a difference made between the terminal's being closed and the other signals.
///
/// # Errors
/// Those of the system.
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

/// A signal to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndSignal {
    /// The terminal was closed (SIGHUP).
    Hangup,
    /// Somebody wants this program to end (SIGINT, SIGTERM).
    End,
}

/// Whether SIGHUP is ignored; where the system does not say, it is not.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & (1 << (SIGHUP - 1)) != 0)
}
