//! The lifeline: the socket at a program's standard input, whose other end its supervisor holds.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The environment variable that makes standard input a [lifeline](follow).
pub const LIFELINE: &str = "EXIT_WITH_STDIN";
/// The value of [`LIFELINE`] if standard input is a socket on which the supervisor expects signs of life.
pub const WATCHED: &str = "watched";
/// The interval between signs of life.
pub const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

/// If [`LIFELINE`] is set, ends this process when its standard input ends. The supervisor holds the other end, so no process is
/// left behind, however the supervisor dies. If the supervisor asks for signs of life, sends them; a stopped process, or one on
/// a stopped host, cannot.
pub fn follow() {
    let Some(kind) = std::env::var_os(LIFELINE) else { return };
    if kind == WATCHED
        && let Ok(stdin) = std::io::stdin().as_fd().try_clone_to_owned()
    {
        let mut supervisor = UnixStream::from(stdin);
        std::thread::spawn(move || {
            // The other thread ends this process when the supervisor is gone.
            while supervisor.write_all(b".").is_ok() {
                std::thread::sleep(SIGN_OF_LIFE);
            }
        });
    }
    std::thread::spawn(move || {
        let mut sink = [0; 64];
        while !matches!(std::io::stdin().read(&mut sink), Ok(0) | Err(_)) {}
        tracing::error!(target: crate::log::OUTCOME, "the supervisor is gone, so this program ends");
        std::process::exit(3);
    });
}
