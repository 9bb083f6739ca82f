//! Hosts over SSH: one multiplexed connection each, over which a supervisor is commanded and files are shipped.
//!
//! OpenSSH's own client makes the connections, so that the user's configuration, keys and agent count as always.

mod channel;
mod connect;
mod files;

use std::path::Path;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use openssh::{Child, Session, Stdio};
use supervisor::protocol::{Program, Reply, Request};
use wire::program::Ready;
use wire::results::Progress;
use wire::token::Token;

use super::{End, Host, Launch, Running, arg};
use crate::hosts::HostEntry;
use crate::runtime::within;
use channel::Channel;
pub(crate) use connect::{Access, known_hosts_options, real_hostname};

/// How long a short request may take: what it does takes milliseconds, and a connection that is lost is noticed
/// before.
const REQUEST_TIME: Duration = Duration::from_secs(30);
/// How long a program may take to end in order, before it is ended by force.
const GRACE: Duration = Duration::from_secs(2);

/// A host that we are logged in to.
pub(crate) struct Ssh {
    entry: HostEntry,
    session: Arc<Session>,
    /// A program that does nothing; while it runs, the connection is in use, and stays.
    _anchor: Child<Arc<Session>>,
    /// To its supervisor, once somebody commands that.
    channel: OnceLock<Arc<Channel>>,
}

impl Ssh {
    /// Connects: the host answers as an SSH server, shows the right key, and lets us in.
    ///
    /// # Errors
    /// Names the host, and which of these is not so.
    pub(crate) fn connect(entry: &HostEntry, access: &Access) -> anyhow::Result<Self> {
        let connected = connect::connect(entry, access).and_then(|session| {
            let session = Arc::new(session);
            let anchor = within("starting a program", REQUEST_TIME, async {
                let mut anchor = Arc::clone(&session).arc_command("cat");
                anchor.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
                Ok(anchor.spawn().await?)
            })?;
            Ok((session, anchor))
        });
        let (session, anchor) =
            connected.with_context(|| format!("connecting to {} ({})", entry.name, entry.address))?;
        Ok(Self { entry: entry.clone(), session, _anchor: anchor, channel: OnceLock::new() })
    }

    /// The host, as the user describes it.
    pub(crate) fn entry(&self) -> &HostEntry {
        &self.entry
    }

    /// Runs a script of the POSIX shell, and gives what it prints.
    ///
    /// # Errors
    /// A script that fails, with what it says about that.
    pub(crate) fn run(&self, script: &str, limit: Duration) -> anyhow::Result<String> {
        let output = within(&format!("running a script on {}", self.entry.name), limit, async {
            let mut command = self.session.command("sh");
            Ok(command.arg("-c").arg(script).stdin(Stdio::null()).output().await?)
        })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("on {}: {} ({})", self.entry.name, said.trim(), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a script of the POSIX shell that prints to where this command prints, until it ends.
    ///
    /// # Errors
    /// When it cannot be started, or the connection is lost.
    pub(crate) fn run_to(&self, script: &str, mut line: impl FnMut(String)) -> anyhow::Result<()> {
        channel::lines_of(&self.session, script, &mut line)
            .with_context(|| format!("running a script on {}", self.entry.name))
    }

    /// Starts the supervisor that was shipped, to command the host with [`Ssh::request`].
    ///
    /// # Errors
    /// A supervisor that is not there or does not start.
    pub(crate) fn command(&self, supervisor: &str) -> anyhow::Result<()> {
        let channel = Channel::open(&self.session, &self.entry.name, supervisor).with_context(|| {
            format!("starting the supervisor on {} (cargo xtask up ships it)", self.entry.name)
        })?;
        ensure!(
            self.channel.set(Arc::new(channel)).is_ok(),
            "the supervisor of {} is commanded already",
            self.entry.name
        );
        Ok(())
    }

    /// Asks the supervisor for something.
    ///
    /// # Errors
    /// When it cannot do that, or is lost; names the host.
    pub(crate) fn request(&self, request: &Request, limit: Duration) -> anyhow::Result<Reply> {
        let asked = self.channel().and_then(|channel| channel.request(request, limit));
        asked.with_context(|| format!("on {}", self.entry.name))
    }

    /// Tells the supervisor to do something that has no other answer than that it is done.
    ///
    /// # Errors
    /// As [`Ssh::request`].
    pub(crate) fn tell(&self, request: &Request, limit: Duration) -> anyhow::Result<()> {
        match self.request(request, limit)? {
            Reply::Nothing => Ok(()),
            other => bail!("on {}: the supervisor answered {other:?}", self.entry.name),
        }
    }

    fn channel(&self) -> anyhow::Result<&Arc<Channel>> {
        self.channel.get().context("nobody commands its supervisor")
    }
}

impl Host for Ssh {
    fn name(&self) -> &str {
        &self.entry.name
    }

    fn address(&self) -> &str {
        self.entry.private_address()
    }

    fn has_fixed_ports(&self) -> bool {
        true
    }

    fn start(&self, launch: &Launch) -> anyhow::Result<Box<dyn Running>> {
        let channel = self.channel()?;
        channel.expect(&launch.name);
        let program = Program {
            name: launch.name.clone(),
            path: format!("app/{}", launch.program),
            args: launch.args.clone(),
            environment: launch.environment.clone(),
            ready_file: arg(&launch.ready_file),
            restart: launch.restart,
        };
        self.tell(&Request::Start(program), REQUEST_TIME)?;
        let (host, name) = (self.entry.name.clone(), launch.name.clone());
        Ok(Box::new(SshProgram { host, name, channel: Arc::clone(channel), ended: false }))
    }

    fn ready(&self, launch: &Launch) -> anyhow::Result<Option<Ready>> {
        self.channel()?.ready(&launch.name)
    }

    fn observe(&self, results: &str, _token: &Token) -> anyhow::Result<Receiver<Progress>> {
        let progress = self.channel()?.progress();
        // The supervisor knows the token.
        self.tell(&Request::Observe { address: results.to_owned() }, REQUEST_TIME)?;
        Ok(progress)
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        // Tasks still hold the session, so that it does not end by itself. If this does not end it either, it ends when
        // nobody has used it for a while.
        let socket = self.session.control_socket();
        let _ = duct::cmd!("ssh", "-S", socket, "-O", "exit", &self.entry.address)
            .stdin_null()
            .stdout_null()
            .stderr_null()
            .unchecked()
            .run();
        let _ = socket.parent().map(std::fs::remove_dir_all);
    }
}

/// A program on such a host.
struct SshProgram {
    host: String,
    name: String,
    channel: Arc<Channel>,
    ended: bool,
}

impl Running for SshProgram {
    fn try_wait(&mut self) -> anyhow::Result<Option<End>> {
        let end = self.channel.end(&self.name).with_context(|| format!("{} on {}", self.name, self.host))?;
        self.ended |= end.is_some();
        Ok(end)
    }

    fn deaths(&mut self) -> Vec<String> {
        self.channel.deaths(&self.name)
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        if self.ended {
            return Ok(());
        }
        let request = Request::Stop { name: Some(self.name.clone()), grace_ms: GRACE.as_millis() as u64 };
        self.channel.request(&request, REQUEST_TIME)?;
        self.ended = true;
        Ok(())
    }

    fn last_lines(&self, count: usize) -> anyhow::Result<Vec<String>> {
        match self.channel.request(&Request::Tail { name: self.name.clone(), lines: count }, REQUEST_TIME)? {
            Reply::Lines(lines) => Ok(lines),
            other => bail!("the supervisor answered {other:?}"),
        }
    }

    fn log(&self) -> String {
        format!("cargo xtask logs {}", self.host)
    }
}

impl Drop for SshProgram {
    fn drop(&mut self) {
        // A host that is lost cannot be told; its programs end when the others of the job do, and the next command
        // that reaches it cleans up.
        let _ = self.kill();
    }
}

/// A path as the remote side knows it.
fn remote(path: &Path) -> String {
    format!("{}/{}", supervisor::protocol::FOLDER, path.display())
}
