//! Supervises a program: starts it, watches it, and restarts it when it dies.
//!
//! The program's standard input is one end of a socket. When the supervisor is gone, however it died, the program reads the end of
//! that socket, and ends. On it the program also says that it is alive; a program that stops saying so (it is stopped, or hangs) is
//! killed, and restarted like one that died.
//!
//! [`restart`](crate::restart) decides whether and when; this module acts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::exit::PANICKED;
use crate::lifeline::{LIFELINE, SIGN_OF_LIFE, WATCHED};
use crate::ready::Ready;
use anyhow::Context;
use net::Reserved;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::exit::End;
use crate::restart::{Ended, Restarts};

/// So many signs of life of a program may be missing in a row; with the next one it is taken to be dead.
const MOST_MISSED: u32 = 5;
/// So many that are missed when the supervisor was late itself count as one.
const LATE_COUNT: u32 = 4;
/// The room for a program's last words in its log, in bytes; it mostly prints a few lines.
const LOG_ROOM: i64 = 64 << 10;
/// How long a program that was killed may take to be gone.
const KILL_TIME: Duration = Duration::from_secs(10);

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The program's file.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables in its environment, besides those of this process.
    pub environment: BTreeMap<String, String>,
    /// Its current folder, if not this process's.
    pub folder: Option<PathBuf>,
    /// What it prints goes to the end of this file.
    pub log: PathBuf,
    /// The file that it writes when it is ready.
    pub ready_file: PathBuf,
    /// Whether it is started again when it dies.
    pub restart: bool,
    /// In place of the socket, this process's standard input. Such a program stays in the foreground group of the terminal, and is
    /// neither watched nor started again: what it has read is gone.
    pub stdin: bool,
}

/// What a supervisor tells while it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The program runs, as this process.
    Started(u32),
    /// It died, in this way, and will be started again.
    Died(End),
}

/// Keeps one program. Clones are handles to the same.
#[derive(Debug, Clone, Default)]
pub struct Supervisor(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The process that runs, which leads a group of its own (unless it has the terminal).
    running: Option<Running>,
    /// Somebody wants it to end.
    stopping: bool,
    /// It has ended for good.
    over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Running {
    pid: Pid,
    leads_group: bool,
}

impl Running {
    /// Sends a signal to the program, and all that it has started. It has not been waited for, so the id is its own.
    fn signal(self, signal: Signal) {
        // One that has just ended needs none.
        let _ = if self.leads_group {
            killpg(self.pid, signal)
        } else {
            nix::sys::signal::kill(self.pid, signal)
        };
    }
}

impl Supervisor {
    /// Starts the program, and again whenever it dies, until it ends for good; `tell` hears of it.
    ///
    /// # Errors
    /// A program that cannot be started or waited for; or an error of `tell`, after which it is ended.
    pub fn supervise(
        &self,
        launch: &Launch,
        mut tell: impl FnMut(&Event) -> anyhow::Result<()>,
    ) -> anyhow::Result<End> {
        let mut restarts = Restarts::default();
        let mut ports = BTreeMap::new();
        let kept = loop {
            let (start, ready_before) = (Instant::now(), changed_at(&launch.ready_file));
            let status = match self.run(launch, &mut tell) {
                Ok(Some(status)) => status,
                Ok(None) => break Ok(End::Unknown("it was stopped".into())),
                Err(error) => break Err(error),
            };
            let end = End::from(status);
            let was_ready = changed_at(&launch.ready_file) != ready_before;
            let again = restarts.next(ended(&end), was_ready, start.elapsed());
            let Some(pause) = again.filter(|_| launch.restart) else { break Ok(end) };
            reserve_ports(&launch.ready_file, &mut ports);
            if let Err(error) = tell(&Event::Died(end.clone())) {
                break Err(error);
            }
            if self.is_stopped_within(pause) {
                break Ok(end);
            }
        };
        self.state().over = true;
        self.0.changed.notify_all();
        kept
    }

    /// One life of the program; `None` if nobody wants it any more.
    fn run(
        &self,
        launch: &Launch,
        tell: &mut impl FnMut(&Event) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<ExitStatus>> {
        let context = || format!("starting {}", launch.path.display());
        let (mut command, lifeline) = command(launch).with_context(context)?;
        let (mut child, running) = {
            let mut state = self.state();
            if state.stopping {
                return Ok(None);
            }
            let child = command.spawn().with_context(context)?;
            let running = Running { pid: Pid::from_raw(child.id() as i32), leads_group: !launch.stdin };
            state.running = Some(running);
            (child, running)
        };
        // The program has its own ends now, which must be the only ones.
        drop(command);
        if let Some(lifeline) = &lifeline {
            self.watch(lifeline, running).with_context(context)?;
        }
        let told = tell(&Event::Started(child.id()));
        if told.is_err() {
            running.signal(Signal::SIGKILL);
        }
        let status = self.wait(&mut child).with_context(|| format!("waiting for {}", launch.path.display()));
        told?;
        status.map(Some)
    }

    fn wait(&self, child: &mut Child) -> anyhow::Result<ExitStatus> {
        // Whoever signals it holds the lock, and finds no id of a process that has been waited for; so the wait itself, in
        // which the id becomes free, must be short.
        nix::sys::wait::waitid(
            nix::sys::wait::Id::Pid(Pid::from_raw(child.id() as i32)),
            nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT,
        )?;
        let mut state = self.state();
        if let Some(running) = state.running.take()
            && running.leads_group
        {
            // What it has started, and did not take with it.
            running.signal(Signal::SIGKILL);
        }
        Ok(child.wait()?)
    }

    /// Ends the program: politely at first, and after the grace by force. Waits until it is gone.
    ///
    /// # Errors
    /// A program that stays although it was killed.
    pub fn stop(&self, grace: Duration) -> anyhow::Result<()> {
        self.ask_to_stop();
        for (limit, signal) in [(grace, Some(Signal::SIGKILL)), (KILL_TIME, None)] {
            if self.is_over_within(limit) {
                return Ok(());
            }
            if let (Some(running), Some(signal)) = (self.state().running, signal) {
                running.signal(signal);
            }
        }
        anyhow::bail!("it is still there {KILL_TIME:?} after it was killed")
    }

    /// Asks the program to end, and sees to it that it is not started again; does not wait.
    pub fn ask_to_stop(&self) {
        let mut state = self.state();
        state.stopping = true;
        if let Some(running) = state.running {
            running.signal(Signal::SIGTERM);
            // A stopped one would not hear it.
            running.signal(Signal::SIGCONT);
        }
        self.0.changed.notify_all();
    }

    /// Hears the program's signs of life, on a thread of its own, and ends it when they cease. One that never gives any is
    /// left alone.
    fn watch(&self, lifeline: &UnixStream, watched: Running) -> anyhow::Result<()> {
        let mut lifeline = lifeline.try_clone().context("duplicating a socket")?;
        let supervisor = self.clone();
        let watch = move || {
            let mut signs = [0; 64];
            let (mut limit, mut missed) = (None, 0);
            while lifeline.set_read_timeout(limit).is_ok() {
                let start = Instant::now();
                match lifeline.read(&mut signs) {
                    Ok(0) => return,
                    Ok(_) => (limit, missed) = (Some(SIGN_OF_LIFE), 0),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        // When this thread was late, too, it was rather the machine that stood still.
                        missed += if start.elapsed() < 2 * SIGN_OF_LIFE { LATE_COUNT } else { 1 };
                        if missed > MOST_MISSED * LATE_COUNT {
                            return supervisor.kill(watched);
                        }
                    }
                    Err(_) => return,
                }
            }
        };
        std::thread::Builder::new().name("signs of life".into()).spawn(watch).context("starting a thread")?;
        Ok(())
    }

    /// Kills the program, if this is still its process.
    fn kill(&self, process: Running) {
        let state = self.state();
        if state.running == Some(process) {
            process.signal(Signal::SIGKILL);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    fn is_stopped_within(&self, limit: Duration) -> bool {
        let mut state = self.state();
        self.0.changed.wait_while_for(&mut state, |state| !state.stopping, limit);
        state.stopping
    }

    fn is_over_within(&self, limit: Duration) -> bool {
        let mut state = self.state();
        self.0.changed.wait_while_for(&mut state, |state| !state.over, limit);
        state.over
    }
}

/// The command for a life of the program, and our end of its lifeline.
fn command(launch: &Launch) -> anyhow::Result<(Command, Option<UnixStream>)> {
    let log = File::options().create(true).append(true).open(&launch.log);
    let output = log.with_context(|| format!("opening the log {}", launch.log.display()))?;
    reserve_room(&output).with_context(|| format!("making room in the log {}", launch.log.display()))?;
    let mut command = Command::new(&launch.path);
    command.args(&launch.args).envs(&launch.environment);
    command.stderr(output.try_clone().context("duplicating a file")?).stdout(output);
    if let Some(folder) = &launch.folder {
        command.current_dir(folder);
    }
    if launch.stdin {
        return Ok((command, None));
    }
    let (ours, its) = UnixStream::pair().context("making a socket")?;
    command.stdin(Stdio::from(OwnedFd::from(its))).env(LIFELINE, WATCHED).process_group(0);
    Ok((command, Some(ours)))
}

/// Makes room behind the end of a log: a program that fails since the disk is full can still say which file it could not write.
fn reserve_room(log: &File) -> anyhow::Result<()> {
    let end = i64::try_from(log.metadata()?.len())?;
    match fallocate(log, FallocateFlags::FALLOC_FL_KEEP_SIZE, end, LOG_ROOM) {
        Err(error @ (Errno::ENOSPC | Errno::EDQUOT)) => Err(error.into()),
        // Not every file system can do it.
        _ => Ok(()),
    }
}

/// Keeps the ports at which a program has listened that is to be started again: others know them, and ports that were free when
/// it took them are free for anybody when it is dead.
fn reserve_ports(ready_file: &Path, ports: &mut BTreeMap<SocketAddr, Reserved>) {
    // A program without a whole ready file has told nobody where it listens.
    let ready = Ready::read(ready_file).ok().flatten();
    for address in ready.into_iter().flat_map(|ready| ready.addresses.into_values()) {
        // One that somebody else was quicker to take is found taken by the program, too, which says so.
        if !ports.contains_key(&address)
            && let Ok(reserved) = net::reserve(address)
        {
            ports.insert(address, reserved);
        }
    }
}

fn ended(end: &End) -> Ended {
    match end {
        End::Exited(0) => Ended::Well,
        End::Exited(code) if *code == i32::from(PANICKED) => Ended::Temporarily,
        end if end.is_temporary() => Ended::Temporarily,
        End::Signaled(_) => Ended::Killed,
        End::Exited(_) | End::Unknown(_) => Ended::Badly,
    }
}

/// When a file was last written; programs replace their ready files.
fn changed_at(path: &Path) -> Option<(u64, SystemTime)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.modified().ok()?))
}
