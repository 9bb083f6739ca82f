//! Supervises a program: starts it, watches it, and restarts it when it dies.
//!
//! The program's standard input is one end of a socket. When the supervisor is gone, however it died, the program reads the end
//! of the stream, and ends. The program sends signs of life on the socket. If these cease, because the program is stopped or
//! hangs, the supervisor kills it, and restarts it like a program that died. What the program gives the supervisor to keep, the
//! restarted program gets back; it is closed when the program has ended for good.
//!
//! [`restart`](crate::restart) decides whether and when to restart; this module acts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use crate::exit::PANICKED;
use crate::lifeline::{Incoming, KEPT, Kept, LIFELINE, MOST, Message, SIGN_OF_LIFE, WATCHED};
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

/// Signs of life that may be missing in a row; if one more is missing, the program is killed.
const MOST_MISSED: u32 = 5;
/// The weight of a missing sign; 1 if the supervisor itself was late.
const WEIGHT: u32 = 4;
/// Bytes reserved in the log for a program's last words, usually a few lines.
const LOG_ROOM: i64 = 64 << 10;
/// From this number on, a process has so many open files that nothing more is kept. It may open 1,024 by default.
const HIGH: i32 = 512;
/// How long the last messages of a program that has ended may take to be read.
const LAST_MESSAGES: Duration = Duration::from_secs(1);
/// How long a killed program may take to disappear.
const KILL_TIME: Duration = Duration::from_secs(10);

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    pub path: PathBuf,
    pub args: Vec<String>,
    /// Added to the environment of this process.
    pub environment: BTreeMap<String, String>,
    /// The program's current folder, if not this process's.
    pub folder: Option<PathBuf>,
    /// Standard output and standard error are appended to this file.
    pub log: PathBuf,
    /// The program writes this file when it is ready.
    pub ready_file: PathBuf,
    /// Whether the program is restarted when it dies.
    pub restart: bool,
    /// Whether the program gets this process's standard input instead of the socket. It then stays in the terminal's foreground
    /// group, and sends no signs of life. It must not be restarted, since the input that it has read is gone.
    pub stdin: bool,
}

/// A change in the program's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The program runs, with this process id.
    Started(u32),
    /// It died, in this way, and will be restarted.
    Died(End),
}

/// Supervises one program. Clones are handles to the same supervisor.
#[derive(Debug, Clone, Default)]
pub struct Supervisor(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The process that runs now.
    running: Option<Running>,
    /// The program is asked to end.
    stopping: bool,
    /// The program has ended for good.
    over: bool,
    /// What it has given to keep.
    kept: Vec<Kept>,
}

impl State {
    fn note(&mut self, (message, descriptors): (Message, Vec<OwnedFd>)) {
        match message {
            Message::Sign => {}
            Message::Keep(name, note) => {
                self.kept.retain(|kept| kept.name != name);
                let is_high = |descriptor: &OwnedFd| descriptor.as_raw_fd() >= HIGH;
                if self.kept.len() < MOST && !self.over && !descriptors.iter().any(is_high) {
                    self.kept.push(Kept { name, note, descriptors });
                }
            }
            Message::Forget(name) => self.kept.retain(|kept| kept.name != name),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Running {
    pid: Pid,
    /// It leads its own process group, unless it has the terminal.
    leads_group: bool,
}

impl Running {
    /// Sends a signal to the program and its process group. It has not been waited for, so the id is still its own.
    fn signal(self, signal: Signal) {
        // An error means that it has just ended.
        let _ = if self.leads_group {
            killpg(self.pid, signal)
        } else {
            nix::sys::signal::kill(self.pid, signal)
        };
    }
}

impl Supervisor {
    /// Starts the program, and restarts it whenever it dies, until it ends for good. Calls `on_event` for each change.
    ///
    /// # Errors
    /// The program cannot be started or waited for, or `on_event` failed, in which case the program has been ended.
    pub fn supervise(
        &self,
        launch: &Launch,
        mut on_event: impl FnMut(&Event) -> anyhow::Result<()>,
    ) -> anyhow::Result<End> {
        let mut restarts = Restarts::default();
        let mut ports = BTreeMap::new();
        let outcome = loop {
            let (start, ready_before) = (Instant::now(), changed_at(&launch.ready_file));
            let status = match self.run(launch, &mut on_event) {
                Ok(Some(status)) => status,
                Ok(None) => break Ok(End::Unknown("it was stopped".into())),
                Err(error) => break Err(error),
            };
            let end = End::from(status);
            let was_ready = changed_at(&launch.ready_file) != ready_before;
            let pause = restarts.next(ended(&end), was_ready, start.elapsed());
            let Some(pause) = pause.filter(|_| launch.restart) else { break Ok(end) };
            reserve_ports(&launch.ready_file, &mut ports);
            if let Err(error) = on_event(&Event::Died(end.clone())) {
                break Err(error);
            }
            if self.is_stopped_within(pause) {
                break Ok(end);
            }
        };
        let kept = {
            let mut state = self.state();
            state.over = true;
            std::mem::take(&mut state.kept)
        };
        drop(kept);
        self.0.changed.notify_all();
        outcome
    }

    /// One run of the program; `None` if it was stopped before it started.
    fn run(
        &self,
        launch: &Launch,
        on_event: &mut impl FnMut(&Event) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<ExitStatus>> {
        let context = || format!("starting {}", launch.path.display());
        let (mut command, lifeline) = command(launch).with_context(context)?;
        let (mut child, running) = {
            let mut state = self.state();
            if state.stopping {
                return Ok(None);
            }
            if let Some(lifeline) = &lifeline {
                command.env(KEPT, give_back(&state.kept, lifeline).to_string());
            }
            let child = command.spawn().with_context(context)?;
            let running = Running { pid: Pid::from_raw(child.id() as i32), leads_group: !launch.stdin };
            state.running = Some(running);
            (child, running)
        };
        // Our copies of the program's log and socket must be closed.
        drop(command);
        let watching = match &lifeline {
            Some(lifeline) => Some(self.watch(lifeline, running).with_context(context)?),
            None => None,
        };
        let handled = on_event(&Event::Started(child.id()));
        if handled.is_err() {
            running.signal(Signal::SIGKILL);
        }
        let status = self.wait(&mut child).with_context(|| format!("waiting for {}", launch.path.display()));
        // The last messages count before the next run. The socket has ended with the program, which passes it to no other.
        if let Some(watching) = watching {
            let _ = watching.recv_timeout(LAST_MESSAGES);
        }
        handled?;
        status.map(Some)
    }

    fn wait(&self, child: &mut Child) -> anyhow::Result<ExitStatus> {
        // Waiting frees the process id, so it happens under the lock under which signals are sent. To keep that short, wait here
        // without freeing the id.
        nix::sys::wait::waitid(
            nix::sys::wait::Id::Pid(Pid::from_raw(child.id() as i32)),
            nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT,
        )?;
        let mut state = self.state();
        if let Some(running) = state.running.take()
            && running.leads_group
        {
            // Kills processes that the program started and left behind.
            running.signal(Signal::SIGKILL);
        }
        Ok(child.wait()?)
    }

    /// Ends the program with SIGTERM, and with SIGKILL if it still runs after the grace. Waits until it is gone.
    ///
    /// # Errors
    /// The program does not disappear after SIGKILL.
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
        anyhow::bail!("it still runs {KILL_TIME:?} after it was killed")
    }

    /// Asks the program to end, and prevents a restart. Does not wait.
    pub fn ask_to_stop(&self) {
        let mut state = self.state();
        state.stopping = true;
        if let Some(running) = state.running {
            running.signal(Signal::SIGTERM);
            // A stopped process would not handle SIGTERM.
            running.signal(Signal::SIGCONT);
        }
        self.0.changed.notify_all();
    }

    /// Starts a thread that receives the program's signs of life, and kills the program when they cease. A program that never
    /// sends any is left alone.
    /// Returns a channel that closes when the thread has read the last message.
    fn watch(&self, lifeline: &UnixStream, watched: Running) -> anyhow::Result<Receiver<()>> {
        let lifeline = lifeline.try_clone().context("duplicating a socket")?;
        let supervisor = self.clone();
        let (reading, end) = channel::<()>();
        let watch = move || {
            let _reading = reading;
            let mut incoming = Incoming::default();
            let (mut limit, mut missed) = (None, 0);
            while lifeline.set_read_timeout(limit).is_ok() {
                let start = Instant::now();
                match incoming.receive(&lifeline) {
                    Ok(None) => return,
                    Ok(Some(messages)) => {
                        (limit, missed) = (Some(SIGN_OF_LIFE), 0);
                        let mut state = supervisor.state();
                        messages.into_iter().for_each(|message| state.note(message));
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        // If this thread was late, too, the machine rather than the program stood still.
                        missed += if start.elapsed() < 2 * SIGN_OF_LIFE { WEIGHT } else { 1 };
                        if missed > MOST_MISSED * WEIGHT {
                            return supervisor.kill(watched);
                        }
                    }
                    Err(_) => return,
                }
            }
        };
        std::thread::Builder::new().name("signs of life".into()).spawn(watch).context("starting a thread")?;
        Ok(end)
    }

    /// Kills the program if `process` is still running.
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

/// The command that starts the program, and our end of its lifeline.
fn command(launch: &Launch) -> anyhow::Result<(Command, Option<UnixStream>)> {
    let log = File::options().create(true).append(true).open(&launch.log);
    let output = log.with_context(|| format!("opening the log {}", launch.log.display()))?;
    reserve_room(&output).with_context(|| format!("reserving space for the log {}", launch.log.display()))?;
    let mut command = Command::new(&launch.path);
    command.args(&launch.args).envs(&launch.environment);
    command.stderr(output.try_clone().context("duplicating a file")?).stdout(output);
    if let Some(folder) = &launch.folder {
        command.current_dir(folder);
    }
    if launch.stdin {
        return Ok((command, None));
    }
    let (ours, its) = UnixStream::pair().context("creating a socket")?;
    command.stdin(Stdio::from(OwnedFd::from(its))).env(LIFELINE, WATCHED).process_group(0);
    Ok((command, Some(ours)))
}

/// Sends the program what its predecessor has given to keep. Returns how many things this is: if the system is short of something,
/// not all of them. The program manages without the others.
fn give_back(kept: &[Kept], lifeline: &UnixStream) -> usize {
    let is_sent = |Kept { name, note, descriptors }: &&Kept| {
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        Message::Keep(name.clone(), note.clone()).send(lifeline, &descriptors).is_ok()
    };
    kept.iter().take_while(is_sent).count()
}

/// Reserves space behind the end of a log, so that a program that fails on a full disk can still log which file it failed to
/// write.
fn reserve_room(log: &File) -> anyhow::Result<()> {
    let end = i64::try_from(log.metadata()?.len())?;
    match fallocate(log, FallocateFlags::FALLOC_FL_KEEP_SIZE, end, LOG_ROOM) {
        Err(error @ (Errno::ENOSPC | Errno::EDQUOT)) => Err(error.into()),
        // Not every file system supports this.
        _ => Ok(()),
    }
}

/// Reserves the ports of a program that will be restarted: other programs know them, and without the reservation any program
/// could take them in between.
fn reserve_ports(ready_file: &Path, ports: &mut BTreeMap<SocketAddr, Reserved>) {
    // Without a complete ready file, no other program knows the ports.
    let ready = Ready::read(ready_file).ok().flatten();
    for address in ready.into_iter().flat_map(|ready| ready.addresses.into_values()) {
        // If another program was faster, the restarted program finds the port taken, and reports that.
        if !ports.contains_key(&address)
            && let Ok(reserved) = net::reserve(address)
        {
            ports.insert(address, reserved);
        }
    }
}

fn ended(end: &End) -> Ended {
    match end {
        End::Exited(0) => Ended::Done,
        End::Exited(code) if *code == i32::from(PANICKED) => Ended::FailedTemporarily,
        end if end.is_temporary() => Ended::FailedTemporarily,
        End::Signaled(_) => Ended::Killed,
        End::Exited(_) | End::Unknown(_) => Ended::Failed,
    }
}

/// When a file was last written; programs replace their ready files.
fn changed_at(path: &Path) -> Option<(u64, SystemTime)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.modified().ok()?))
}
