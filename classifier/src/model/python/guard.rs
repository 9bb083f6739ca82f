//! The guard: a small process between a classifier and its Python process, which ends that and all that comes from it.
//!
//! Whatever a Python process starts, in groups and sessions of its own or not, stays below the guard: it adopts what has
//! lost its parent. So all of it is found, also when the classifier is gone, and whoever the workers' parent is. The guard is
//! this same program, started as `classifier guard`: its standard input becomes the Python process's, its standard error gets
//! what that prints, and its standard output is a socket by which it and the classifier talk, in lines:
//!
//! | line           | says |
//! |----------------|------|
//! | `started PID`  | the Python process runs |
//! | `failed WHY`   | it cannot be started |
//! | `ended STATUS` | it has ended, with this status as `wait` has it |
//! | `left PID …`   | these processes were killed and have not ended |
//!
//! When the socket has no other end any more, or the Python process has ended, the guard kills all that is left, and ends.

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

/// A killed process that has not ended after this time is in uninterruptible sleep, and is left to end when it wakes.
const GIVE_UP: Duration = Duration::from_secs(2);
/// The pause between looks for what a process that was just killed may have started.
const PAUSE: Duration = Duration::from_millis(20);
/// In place of the status that a signal without a name left: that of the first one for real time.
const UNKNOWN: i32 = 34;

/// Runs the guard of this command.
///
/// # Errors
/// When it is no guard: there is no command, or no classifier at the other end.
pub fn run(command: &[OsString]) -> anyhow::Result<()> {
    let [program, arguments @ ..] = command else { bail!("a guard needs a command to guard") };
    let control = std::io::stdout().as_fd().try_clone_to_owned().context("keeping the socket")?;
    let control = UnixStream::from(control);
    adopt_orphans()?;
    let log = std::io::stderr().as_fd().try_clone_to_owned().context("keeping the log")?;
    // A group of its own: Ctrl-C in a terminal is for the classifier.
    let child = Command::new(program).args(arguments).stdout(Stdio::from(log)).process_group(0).spawn();
    // Whoever waits for the end of what the Python process writes must not wait for the guard.
    let null = File::options().read(true).write(true).open("/dev/null").context("opening /dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    match child {
        Ok(child) => {
            tell(&control, format_args!("started {}", child.id()));
            guard(child.id(), &control);
        }
        Err(error) => tell(&control, format_args!("failed {error}")),
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn adopt_orphans() -> anyhow::Result<()> {
    nix::sys::prctl::set_child_subreaper(true).context("becoming the one that adopts orphans")
}

#[cfg(not(target_os = "linux"))]
fn adopt_orphans() -> anyhow::Result<()> {
    Ok(())
}

/// A classifier that is gone hears nothing, which is then noticed elsewhere.
fn tell(mut control: &UnixStream, line: std::fmt::Arguments<'_>) {
    let _ = control.write_all(format!("{line}\n").as_bytes());
}

/// Waits until the process has ended or is to be ended, and ends all that is left.
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
                // An orphan; or this wait was broken off.
                Ok(_) | Err(Errno::EINTR) => None,
                // A signal has ended one of the processes that nix has no name for, as those for real time.
                Err(Errno::EINVAL) if tree::is_there(pid) => None,
                Err(Errno::EINVAL) => Some(UNKNOWN),
                // All have ended.
                Err(_) => std::process::exit(0),
            };
            if let Some(raw) = raw {
                tell(control, format_args!("ended {raw}"));
                scope.spawn(|| end_all(control));
            }
        }
    });
}

fn is(ended: nix::unistd::Pid, pid: u32) -> bool {
    ended.as_raw() as u32 == pid
}

/// Kills all that is left. When all of it has ended, the thread that waits for it ends the guard at once; else this one does,
/// after a while.
fn end_all(control: &UnixStream) {
    let mut left = Vec::new();
    while left.is_empty() {
        left = tree::end_descendants(std::process::id(), GIVE_UP);
        std::thread::sleep(PAUSE);
    }
    let left: Vec<_> = left.iter().map(u32::to_string).collect();
    tell(control, format_args!("left {}", left.join(" ")));
    std::process::exit(0);
}
