//! The commands for hosts over SSH, one module each. Steps that EC2 shares are public.

pub(crate) mod down;
pub(crate) mod get_results;
pub(crate) mod hub;
pub(crate) mod logs;
pub(crate) mod run_cluster;
pub(crate) mod shell;
pub mod status;
pub(crate) mod stop;
pub mod up;

use deploy::{console, interrupt};

/// From now on, an interruption ends this process at once. That is safe if the next command continues or cleans up. Threads
/// that wait for hosts could not be cancelled anyway.
fn end_on_interrupt(message: &'static str) -> anyhow::Result<()> {
    process::signals::on_end_signals(move || {
        if !message.is_empty() {
            console::note(message);
        }
        interrupt::exit()
    })
}
