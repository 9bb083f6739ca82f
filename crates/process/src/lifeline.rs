//! The lifeline: the socket at a program's standard input, whose other end its supervisor holds.
//!
//! The supervisor learns on it that the program is alive, and keeps open files and sockets for the program: a program that is
//! restarted gets those that it had given before.

mod kept;

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;

pub use kept::Kept;
pub(crate) use kept::{Incoming, MOST, Message};

/// The environment variable that makes standard input a [lifeline](follow).
pub const LIFELINE: &str = "EXIT_WITH_STDIN";
/// The value of [`LIFELINE`] if standard input is a socket on which the supervisor expects signs of life.
pub const WATCHED: &str = "watched";
/// The value of [`LIFELINE`] if the program ends without a word, since its parent has ended, and may share its log.
pub const QUIET: &str = "quiet";
/// The environment variable with the number of things that the supervisor has kept.
pub const KEPT: &str = "KEPT_BY_SUPERVISOR";
/// The interval between signs of life.
pub const SIGN_OF_LIFE: Duration = Duration::from_millis(500);
/// How long what was kept may take to arrive. It is there when the program starts.
const ARRIVAL_TIME: Duration = Duration::from_secs(5);

/// The program's end of a watched lifeline.
static SUPERVISOR: OnceLock<UnixStream> = OnceLock::new();
/// What was kept, until the program takes it.
static TAKEN_OVER: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// Ends this process with the thread that has started it, which must last as long. For a program whose standard input is data, and
/// so no lifeline.
///
/// # Errors
/// The system does not allow it.
pub fn end_with_parent_thread() -> nix::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
}

/// If [`LIFELINE`] is set, ends this process when its standard input ends. The supervisor holds the other end, so no process is
/// left behind, however the supervisor dies. If the supervisor asks for signs of life, sends them; a stopped process, or one on
/// a stopped host, cannot.
pub fn follow() {
    let Some(kind) = std::env::var_os(LIFELINE) else { return };
    if kind == WATCHED
        && let Ok(stdin) = std::io::stdin().as_fd().try_clone_to_owned()
    {
        let supervisor = SUPERVISOR.get_or_init(|| UnixStream::from(stdin));
        let count = std::env::var(KEPT).ok().and_then(|count| count.parse().ok());
        *TAKEN_OVER.lock() = take_over(supervisor, count.unwrap_or(0));
        std::thread::spawn(move || {
            // The other thread ends this process when the supervisor is gone.
            while Message::Sign.send(supervisor, &[]).is_ok() {
                std::thread::sleep(SIGN_OF_LIFE);
            }
        });
    }
    std::thread::spawn(move || {
        let mut sink = [0; 64];
        while !matches!(std::io::stdin().read(&mut sink), Ok(0) | Err(_)) {}
        if kind != QUIET {
            tracing::error!(target: crate::log::OUTCOME, "the supervisor is gone, so this program ends");
        }
        std::process::exit(3);
    });
}

fn take_over(supervisor: &UnixStream, count: usize) -> Vec<Kept> {
    let mut all = Vec::new();
    let mut incoming = Incoming::default();
    // This call does not fail.
    let _ = supervisor.set_read_timeout(Some(ARRIVAL_TIME));
    while all.len() < count {
        match incoming.receive(supervisor) {
            Ok(Some(messages)) => all.extend(messages.into_iter().filter_map(|message| match message {
                (Message::Keep(name, note), descriptors) => Some(Kept { name, note, descriptors }),
                _ => None,
            })),
            end => {
                // The program does without it, as at its first start.
                tracing::warn!("what the supervisor has kept did not arrive: {:?}", end.err());
                break;
            }
        }
    }
    let _ = supervisor.set_read_timeout(None);
    all
}

/// Gives the supervisor these open files and sockets, with a note, in place of those that it has under this name. If the program
/// is restarted, it gets them from [`take_kept`]; when it has ended for good, they are closed. Returns whether there is a
/// supervisor that keeps them.
pub fn keep(name: &str, note: &str, descriptors: &[BorrowedFd<'_>]) -> bool {
    let message = Message::Keep(name.to_owned(), note.to_owned());
    SUPERVISOR.get().is_some_and(|supervisor| message.send(supervisor, descriptors).is_ok())
}

/// Has the supervisor close what it keeps under this name.
pub fn forget(name: &str) {
    if let Some(supervisor) = SUPERVISOR.get() {
        // If the supervisor is gone, so is what it has kept.
        let _ = Message::Forget(name.to_owned()).send(supervisor, &[]);
    }
}

/// What this program has given its supervisor before it was restarted, once.
pub fn take_kept() -> Vec<Kept> {
    std::mem::take(&mut TAKEN_OVER.lock())
}
