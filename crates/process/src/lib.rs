//! A program's life, from the side of the program and of its supervisor.
//!
//! | module | holds |
//! |---|---|
//! | [`supervisor`] | starts a program, watches it, and restarts it when it dies |
//! | [`restart`] | decides whether and when a program is restarted; pure |
//! | [`exit`] | exit codes, and how a program ended |
//! | [`descriptors`] | sends open files and sockets to another program |
//! | [`ready`] | ready files: where a program listens |
//! | [`lifeline`] | the socket at standard input: ends the program with its supervisor, and carries its signs of life |
//! | [`signals`] | signals that end a program |
//! | [`log`] | the format and filter of log lines |

pub mod descriptors;
pub mod exit;
pub mod lifeline;
pub mod log;
pub mod ready;
pub mod restart;
pub mod signals;
pub mod supervisor;

/// Begins a program: sets up its log from `level` on, and ends it if any thread panics or its supervisor is gone.
pub fn begin(program: &'static str, format: log::Format, level: log::LevelFilter) {
    log::init(program, format, level);
    exit::end_on_panic();
    lifeline::follow();
}

/// The longest time that a program can be told to wait: ten years, in seconds.
pub const LONGEST_WAIT: u64 = 10 * 365 * 24 * 3600;
