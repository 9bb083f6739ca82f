//! A Python process, and its protocol.
//!
//! Above the Python process is a process that adopts descendants without a parent, so that all can be ended: a
//! [`guard`](super::guard), or the keeper of a fork of a [`Template`](super::template::Template). Requests and answers cross a
//! pair of sockets. Reads and writes return after a tenth of a second at the latest. So deadlines hold whatever the process does, and even if
//! another process holds its end of the socket.
//!
//! | module | does |
//! |---|---|
//! | `exchange.rs` | sends requests, and awaits answers with a deadline |
//! | `handover.rs` | hands a process that has loaded the model over to a restarted classifier |

mod exchange;
mod handover;

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use process::lifeline;
use serde::Deserialize;

use super::ended::{Ended, Task};
use super::log::{Log, Printed};
use super::template::Template;
use super::{Settings, environment, tree};
use crate::model::{Contract, StartMethod};
pub(super) use exchange::Wait;
use exchange::sockets;

/// The interpreter's script, which reads [`RUNNER`] from standard input.
const BOOT: &str = include_str!("boot.py");
const RUNNER: &str = concat!(include_str!("runner.py"), include_str!("typed.py"), "\n\nmain()\n");
/// How long a guard may take to end a process. The guard gives up a second earlier.
const END_TIME: Duration = Duration::from_secs(3);
/// A variable with a unique value in a process's environment, to find the process if its guard is killed.
const MARK: &str = "CLASSIFIER_PROCESS";

/// A process's answer.
pub(super) enum Answer {
    /// The result.
    Good(Vec<u8>),
    /// The reason why there is no result.
    Bad(String),
    /// The same; the process's last output says more.
    BadSeeLog(String),
}

/// The process above a Python process.
enum Above {
    Guard {
        pid: u32,
        /// `None` if an earlier classifier has started it.
        child: Option<Child>,
    },
    /// The keeper of a fork. Its id is 0 until it has reported it.
    Keeper { pid: u32, template: Arc<Template> },
}

/// What the answer to the first request says.
#[derive(Debug, Deserialize)]
struct Loaded {
    /// The process waits for orders to fork itself, and not for rows.
    is_template: bool,
    /// Why a fork might not work.
    hazard: Option<String>,
}

/// A running interpreter.
pub(super) struct Process {
    above: Above,
    /// To the process above.
    control: UnixStream,
    /// How the process ended, as the process above reported it.
    ended: Option<Ended>,
    /// The beginning of the next line of the process above.
    partial: Vec<u8>,
    /// The ids of processes that the guard could not end.
    left: Option<String>,
    /// To the Python process: for orders until it serves rows, then for these.
    data: UnixStream,
    /// The name under which the supervisor keeps it.
    kept: Option<String>,
    /// How long an earlier classifier waited for the model; `None` if this one has started the process.
    loading: Option<Duration>,
    started: Instant,
    pid: u32,
    mark: String,
    /// In MiB.
    memory_limit: u64,
    log: Log,
    /// Whether it has been killed.
    is_over: bool,
}

impl Process {
    /// Starts the interpreter, and loads the module. Returns the process, and whether it is a template: it waits for orders to
    /// fork itself, and not for rows.
    ///
    /// # Errors
    /// When the interpreter, pandas, the module or the object is missing; says what to do.
    pub(super) fn start(
        settings: &Settings,
        method: StartMethod,
        printed: Printed,
    ) -> anyhow::Result<(Self, bool)> {
        let name = settings.interpreter.display();
        let mark = format!("{MARK}={}", unique());
        let (data, its_data) = sockets()?;
        let (control, its_control) = sockets()?;
        let mut command = Command::new(own_program()?);
        command.arg0("classifier").arg("guard").arg("--").arg(&settings.interpreter);
        // Unbuffered, so that the last lines are not lost when the process dies.
        command.args(["-u", "-c", BOOT]);
        environment::prepare(&mut command, settings);
        command.env(MARK, &mark[MARK.len() + 1..]);
        command.stdin(Stdio::from(OwnedFd::from(its_data))).stdout(Stdio::from(OwnedFd::from(its_control)));
        // A process group of its own, since signals to the classifier's group are meant for the classifier, which ends the
        // guard.
        command.stderr(Stdio::piped()).process_group(0);
        let mut guard = command.spawn().context("starting the guard of a Python process")?;
        // Closes this process's copies of the other ends of the sockets.
        drop(command);
        let printed_to = guard.stderr.take().context("the guard of a Python process has no log")?;
        let log = Log::start(printed_to.into(), printed)?;
        let above = Above::Guard { pid: guard.id(), child: Some(guard) };
        // From here on, dropping this ends the process.
        let mut process = Self::new(above, control, data, mark, settings.memory, log);
        process.wait_for_start(settings.load_timeout).with_context(|| {
            format!("starting the Python interpreter {name}; install Python 3, or choose one with --python")
        })?;
        match process.load(settings, method) {
            Ok(Answer::Good(answer)) => {
                let json = answer.get(4..).unwrap_or_default();
                let loaded: Loaded =
                    serde_json::from_slice(json).context("parsing the answer of a Python process")?;
                if let Some(hazard) = loaded.hazard {
                    tracing::info!("each worker loads the model by itself, since {hazard}");
                }
                Ok((process, loaded.is_template))
            }
            Ok(Answer::Bad(reason)) => bail!("the Python model cannot start: {reason}"),
            Ok(Answer::BadSeeLog(reason)) => {
                process.kill();
                bail!("the Python model cannot start: {reason}{}", process.log.last_lines())
            }
            Err(ended) => bail!("the Python model cannot start: {}", process.end(&ended, Task::Start)),
        }
    }

    /// A worker's process, which `template` makes by a fork of itself.
    ///
    /// # Errors
    /// When the template is gone, or cannot fork itself.
    pub(super) fn fork(
        template: &Arc<Template>,
        settings: &Settings,
        printed: Printed,
    ) -> anyhow::Result<Self> {
        let (data, its_data) = sockets()?;
        let (control, its_control) = sockets()?;
        let (printed_to, its_log) = std::io::pipe().context("making a pipe for a Python process")?;
        template.order_fork([its_data.as_fd(), its_control.as_fd(), its_log.as_fd()])?;
        // Closes this process's copies, so that the ends of these are noticed.
        drop((its_data, its_control, its_log));
        let log = Log::start(printed_to.into(), printed)?;
        let above = Above::Keeper { pid: 0, template: Arc::clone(template) };
        let mut process = Self::new(above, control, data, String::new(), settings.memory, log);
        process
            .wait_for_start(settings.load_timeout)
            .context("forking the Python process that has loaded the model")?;
        Ok(process)
    }

    fn new(
        above: Above,
        control: UnixStream,
        data: UnixStream,
        mark: String,
        memory_limit: u64,
        log: Log,
    ) -> Self {
        Self {
            above,
            control,
            ended: None,
            partial: Vec::new(),
            left: None,
            data,
            kept: None,
            loading: None,
            started: Instant::now(),
            pid: 0,
            mark,
            memory_limit,
            log,
            is_over: false,
        }
    }

    /// Whether the process has ended, as far as is known.
    pub(super) fn has_ended(&mut self) -> bool {
        self.recv_now().is_err()
    }

    fn wait_for_start(&mut self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let is_open = self.recv();
            if self.pid != 0 {
                return Ok(());
            }
            if let Some(Ended::Broken(why)) = &self.ended {
                bail!("{why}");
            }
            if !is_open || Instant::now() >= deadline {
                bail!("the process above it has not started it");
            }
        }
    }

    fn load(&mut self, settings: &Settings, method: StartMethod) -> Result<Answer, Ended> {
        let mut wait = Wait::new(settings.load_timeout);
        self.send(RUNNER.as_bytes(), &mut wait)?;
        let (object, contract) = match &settings.contract {
            Contract::Of2018(function) => (function, "2018"),
            Contract::Typed(object) => (object, "typed"),
        };
        self.send(format!("{}\0{object}\0{contract}\0{method}", settings.module).as_bytes(), &mut wait)?;
        self.answer(&mut wait)
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a request with rows, to be answered within `limit`.
    ///
    /// # Errors
    /// The reason why the process must be replaced.
    pub(super) fn send_rows(&mut self, request: &[u8], limit: Duration) -> Result<Wait, Ended> {
        let mut wait = Wait::new(limit);
        self.send(request, &mut wait)?;
        Ok(wait)
    }

    /// Waits for the answer to [`send_rows`](Self::send_rows).
    ///
    /// # Errors
    /// The reason why there is no answer. The process must then be replaced.
    pub(super) fn recv_rows(&mut self, mut wait: Wait) -> Result<Answer, Ended> {
        wait.begin_to_read();
        let answer = self.answer(&mut wait)?;
        self.log.catch_up();
        Ok(answer)
    }

    /// Handles the lines of the process above that have arrived, without waiting.
    fn recv_now(&mut self) -> Result<(), Ended> {
        // These calls do not fail on a socket that is open on this side.
        let _ = self.control.set_nonblocking(true);
        let is_open = self.recv();
        let _ = self.control.set_nonblocking(false);
        match &self.ended {
            Some(ended) => Err(ended.clone()),
            None if !is_open => Err(Ended::Unguarded),
            None => Ok(()),
        }
    }

    /// Reads and handles lines of the process above. Returns `false` when that is gone.
    fn recv(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.control.read(&mut bytes) {
            Ok(0) => {
                self.ended.get_or_insert(Ended::Unguarded);
                return false;
            }
            Ok(read) => self.partial.extend_from_slice(&bytes[..read]),
            Err(error) => {
                let is_open = matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                );
                if !is_open {
                    self.ended.get_or_insert(Ended::Unguarded);
                }
                return is_open;
            }
        }
        while let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            match line.trim_end().split_once(' ') {
                Some(("keeper", id)) => {
                    if let Above::Keeper { pid, .. } = &mut self.above {
                        *pid = id.parse().unwrap_or(0);
                    }
                }
                Some(("started", pid)) => self.pid = pid.parse().unwrap_or(0),
                Some(("ended", raw)) => {
                    let status = ExitStatus::from_raw(raw.parse().unwrap_or_default());
                    self.ended.get_or_insert(Ended::Died(status));
                }
                Some(("left", pids)) => self.left = Some(pids.to_owned()),
                Some((_, why)) => self.ended = Some(Ended::Broken(why.to_owned())),
                None => {}
            }
        }
        true
    }

    /// Ends the process. Returns the reason as a message for the user.
    pub(super) fn end(mut self, ended: &Ended, task: Task) -> String {
        self.kill();
        self.log.catch_up();
        match ended {
            Ended::TimedOut(_) => format!("{ended}{task}"),
            Ended::Died(_) | Ended::Broken(_) => format!("{ended}{}", self.log.last_lines()),
            Ended::OverMemory(_) | Ended::Stopped | Ended::Unguarded => ended.to_string(),
        }
    }

    /// Ends the process and its descendants, and waits for it, for at most [`END_TIME`].
    fn kill(&mut self) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let _ = self.data.shutdown(std::net::Shutdown::Both);
        if let Some(name) = self.kept.take() {
            lifeline::forget(&name);
        }
        match &self.above {
            Above::Guard { .. } => self.kill_by_guard(),
            Above::Keeper { pid, template } => warn_of_left(&template.end(*pid)),
        }
    }

    fn kill_by_guard(&mut self) {
        let was_unguarded = self.ended == Some(Ended::Unguarded);
        let _ = self.control.shutdown(std::net::Shutdown::Write);
        let deadline = Instant::now() + END_TIME;
        while self.recv() && Instant::now() < deadline {}
        if let Some(left) = &self.left {
            warn_of(left);
        }
        let Above::Guard { pid, child } = &mut self.above else { return };
        let runs = match child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => tree::exists(*pid),
        };
        if was_unguarded || runs && Instant::now() >= deadline {
            // The guard may be stopped. It has the mark, too.
            if let Some(child) = child {
                let _ = child.kill();
            }
            tree::end_marked(&self.mark);
        }
        // The guard was killed, or has closed its socket and is ending.
        if let Some(child) = child {
            let _ = child.wait();
        }
    }
}

pub(super) fn warn_of_left(left: &[u32]) {
    let left: Vec<_> = left.iter().map(u32::to_string).collect();
    if !left.is_empty() {
        warn_of(&left.join(" "));
    }
}

fn warn_of(left: &str) {
    tracing::warn!(
        "the processes {left} were killed and have not ended yet; continuing without waiting for them"
    );
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// This program, even if its file has been replaced by a newer build.
fn own_program() -> anyhow::Result<std::path::PathBuf> {
    let running = std::path::Path::new("/proc/self/exe");
    match running.exists() {
        true => Ok(running.to_owned()),
        false => std::env::current_exe().context("looking for this program's file"),
    }
}

fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{count}-{}", std::process::id(), now.as_nanos())
}
