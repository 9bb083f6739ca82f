//! The guard: a small process between a classifier and its Python process. It ends the Python process and all its
//! descendants.
//!
//! The guard adopts processes that have lost their parent. So all descendants of the Python process stay below the guard,
//! even in sessions of their own, and the guard finds them even when the classifier is gone. The guard is this same program,
//! started as `classifier guard`. The Python process gets the guard's standard input, and prints to the guard's standard
//! error. The guard's standard output is a socket on which it sends lines to the classifier:
//!
//! | line           | meaning |
//! |----------------|---------|
//! | `started PID`  | the Python process is running |
//! | `failed WHY`   | the Python process cannot be started |
//! | `ended STATUS` | the Python process has ended, with this raw status of `wait` |
//! | `left PID …`   | these processes were killed and have not ended |
//!
//! When the classifier closes the socket or the Python process ends, the guard kills all descendants and ends.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};

use super::tree;

/// How long to wait for killed processes. A process that still runs is in uninterruptible sleep, and ends when it wakes.
const GIVE_UP: Duration = Duration::from_secs(2);
/// The pause before looking again for processes that a killed process started last.
const PAUSE: Duration = Duration::from_millis(20);
/// The status to report for a signal that nix has no name for: the first real-time signal.
const UNKNOWN: i32 = 34;

/// Runs this command under a guard.
///
/// # Errors
/// When there is no command, or the descriptors cannot be set up.
pub fn run(command: &[OsString]) -> anyhow::Result<()> {
    let [program, arguments @ ..] = command else { bail!("a guard needs a command to guard") };
    let control = std::io::stdout().as_fd().try_clone_to_owned().context("keeping the socket")?;
    let control = UnixStream::from(control);
    adopt_orphans()?;
    let log = std::io::stderr().as_fd().try_clone_to_owned().context("keeping the log")?;
    // A process group of its own, since Ctrl-C in a terminal is meant for the classifier.
    let child = Command::new(program).args(arguments).stdout(Stdio::from(log)).process_group(0).spawn();
    // The guard must not keep the Python process's output open for its reader.
    let null = File::options().read(true).write(true).open("/dev/null").context("opening /dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    match child {
        Ok(child) => {
            send(&control, format_args!("started {}", child.id()));
            guard(child.id(), &control);
        }
        Err(error) => send(&control, format_args!("failed {error}")),
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn adopt_orphans() -> anyhow::Result<()> {
    nix::sys::prctl::set_child_subreaper(true).context("becoming the parent of orphans")
}

#[cfg(not(target_os = "linux"))]
fn adopt_orphans() -> anyhow::Result<()> {
    Ok(())
}

/// Sends a line to the classifier. If the classifier is gone, another thread notices.
fn send(mut control: &UnixStream, line: std::fmt::Arguments<'_>) {
    let _ = control.write_all(format!("{line}\n").as_bytes());
}

/// Waits until the Python process has ended or must end, and ends all descendants.
fn guard(pid: u32, control: &UnixStream) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !matches!({ control }.read(&mut [0; 64]), Ok(0) | Err(_)) {}
            end_all(control);
        });
        loop {
            let raw = match waitpid(None, None) {
                Ok(WaitStatus::Exited(ended, code)) if is(ended, pid) => Some(code << 8),
                Ok(WaitStatus::Signaled(ended, signal, core)) if is(ended, pid) => {
                    Some(signal as i32 | if core { 0x80 } else { 0 })
                }
                // An adopted process has ended, or a signal interrupted the wait.
                Ok(_) | Err(Errno::EINTR) => None,
                // A process was ended by a signal that nix has no name for, such as a real-time one.
                Err(Errno::EINVAL) if tree::exists(pid) => None,
                Err(Errno::EINVAL) => Some(UNKNOWN),
                // No children are left.
                Err(_) => exit(),
            };
            if let Some(raw) = raw {
                send(control, format_args!("ended {raw}"));
                scope.spawn(|| end_all(control));
            }
        }
    });
}

fn is(ended: nix::unistd::Pid, pid: u32) -> bool {
    ended.as_raw() as u32 == pid
}

/// Kills all descendants. When all have ended, the waiting thread ends the guard at once; otherwise this thread does, after
/// [`GIVE_UP`].
fn end_all(control: &UnixStream) {
    let mut left = Vec::new();
    while left.is_empty() {
        left = tree::end_descendants(std::process::id(), GIVE_UP);
        std::thread::sleep(PAUSE);
    }
    let left: Vec<_> = left.iter().map(u32::to_string).collect();
    send(control, format_args!("left {}", left.join(" ")));
    exit();
}

/// Ends the guard from the thread that finds the work done, since the other thread is waiting for the classifier or for a
/// process.
fn exit() -> ! {
    std::process::exit(0)
}
