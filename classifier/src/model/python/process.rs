//! A Python process, and its protocol.
//!
//! Above the Python process is a process that adopts descendants without a parent, so that all can be ended: a
//! [`guard`](super::guard), or the keeper of a fork of a [`Template`](super::template::Template). Requests and answers cross a
//! pair of sockets. Reads and writes return after [`SLICE`] at the latest. So deadlines hold whatever the process does, and even if
//! another process holds its end of the socket.
//!
//! A process under a guard waits for orders once it has loaded the model. Its supervisor keeps the sockets to it and to the guard,
//! so that it outlives this classifier, and the restarted one can [take it over](Process::take_over) and need not load the model
//! again.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use process::lifeline::{self, Kept};
use protocol::frame;
use serde::{Deserialize, Serialize};

use super::ended::{Ended, Task};
use super::log::{Doing, Log, Printed};
use super::template::{Template, send_order};
use super::{Settings, environment, tree};
use crate::model::{Contract, StartMethod};

/// The interpreter's script, which reads [`RUNNER`] from standard input.
const BOOT: &str = include_str!("boot.py");
const RUNNER: &str = concat!(include_str!("runner.py"), include_str!("typed.py"), "\n\nmain()\n");
/// How often to check a process while waiting for its answer.
const SLICE: Duration = Duration::from_millis(100);
/// A stopped process is killed after this time.
const STOPPED_TIME: Duration = Duration::from_secs(2);
/// How long to wait for the guard's report when a process has closed its socket.
const REPORT_TIME: Duration = Duration::from_secs(2);
/// How long a guard may take to end a process. The guard gives up a second earlier.
const END_TIME: Duration = Duration::from_secs(3);
/// How long to wait at least for a process that is busy with rows of an earlier classifier.
const LEAST_WAIT: Duration = Duration::from_secs(2);
/// How long a template may take to answer. It does nothing but wait for orders.
const TEMPLATE_TIME: Duration = Duration::from_secs(10);
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

/// What a classifier must know of a process that an earlier one has started.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    guard: u32,
    pid: u32,
    mark: String,
    /// How long it took to load the model.
    loading: Duration,
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

/// The wait for one answer.
struct Wait {
    limit: Duration,
    deadline: Instant,
    next_check: Instant,
    stopped_since: Option<Instant>,
}

impl Wait {
    fn new(limit: Duration) -> Self {
        let now = Instant::now();
        Self { limit, deadline: now + limit, next_check: now + SLICE, stopped_since: None }
    }
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

    /// Takes over a process that an earlier classifier has started, and that has loaded the model.
    ///
    /// # Errors
    /// It is not usable any more. It ends when the supervisor no longer keeps it.
    pub(super) fn take_over(kept: Kept, settings: &Settings, printed: Printed) -> anyhow::Result<Self> {
        let Kept { name, note, descriptors } = kept;
        let context = || format!("taking over the Python process {name}");
        let note: Note = serde_json::from_str(&note).with_context(context)?;
        let descriptors: [OwnedFd; 3] =
            descriptors.try_into().ok().context("a socket is missing").with_context(context)?;
        let [control, data, output] = descriptors;
        printed.begin(Doing::EarlierRows);
        let log = Log::start(output, printed)?;
        let above = Above::Guard { pid: note.guard, child: None };
        let (control, data) = (UnixStream::from(control), UnixStream::from(data));
        let mut process = Self::new(above, control, data, note.mark, settings.memory, log);
        process.pid = note.pid;
        process.kept = Some(name.clone());
        process.loading = Some(note.loading);
        ensure!(!process.has_ended(), "the Python process {name} has ended; loading the model again");
        Ok(process)
    }

    /// The keepers of this template's forks, which an earlier classifier has ordered.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn keepers(&mut self) -> anyhow::Result<Vec<u32>> {
        let number = std::process::id();
        let [a, b, c, d] = number.to_be_bytes();
        send_order(&self.data, [b'K', a, b, c, d], &[]).context("giving an order to a Python process")?;
        // All forks of the earlier classifier together may take more memory than one.
        let limit = std::mem::replace(&mut self.memory_limit, u64::MAX);
        let mut wait = Wait::new(TEMPLATE_TIME);
        let keepers = loop {
            let Ok(Answer::Good(answer)) = self.answer(&mut wait) else {
                bail!("the Python process that has loaded the model does not answer");
            };
            let (of, keepers): (u32, Vec<u32>) =
                serde_json::from_slice(&answer).context("parsing the ids of forks")?;
            // An earlier classifier may not have read its answer.
            if of == number {
                break keepers;
            }
        };
        self.memory_limit = limit;
        Ok(keepers)
    }

    /// Has the supervisor keep this process, which waits for orders. Its name begins with `role`, and no other process has it.
    pub(super) fn keep(&mut self, role: &str) {
        let name = format!("{role}:{}", self.pid);
        let Above::Guard { pid: guard, .. } = self.above else { return };
        let loading = self.loading.unwrap_or_else(|| self.started.elapsed());
        let note = Note { guard, pid: self.pid, mark: self.mark.clone(), loading };
        let Ok(note) = serde_json::to_string(&note) else { return };
        let kept = self.log.with_pipe(|output| {
            lifeline::keep(&name, &note, &[self.control.as_fd(), self.data.as_fd(), output])
        });
        if kept {
            self.kept = Some(name);
        }
    }

    /// Orders this process, which waits for orders, to serve rows itself. A process that was taken over may still be busy with rows
    /// of an earlier classifier; then this waits for as long as loading the model has taken.
    ///
    /// # Errors
    /// It does not begin. It must then be replaced.
    pub(super) fn serve(&mut self, settings: &Settings) -> anyhow::Result<()> {
        let (data, its_data) = sockets()?;
        send_order(&self.data, [b'S', 0, 0, 0, 0], &[its_data.as_fd()])
            .context("giving an order to a Python process")?;
        drop(its_data);
        self.data = data;
        let limit = self.loading.map_or(settings.load_timeout, |loading| loading.max(LEAST_WAIT));
        match self.answer(&mut Wait::new(limit)) {
            Ok(Answer::Good(_)) => Ok(()),
            Ok(_) => bail!("a Python process that has loaded the model does not begin"),
            Err(ended) => bail!("a Python process that has loaded the model does not begin: {ended}"),
        }
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

    /// The socket for requests and answers.
    pub(super) fn data(&self) -> &UnixStream {
        &self.data
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

    /// Classifies the batch in `request`.
    ///
    /// # Errors
    /// The reason why there is no answer. The process must then be replaced.
    pub(super) fn classify(&mut self, request: &[u8], limit: Duration) -> Result<Answer, Ended> {
        let mut wait = Wait::new(limit);
        self.send(request, &mut wait)?;
        let answer = self.answer(&mut wait)?;
        self.log.catch_up();
        Ok(answer)
    }

    fn send(&mut self, request: &[u8], wait: &mut Wait) -> Result<(), Ended> {
        let prefix = (request.len() as u32).to_be_bytes();
        for mut bytes in [&prefix, request] {
            while !bytes.is_empty() {
                match self.data.write(bytes) {
                    Ok(written) => bytes = &bytes[written..],
                    Err(error) => self.retry(&error)?,
                }
                self.check(wait)?;
            }
        }
        Ok(())
    }

    fn answer(&mut self, wait: &mut Wait) -> Result<Answer, Ended> {
        let mut prefix = [0; frame::PREFIX];
        self.read(&mut prefix, wait)?;
        let length = u32::from_be_bytes(prefix) as usize;
        if length == 0 || length > frame::PEER_LIMIT {
            return Err(Ended::Broken(format!("an answer of {length} bytes")));
        }
        // Untouched memory costs nothing, so a wrong length does no harm.
        let mut answer = vec![0; length];
        self.read(&mut answer, wait)?;
        let text = answer.split_off(1);
        match answer.first() {
            Some(b'K') => Ok(Answer::Good(text)),
            Some(b'E') => Ok(Answer::Bad(String::from_utf8_lossy(&text).into_owned())),
            Some(b'S') => Ok(Answer::BadSeeLog(String::from_utf8_lossy(&text).into_owned())),
            _ => Err(Ended::Broken("an answer of an unknown kind".to_owned())),
        }
    }

    fn read(&mut self, mut bytes: &mut [u8], wait: &mut Wait) -> Result<(), Ended> {
        while !bytes.is_empty() {
            match self.data.read(bytes) {
                Ok(0) => return Err(self.hung_up()),
                Ok(read) => bytes = &mut bytes[read..],
                Err(error) => self.retry(&error)?,
            }
            self.check(wait)?;
        }
        Ok(())
    }

    /// Ignores the timeout of a read or write after its slice. Any other error means that the process is gone.
    fn retry(&mut self, error: &std::io::Error) -> Result<(), Ended> {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(()),
            _ => Err(self.hung_up()),
        }
    }

    /// Finds the reason for a closed socket: the process has ended, or has closed the descriptor while running.
    fn hung_up(&mut self) -> Ended {
        let deadline = Instant::now() + REPORT_TIME;
        while self.ended.is_none() && Instant::now() < deadline {
            if !self.recv() {
                break;
            }
        }
        self.ended.clone().unwrap_or_else(|| {
            Ended::Broken("it has closed its connection to the classifier, as os.closerange does".to_owned())
        })
    }

    /// Checks, once per [`SLICE`], whether to keep waiting for an answer.
    fn check(&mut self, wait: &mut Wait) -> Result<(), Ended> {
        let now = Instant::now();
        if now < wait.next_check && now < wait.deadline {
            return Ok(());
        }
        wait.next_check = now + SLICE;
        self.recv_now()?;
        if now >= wait.deadline {
            return Err(Ended::TimedOut(wait.limit));
        }
        if !tree::is_stopped(self.pid) {
            wait.stopped_since = None;
        } else if now - *wait.stopped_since.get_or_insert(now) >= STOPPED_TIME {
            return Err(Ended::Stopped);
        }
        let above = match &self.above {
            Above::Guard { pid, .. } | Above::Keeper { pid, .. } => *pid,
        };
        if tree::takes_more_than(above, self.memory_limit) {
            return Err(Ended::OverMemory(self.memory_limit));
        }
        Ok(())
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

/// A pair of sockets, whose first one returns from reads and writes after [`SLICE`].
fn sockets() -> anyhow::Result<(UnixStream, UnixStream)> {
    let (ours, its) = UnixStream::pair().context("making sockets for a Python process")?;
    ours.set_read_timeout(Some(SLICE)).context("setting a socket's timeout")?;
    ours.set_write_timeout(Some(SLICE)).context("setting a socket's timeout")?;
    Ok((ours, its))
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
