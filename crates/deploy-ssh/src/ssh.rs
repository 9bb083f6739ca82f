//! A host over SSH: one multiplexed connection, for requests to its agent, scripts and files.
//!
//! OpenSSH's own client makes the connection, so that the user's configuration, keys and SSH agent apply as always.
//!
//! | module | holds |
//! |---|---|
//! | `connect` | checks that a server answers and has the right host key, and logs in |
//! | `link` | a login and the channel to the agent; both are restored when they are lost |
//! | `channel` | requests, replies and events |
//! | `programs` | the agent's reports about programs |
//! | `script`, `shell` | scripts, whatever the login shell is |
//! | `files`, `sftp` | files over SFTP |

mod channel;
mod connect;
mod files;
mod link;
mod programs;
mod script;
mod sftp;
mod shell;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use agent::protocol::{Program, Reply, Request};
use anyhow::{Context, bail, ensure};
use deploy::host::{Host, Launch, Running, arg};
use process::exit::End;
use process::ready::Ready;
use protocol::results::Progress;
use protocol::token::Token;
use tokio::io::AsyncReadExt;

use crate::inventory::HostEntry;
use crate::runtime::within;
pub use connect::{Access, NoAnswer};
pub(crate) use connect::{login_options, resolved_hostname};
use link::{Link, expect_empty};

/// Time limit for a request that takes the agent milliseconds. The client's keepalives notice a lost connection sooner.
const REQUEST_TIME: Duration = Duration::from_secs(30);
/// How long a program may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// A host that we are logged in to.
pub(crate) struct Ssh(Arc<Link>);

impl Ssh {
    /// Logs in to a host.
    ///
    /// # Errors
    /// The host does not answer as an SSH server, has another host key, or does not let us in.
    pub(crate) fn connect(entry: &HostEntry, access: &Access) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Link::new(entry, access)?)))
    }

    pub(crate) fn entry(&self) -> &HostEntry {
        &self.0.entry
    }

    /// Runs a script of the POSIX shell in the user's home folder; returns its standard output.
    ///
    /// # Errors
    /// The script fails; the error has its standard error.
    pub(crate) fn run(&self, script: &str, limit: Duration) -> anyhow::Result<String> {
        let login = self.0.login();
        let (status, stdout, stderr) =
            within(&format!("running a script on {}", self.entry().name), limit, async {
                let mut started = script::start(&login.session, script, script::Stdin::Null).await?;
                let mut stdout = Vec::new();
                started.stdout.read_to_end(&mut stdout).await.context("reading its output")?;
                let status = started.child.wait().await.context("waiting for its end")?;
                Ok((End::from(status), stdout, started.stderr.text().await))
            })?;
        let stderr: Vec<_> = stderr.lines().map(process::log::message).collect();
        ensure!(status.is_success(), "on {}: {} ({status})", self.entry().name, stderr.join("\n"));
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// Checks that the host opens enough channels at the same time, and one of them for SFTP.
    ///
    /// # Errors
    /// It does not; the error says what to change in its sshd's configuration.
    pub(crate) fn check_channels(&self) -> anyhow::Result<()> {
        let login = self.0.login();
        let all = async {
            // Besides the anchor's: the agent's, and two for scripts that follow each other closely.
            let first = script::start(&login.session, "exec cat", script::Stdin::Pipe).await?;
            let second = script::start(&login.session, "exec cat", script::Stdin::Pipe).await?;
            let files = sftp::open_sftp(&login.session).await.context("opening an SFTP channel");
            drop((first, second));
            files.map(drop)
        };
        within(&format!("opening channels on {}", self.entry().name), REQUEST_TIME, all)
    }

    /// Runs a script of the POSIX shell, and passes each line of its output to `on_line` as it arrives.
    ///
    /// # Errors
    /// The script cannot be started, or the connection is lost; or `on_line` fails, which ends the script.
    pub(crate) fn run_to(
        &self,
        script: &str,
        mut on_line: impl FnMut(String) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        channel::stream_lines(&self.0.login().session, script, &mut on_line)
            .with_context(|| format!("running a script on {}", self.entry().name))
    }

    /// Starts the agent of this build, for [`Ssh::request`].
    ///
    /// # Errors
    /// The agent was not shipped, or does not start.
    pub(crate) fn start_agent(&self, agent: &str) -> anyhow::Result<()> {
        self.0.start_agent(agent)
    }

    /// Sends a request to the agent, and waits for its reply.
    ///
    /// # Errors
    /// The agent refuses, does not reply within the limit, or is lost.
    pub(crate) fn request(&self, request: &Request, limit: Duration) -> anyhow::Result<Reply> {
        self.0.request(request, limit).with_context(|| format!("on {}", self.entry().name))
    }

    /// As [`Ssh::request`], for requests with an empty reply.
    ///
    /// # Errors
    /// As [`Ssh::request`].
    pub(crate) fn send(&self, request: &Request, limit: Duration) -> anyhow::Result<()> {
        expect_empty(self.request(request, limit)?).with_context(|| format!("on {}", self.entry().name))
    }

    /// Attaches to a program that already runs.
    ///
    /// # Errors
    /// The host has no program of this name.
    pub(crate) fn watch(&self, name: &str) -> anyhow::Result<Box<dyn Running>> {
        self.begin(name, &Request::Watch { name: name.to_owned() })
    }

    /// Sends a request after which the agent reports events of a program.
    fn begin(&self, name: &str, request: &Request) -> anyhow::Result<Box<dyn Running>> {
        self.0.programs.track(name);
        self.send(request, REQUEST_TIME).inspect_err(|_| self.0.programs.forget(name))?;
        Ok(Box::new(SshProgram { name: name.to_owned(), host: Arc::clone(&self.0), left: false }))
    }
}

impl Host for Ssh {
    fn name(&self) -> &str {
        &self.entry().name
    }

    fn address(&self) -> &str {
        self.entry().private_address()
    }

    fn has_fixed_ports(&self) -> bool {
        true
    }

    fn logs(&self) -> &Path {
        Path::new("log")
    }

    fn start(&self, launch: &Launch) -> anyhow::Result<Box<dyn Running>> {
        let program = Program {
            name: launch.name.clone(),
            path: format!("app/{}", launch.program),
            args: launch.args.clone(),
            environment: launch.environment.clone(),
            ready_file: arg(&launch.ready_file),
            restart: launch.restart,
        };
        self.begin(&launch.name, &Request::Start(program))
    }

    fn ready(&self, name: &str) -> anyhow::Result<Option<Ready>> {
        Ok(self.0.programs.ready(name))
    }

    fn observe(&self, results: &str, _token: Option<&Token>) -> anyhow::Result<Receiver<Progress>> {
        let progress = self.0.progress();
        // The agent knows the token.
        self.send(&Request::Observe { address: results.to_owned() }, REQUEST_TIME)?;
        Ok(progress)
    }

    /// Opens a tunnel, which ends with this process.
    fn reach(&self, address: SocketAddr) -> anyhow::Result<SocketAddr> {
        self.0.open_tunnel(address).with_context(|| format!("opening a tunnel to {}", self.entry().name))
    }

    fn away(&self) -> Option<Duration> {
        self.0.away()
    }
}

struct SshProgram {
    name: String,
    host: Arc<Link>,
    /// Whether it outlives this object.
    left: bool,
}

impl Running for SshProgram {
    fn try_wait(&mut self) -> anyhow::Result<Option<End>> {
        Ok(self.host.programs.end(&self.name))
    }

    fn deaths(&mut self) -> Vec<End> {
        self.host.programs.take_deaths(&self.name)
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        if self.left || self.host.programs.end(&self.name).is_some() {
            return Ok(());
        }
        let grace_ms = GRACE.as_millis() as u64;
        let request = Request::Stop { name: Some(self.name.clone()), spared: None, grace_ms };
        self.host.request(&request, REQUEST_TIME)?;
        self.left = true;
        Ok(())
    }

    fn leave(&mut self) {
        self.left = true;
    }

    fn last_lines(&self, count: usize) -> anyhow::Result<Vec<String>> {
        match self.host.request(&Request::Tail { name: self.name.clone(), lines: count }, REQUEST_TIME)? {
            Reply::Lines(lines) => Ok(lines),
            other => bail!("the agent answered {other:?} to a request for log lines"),
        }
    }

    fn log(&self) -> String {
        format!("cargo xtask logs {}", self.host.entry.name)
    }
}

impl Drop for SshProgram {
    fn drop(&mut self) {
        // Fails on a lost host. Its programs end with the others of the job, and the next command that reaches it cleans up.
        let _ = self.kill();
    }
}
