//! Hosts over SSH: one multiplexed connection each, over which an agent is commanded and files are shipped.
//!
//! OpenSSH's own client makes the connections, so that the user's configuration, keys and agent count as always.

mod channel;
mod connect;
mod files;
mod known;
mod link;
mod session;
mod sftp;
mod shell;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use agent::protocol::{Program, Reply, Request};
use anyhow::{Context, bail, ensure};
use process::exit::End;
use process::ready::Ready;
use protocol::results::Progress;
use protocol::token::Token;
use tokio::io::AsyncReadExt;

use crate::hosts::HostEntry;
use crate::runtime::within;
pub use connect::{Access, NoAnswer, end_connections, login_options, real_hostname};
use deploy::host::{Host, Launch, Running, arg};
use link::{Link, nothing};

/// How long a short request may take: what it does takes milliseconds, and a connection that is lost is noticed
/// before.
const REQUEST_TIME: Duration = Duration::from_secs(30);
/// How long a program may take to end in order, before it is ended by force.
const GRACE: Duration = Duration::from_secs(2);

/// A host that we are logged in to.
pub struct Ssh(Arc<Link>);

impl Ssh {
    /// Connects: the host answers as an SSH server, shows the right key, and lets us in.
    ///
    /// # Errors
    /// Names the host, and which of these is not so.
    pub fn connect(entry: &HostEntry, access: &Access) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Link::new(entry, access)?)))
    }

    /// The host, as the user describes it.
    pub fn entry(&self) -> &HostEntry {
        &self.0.entry
    }

    /// Runs a script of the POSIX shell, and gives what it prints.
    ///
    /// # Errors
    /// A script that fails, with what it says about that.
    pub fn run(&self, script: &str, limit: Duration) -> anyhow::Result<String> {
        let login = self.0.login();
        let (status, printed, said) =
            within(&format!("running a script on {}", self.entry().name), limit, async {
                let mut started = session::start(&login.session, script, session::Reads::Nothing).await?;
                let mut printed = Vec::new();
                started.printed.read_to_end(&mut printed).await.context("reading what it prints")?;
                let status = started.child.wait().await.context("waiting for its end")?;
                Ok((End::from(status), printed, started.words.said().await))
            })?;
        let said: Vec<_> = said.lines().map(process::log::message).collect();
        ensure!(status.is_success(), "on {}: {} ({status})", self.entry().name, said.join("\n"));
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }

    /// Whether the host opens as many channels at the same time as are needed, and one of them for files.
    ///
    /// # Errors
    /// Names the host, and says what it needs.
    pub fn check_channels(&self) -> anyhow::Result<()> {
        let login = self.0.login();
        let all = async {
            // Besides the one that keeps the connection: the agent's, and two that follow each other closely.
            let first = session::start(&login.session, "exec cat", session::Reads::Pipe).await?;
            let second = session::start(&login.session, "exec cat", session::Reads::Pipe).await?;
            let files = sftp::open_sftp(&login.session).await.context("opening an SFTP channel");
            drop((first, second));
            files.map(drop)
        };
        within(&format!("opening channels on {}", self.entry().name), REQUEST_TIME, all)
    }

    /// Runs a script of the POSIX shell, and passes its lines on as they come, until it ends.
    ///
    /// # Errors
    /// When it cannot be started, or the connection is lost; or that of `line`, after which no more is passed on.
    pub fn run_to(
        &self,
        script: &str,
        mut line: impl FnMut(String) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        channel::lines_of(&self.0.login().session, script, &mut line)
            .with_context(|| format!("running a script on {}", self.entry().name))
    }

    /// Starts the agent that was shipped, to command the host with [`Ssh::request`].
    ///
    /// # Errors
    /// An agent that is not there or does not start.
    pub fn command(&self, agent: &str) -> anyhow::Result<()> {
        self.0.command(agent)
    }

    /// Asks the agent for something.
    ///
    /// # Errors
    /// When it cannot do that, or is lost; names the host.
    pub fn request(&self, request: &Request, limit: Duration) -> anyhow::Result<Reply> {
        self.0.request(request, limit).with_context(|| format!("on {}", self.entry().name))
    }

    /// Tells the agent to do something that has no other answer than that it is done.
    ///
    /// # Errors
    /// As [`Ssh::request`].
    pub fn tell(&self, request: &Request, limit: Duration) -> anyhow::Result<()> {
        nothing(self.request(request, limit)?).with_context(|| format!("on {}", self.entry().name))
    }

    /// A program that is there already, as one that was started.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn watch(&self, name: &str) -> anyhow::Result<Box<dyn Running>> {
        self.begin(name, &Request::Watch { name: name.to_owned() })
    }

    /// Makes a request with which the agent begins to tell of a program.
    fn begin(&self, name: &str, request: &Request) -> anyhow::Result<Box<dyn Running>> {
        self.0.known.expect(name);
        self.tell(request, REQUEST_TIME).inspect_err(|_| self.0.known.forget(name))?;
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
        Ok(self.0.known.ready(name))
    }

    fn observe(&self, results: &str, _token: Option<&Token>) -> anyhow::Result<Receiver<Progress>> {
        let progress = self.0.progress();
        // The agent knows the token.
        self.tell(&Request::Observe { address: results.to_owned() }, REQUEST_TIME)?;
        Ok(progress)
    }

    /// Through a tunnel, which ends with this process.
    fn reach(&self, address: SocketAddr) -> anyhow::Result<SocketAddr> {
        self.0.open_tunnel(address).with_context(|| format!("opening a tunnel to {}", self.entry().name))
    }

    fn away(&self) -> Option<Duration> {
        self.0.away()
    }
}

/// A program on such a host.
struct SshProgram {
    name: String,
    host: Arc<Link>,
    /// It is nobody's business here any more.
    left: bool,
}

impl Running for SshProgram {
    fn try_wait(&mut self) -> anyhow::Result<Option<End>> {
        Ok(self.host.known.end(&self.name))
    }

    fn deaths(&mut self) -> Vec<End> {
        self.host.known.deaths(&self.name)
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        if self.left || self.host.known.end(&self.name).is_some() {
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
            other => bail!("the agent answered {other:?}"),
        }
    }

    fn log(&self) -> String {
        format!("cargo xtask logs {}", self.host.entry.name)
    }
}

impl Drop for SshProgram {
    fn drop(&mut self) {
        // A host that is lost cannot be told; its programs end when the others of the job do, and the next command
        // that reaches it cleans up.
        let _ = self.kill();
    }
}
