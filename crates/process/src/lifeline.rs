//! The lifeline: the socket at a program's standard input, whose other end its supervisor holds.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The variable in the environment that says that standard input is a [lifeline](follow).
pub const LIFELINE: &str = "EXIT_WITH_STDIN";
/// Its value where standard input is a socket on which the supervisor wants signs of life.
pub const WATCHED: &str = "watched";
/// How often a sign of life is given.
pub const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

/// Ends this process when its standard input ends, if [`LIFELINE`] is set. The process that started this one holds the other end,
/// so nothing is left behind when it dies, however it dies. If it asks for them, sends it signs of life, which a stopped process,
/// or one on a stopped host, cannot send.
pub fn follow() {
    let Some(kind) = std::env::var_os(LIFELINE) else { return };
    if kind == WATCHED
        && let Ok(stdin) = std::io::stdin().as_fd().try_clone_to_owned()
    {
        let mut supervisor = UnixStream::from(stdin);
        std::thread::spawn(move || {
            // The other thread sees when the supervisor is gone.
            while supervisor.write_all(b".").is_ok() {
                std::thread::sleep(SIGN_OF_LIFE);
            }
        });
    }
    std::thread::spawn(move || {
        let mut sink = [0; 64];
        while !matches!(std::io::stdin().read(&mut sink), Ok(0) | Err(_)) {}
        tracing::error!(target: crate::log::OUTCOME, "the process that started this one is gone, so it ends");
        std::process::exit(3);
    });
}
