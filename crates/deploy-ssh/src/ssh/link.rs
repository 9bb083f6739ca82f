//! The link to a host: a login, and the channel to its agent. A job continues without it, so a link that is lost is restored
//! in the background.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use agent::protocol::{Event, Reply, Request};
use anyhow::{Context, bail, ensure};
use deploy::console;
use openssh::{Child, ChildStdin, ForwardType, Session};
use parking_lot::Mutex;
use process::exit::End;
use protocol::results::Progress;

use super::channel::Channel;
use super::programs::Programs;
use super::{Access, REQUEST_TIME, connect, script, shell};
use crate::control_socket;
use crate::inventory::HostEntry;
use crate::runtime::within;

/// The pause between two tries to restore a link.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long a login shell may take to read its startup files and to run a first command.
const FIRST_TIME: Duration = Duration::from_secs(20);

pub(super) struct Link {
    pub(super) entry: HostEntry,
    access: Access,
    state: Mutex<State>,
    /// It outlives a lost link.
    pub(super) programs: Arc<Programs>,
    /// The agent's build, once it is started.
    agent: OnceLock<String>,
}

struct State {
    login: Arc<Login>,
    channel: Option<Arc<Channel>>,
    /// The request that locked the host, to lock it again.
    lock: Option<Request>,
    /// The address of the receiver that is observed.
    observed: Option<String>,
    tunnel: Option<Tunnel>,
    /// Since when the link has been lost.
    lost: Option<Instant>,
}

/// A tunnel from an address of this machine to one of the host's.
#[derive(Debug, Clone, Copy)]
struct Tunnel {
    here: SocketAddr,
    there: SocketAddr,
}

impl Tunnel {
    /// From the same port if that is free here, else from any.
    fn to(there: SocketAddr) -> anyhow::Result<Self> {
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|free| free.local_addr());
        let here = free(there.port()).or_else(|_| free(0)).context("looking for a free port")?;
        Ok(Self { here, there })
    }
}

/// A connection that is logged in.
pub(super) struct Login {
    pub(super) session: Arc<Session>,
    /// The user's home folder.
    pub(super) home: String,
    /// A program that does nothing. While it runs, the connection is in use and stays open.
    _anchor: Child<Arc<Session>>,
    _anchor_stdin: Option<ChildStdin>,
}

impl Login {
    fn new(entry: &HostEntry, access: &Access) -> anyhow::Result<Self> {
        let connected = connect::connect(entry, access).and_then(|session| {
            let session = Arc::new(session);
            // The first script also shows whether the login shell runs scripts, and where the home folder is.
            let start = script::start(&session, "exec cat", script::Stdin::PipeAfterExit);
            let anchor = within("running a first command", REQUEST_TIME, async {
                let started = tokio::time::timeout(FIRST_TIME, start).await;
                started.unwrap_or_else(|_| Err(shell::timed_out(FIRST_TIME)))
            })?;
            Ok((session, anchor))
        });
        let (session, anchor) =
            connected.with_context(|| format!("connecting to {} ({})", entry.name, entry.address))?;
        Ok(Self { session, home: anchor.home, _anchor: anchor.child, _anchor_stdin: anchor.stdin })
    }

    fn forward(&self, tunnel: Tunnel) -> anyhow::Result<()> {
        within("opening a tunnel", REQUEST_TIME, async {
            let forward = ForwardType::Local;
            Ok(self.session.request_port_forward(forward, tunnel.here, tunnel.there).await?)
        })
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        // Tasks still hold the session, so it must be closed explicitly. If that fails, it ends after `connect::IDLE_SECONDS`.
        let socket = self.session.control_socket();
        let _ = control_socket::end(socket).run();
        let _ = socket.parent().map(std::fs::remove_dir_all);
    }
}

impl Link {
    pub(super) fn new(entry: &HostEntry, access: &Access) -> anyhow::Result<Self> {
        let login = Arc::new(Login::new(entry, access)?);
        let state = State { login, channel: None, lock: None, observed: None, tunnel: None, lost: None };
        Ok(Self {
            entry: entry.clone(),
            access: access.clone(),
            state: Mutex::new(state),
            programs: Arc::default(),
            agent: OnceLock::new(),
        })
    }

    pub(super) fn login(&self) -> Arc<Login> {
        Arc::clone(&self.state.lock().login)
    }

    pub(super) fn start_agent(&self, agent: &str) -> anyhow::Result<()> {
        let channel = self.open_channel(&self.login(), agent).with_context(|| {
            format!("starting the agent on {} (cargo xtask up ships it)", self.entry.name)
        })?;
        ensure!(
            self.agent.set(agent.to_owned()).is_ok(),
            "the agent of {} is already started",
            self.entry.name
        );
        self.state.lock().channel = Some(Arc::new(channel));
        Ok(())
    }

    fn open_channel(&self, login: &Login, agent: &str) -> anyhow::Result<Channel> {
        let programs = Arc::clone(&self.programs);
        Channel::open(&login.session, &self.entry.name, agent, move |event: Event| programs.on_event(event))
    }

    /// Sends a request to the agent, and waits for its reply. Remembers what must be repeated when the link is restored.
    pub(super) fn request(&self, request: &Request, limit: Duration) -> anyhow::Result<Reply> {
        let channel = self.state.lock().channel.clone();
        let channel = channel.context("its agent is not started")?;
        let reply = channel.request(request, limit)?;
        let mut state = self.state.lock();
        match (request, &reply) {
            (Request::Lock(_), Reply::Empty) => state.lock = Some(request.clone()),
            (Request::Observe { address }, _) => state.observed = Some(address.clone()),
            _ => {}
        }
        Ok(reply)
    }

    pub(super) fn progress(&self) -> Receiver<Progress> {
        let (sender, progress): (Sender<Progress>, _) = channel();
        self.programs.observe(sender);
        progress
    }

    /// Opens a tunnel to an address of the host; returns its address on this machine. A restored link opens it again.
    pub(super) fn open_tunnel(&self, there: SocketAddr) -> anyhow::Result<SocketAddr> {
        let login = self.login();
        let open = || {
            let tunnel = Tunnel::to(there)?;
            login.forward(tunnel).map(|()| tunnel)
        };
        // Another process may take the port first.
        let tunnel = open().or_else(|_| open())?;
        self.state.lock().tunnel = Some(tunnel);
        Ok(tunnel.here)
    }

    /// For how long the link has been lost; `None` while it is not. The first call that finds it lost starts to restore it.
    pub(super) fn away(self: &Arc<Self>) -> Option<Duration> {
        let mut state = self.state.lock();
        if let Some(since) = state.lost {
            return Some(since.elapsed());
        }
        let reason = state.channel.as_ref()?.why_lost()?;
        state.lost = Some(Instant::now());
        drop(state);
        console::note(&format!("{reason}; the job continues, and the connection is being restored"));
        let link = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("link".into()).spawn(move || restore(&link));
        if let Err(error) = thread {
            console::note(&format!("the link to {} stays lost: starting a thread: {error}", self.entry.name));
        }
        Some(Duration::ZERO)
    }

    /// Logs in again, and repeats lock, watches, observation and tunnel.
    fn try_restore(&self) -> anyhow::Result<()> {
        let agent = self.agent.get().context("its agent is not started")?;
        let login = Arc::new(Login::new(&self.entry, &self.access)?);
        let channel = self.open_channel(&login, agent)?;
        let (lock, observed) = {
            let state = self.state.lock();
            (state.lock.clone(), state.observed.clone())
        };
        let send = |request: &Request| {
            // A lock may be refused: the lost agent keeps it until it notices that it is lost.
            expect_empty(channel.request(request, REQUEST_TIME)?)
        };
        lock.iter().try_for_each(send)?;
        for name in self.programs.running() {
            if let Err(error) = send(&Request::Watch { name: name.clone() }) {
                if channel.why_lost().is_some() {
                    return Err(error);
                }
                // Another command ended it meanwhile, and removed its records.
                self.programs.on_event(Event::Ended { name, end: End::Unknown(format!("{error:#}")) });
            }
        }
        observed.map(|address| Request::Observe { address }).iter().try_for_each(send)?;
        let (old, tunnel) = {
            let mut state = self.state.lock();
            state.channel = Some(Arc::new(channel));
            state.lost = None;
            (std::mem::replace(&mut state.login, Arc::clone(&login)), state.tunnel)
        };
        // Frees the tunnel's port on this machine.
        drop(old);
        if let Some(tunnel) = tunnel
            && let Err(error) = login.forward(tunnel)
        {
            console::note(&format!("the tunnel from {} is closed: {error:#}", tunnel.here));
        }
        Ok(())
    }
}

/// Tries to restore a link until it succeeds, or the link is dropped.
fn restore(link: &Weak<Link>) {
    loop {
        std::thread::sleep(RETRY_PAUSE);
        let Some(link) = link.upgrade() else { return };
        // Errors are not shown, since this tries again.
        if link.try_restore().is_ok() {
            console::note(&format!("{} is back", link.entry.name));
            return;
        }
    }
}

pub(super) fn expect_empty(reply: Reply) -> anyhow::Result<()> {
    match reply {
        Reply::Empty => Ok(()),
        other => bail!("the agent answered {other:?}"),
    }
}
