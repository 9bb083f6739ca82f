//! The commands that a job consists of, each a process of its own.

use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use deploy::request::Request;
use deploy::{console, exit, interrupt, step};

/// How often a step's process is polled.
const PAUSE: Duration = Duration::from_millis(20);

/// A step that has failed.
#[derive(Debug, thiserror::Error)]
#[error("cargo xtask {name} {how}")]
pub(super) struct Failed {
    name: &'static str,
    code: Option<i32>,
    how: String,
    /// Whether the user had interrupted by then.
    was_interrupted: bool,
}

impl Failed {
    /// A step that was not started, because the user had interrupted.
    pub(super) fn interrupted(name: &'static str) -> Self {
        Self::new(name, None, "was interrupted".to_owned())
    }

    fn new(name: &'static str, code: Option<i32>, how: String) -> Self {
        Self { name, code, how, was_interrupted: interrupt::is_wanted() }
    }

    pub(super) fn was_interrupted(&self) -> bool {
        self.was_interrupted
    }

    pub(super) fn step(&self) -> &'static str {
        self.name
    }

    /// An error with the right exit code: that of a job that was refused, or met another one.
    pub(super) fn into_error(self) -> anyhow::Error {
        match self.name {
            _ if self.met_another_job() => exit::busy(self.into()),
            "run-cluster" if self.is(exit::REFUSED) => exit::refused(self.into()),
            _ => self.into(),
        }
    }

    /// Whether another job or command uses the hosts, and must not be disturbed.
    pub(super) fn met_another_job(&self) -> bool {
        ["up", "run-cluster"].contains(&self.name) && self.is(exit::BUSY)
    }

    pub(super) fn is(&self, code: u8) -> bool {
        self.code == Some(i32::from(code))
    }
}

/// A command to run.
pub(super) struct Step {
    name: &'static str,
    request: Request,
    /// Whether the hosts are destroyed at the end of the job.
    hosts_go: bool,
    /// The interruptions by the user that are passed on to it, by number; it continues after others.
    asked_at: Range<usize>,
    /// How long it may take to end then, before it is killed.
    grace: Duration,
    limit: Option<Limit>,
    /// How many interruptions came before this step; by default, those until it is started.
    since: Option<usize>,
}

/// A time at which a step that still runs is ended.
#[derive(Clone)]
pub(super) struct Limit {
    pub(super) at: SystemTime,
    /// A text for users.
    pub(super) reason: String,
}

impl Step {
    pub(super) fn new(name: &'static str, request: Request, hosts_go: bool) -> Self {
        Self { name, request, hosts_go, asked_at: 0..0, grace: Duration::MAX, limit: None, since: None }
    }

    pub(super) fn asked_at(mut self, times: Range<usize>, grace: Duration) -> Self {
        (self.asked_at, self.grace) = (times, grace);
        self
    }

    pub(super) fn since(mut self, times: usize) -> Self {
        self.since = Some(times);
        self
    }

    pub(super) fn until(mut self, limit: Limit) -> Self {
        self.limit = Some(limit);
        self
    }
}

/// Runs steps.
pub(super) struct Steps {
    /// The number of the user's interruption at which a step is killed.
    pub(super) kill_at: usize,
}

impl Steps {
    pub(super) fn run(&self, step: &Step) -> Result<(), Failed> {
        let name = step.name;
        let (code, how) = match self.try_run(step) {
            Ok((status, _)) if status.success() => return Ok(()),
            Ok((_, Some(Limit { reason, .. }))) => (None, format!("was ended: {reason}")),
            Ok((status, None)) => (status.code(), format!("ended with {status}")),
            Err(error) => (None, format!("{error:#}")),
        };
        Err(Failed::new(name, code, how))
    }

    fn start(step: &Step) -> anyhow::Result<Child> {
        console::echo(&format!("cargo xtask {}", step.name));
        let me = std::env::current_exe().context("finding this program's file")?;
        let mut command = Command::new(me);
        command.arg(step.request.to_arg()?);
        if step.hosts_go {
            command.env(step::HOSTS_GO, "1");
        }
        // In a process group of its own: only this process passes interruptions on to it.
        command.env(process::lifeline::LIFELINE, "1").stdin(Stdio::piped()).process_group(0);
        command.spawn().with_context(|| format!("starting cargo xtask {}", step.name))
    }

    /// Returns how the command ended, and the limit if that is why.
    fn try_run(&self, step: &Step) -> anyhow::Result<(ExitStatus, Option<Limit>)> {
        // Earlier interruptions are the reason for this step, and are not passed on.
        let mut handled = step.since.unwrap_or_else(interrupt::times);
        let mut child = Self::start(step)?;
        let pid = Pid::from_raw(child.id() as i32);
        // A process that has just ended needs no signal.
        let signal = |pid, signal| {
            let _ = kill(pid, signal);
        };
        let ask = || signal(pid, Signal::SIGINT);
        let end = || signal(Pid::from_raw(-pid.as_raw()), Signal::SIGKILL);
        let mut asked: Option<Instant> = None;
        let mut over: Option<Limit> = None;
        loop {
            let waited = child.try_wait().with_context(|| format!("waiting for cargo xtask {}", step.name));
            if let Some(status) = waited? {
                return Ok((status, over));
            }
            let times = interrupt::times();
            for time in handled + 1..=times {
                if time >= self.kill_at {
                    end();
                } else if step.asked_at.contains(&time) {
                    ask();
                    asked = Some(Instant::now());
                } else {
                    console::note(&format!(
                        "continuing, so that nothing you pay for is left ({} more Ctrl-C: the stack is left to its time to \
                         live)",
                        self.kill_at - time
                    ));
                }
            }
            handled = handled.max(times);
            if let Some(limit) =
                step.limit.as_ref().filter(|limit| over.is_none() && SystemTime::now() >= limit.at)
            {
                console::note(&format!("ending cargo xtask {}: {}", step.name, limit.reason));
                ask();
                asked = Some(Instant::now());
                over = Some(limit.clone());
            }
            if asked.is_some_and(|asked| asked.elapsed() >= step.grace) {
                end();
            }
            std::thread::sleep(PAUSE);
        }
    }
}
