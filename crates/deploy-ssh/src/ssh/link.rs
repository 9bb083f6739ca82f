//! The link to a host: a login, and the channel to its agent. A link that is lost while a job runs is looked for again,
//! since the job does not need it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use agent::protocol::{Event, Reply, Request};
use anyhow::{Context, bail, ensure};
use openssh::{Child, ChildStdin, ForwardType, Session};
use process::exit::End;
use protocol::results::Progress;

use super::channel::Channel;
use super::known::Known;
use super::{Access, REQUEST_TIME, connect, session, shell};
use crate::hosts::HostEntry;
use crate::runtime::within;
use deploy::console;

/// The pause between two tries to find a host again.
const TRY_PAUSE: Duration = Duration::from_secs(1);

/// How long a login shell may take to read its startup files and to run a first command.
const FIRST_TIME: Duration = Duration::from_secs(20);

/// The link.
pub(super) struct Link {
    pub(super) entry: HostEntry,
    access: Access,
    state: Mutex<State>,
    /// What is known of the host's programs, also while the link is lost.
    pub(super) known: Arc<Known>,
    /// Which agent, once it is commanded.
    agent: OnceLock<String>,
}

struct State {
    login: Arc<Login>,
    channel: Option<Arc<Channel>>,
    /// What locked the host, so that it can be locked again.
    lock: Option<Request>,
    /// Where its receiver is observed, if it is.
    observed: Option<String>,
    tunnel: Option<Tunnel>,
    /// Since when the link is lost and looked for, if it is.
    lost: Option<Instant>,
}

/// What connects to an address of this machine reaches one of the host's.
#[derive(Debug, Clone, Copy)]
struct Tunnel {
    here: SocketAddr,
    there: SocketAddr,
}

impl Tunnel {
    /// From the host's own port if that is free here, or else from any.
    fn to(there: SocketAddr) -> anyhow::Result<Self> {
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|free| free.local_addr());
        let here = free(there.port()).or_else(|_| free(0)).context("looking for a free port")?;
        Ok(Self { here, there })
    }
}

/// A connection that is logged in.
pub(super) struct Login {
    pub(super) session: Arc<Session>,
    /// The home folder of the user who is logged in.
    pub(super) home: String,
    /// A program that does nothing; while it runs, the connection is in use, and stays.
    _anchor: Child<Arc<Session>>,
    _anchor_stdin: Option<ChildStdin>,
}

impl Login {
    fn new(entry: &HostEntry, access: &Access) -> anyhow::Result<Self> {
        let connected = connect::connect(entry, access).and_then(|session| {
            let session = Arc::new(session);
            // The first one tells also whether the login shell runs what it is given, and where home is.
            let start = session::start(&session, "exec cat", session::Reads::PipeAfterExit);
            let anchor = within("running a first command", REQUEST_TIME, async {
                let started = tokio::time::timeout(FIRST_TIME, start).await;
                started.unwrap_or_else(|_| Err(shell::never_begun(FIRST_TIME)))
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
        // Tasks still hold the session, so that it does not end by itself. If this does not end it either, it ends when
        // nobody has used it for a while.
        let socket = self.session.control_socket();
        let _ = connect::end_connection(socket).run();
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
            known: Arc::default(),
            agent: OnceLock::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn login(&self) -> Arc<Login> {
        Arc::clone(&self.state().login)
    }

    /// Starts the agent that was shipped.
    pub(super) fn command(&self, agent: &str) -> anyhow::Result<()> {
        let channel = self.open_channel(&self.login(), agent).with_context(|| {
            format!("starting the agent on {} (cargo xtask up ships it)", self.entry.name)
        })?;
        ensure!(
            self.agent.set(agent.to_owned()).is_ok(),
            "the agent of {} is commanded already",
            self.entry.name
        );
        self.state().channel = Some(Arc::new(channel));
        Ok(())
    }

    fn open_channel(&self, login: &Login, agent: &str) -> anyhow::Result<Channel> {
        let known = Arc::clone(&self.known);
        Channel::open(&login.session, &self.entry.name, agent, move |event: Event| known.note(event))
    }

    /// Asks the agent for something.
    pub(super) fn request(&self, request: &Request, limit: Duration) -> anyhow::Result<Reply> {
        let channel = self.state().channel.clone();
        let channel = channel.context("nobody commands its agent")?;
        let reply = channel.request(request, limit)?;
        let mut state = self.state();
        match (request, &reply) {
            (Request::Lock(_), Reply::Nothing) => state.lock = Some(request.clone()),
            (Request::Observe { address }, _) => state.observed = Some(address.clone()),
            _ => {}
        }
        Ok(reply)
    }

    pub(super) fn progress(&self) -> Receiver<Progress> {
        let (sender, progress): (Sender<Progress>, _) = channel();
        self.known.observe(sender);
        progress
    }

    /// Opens a tunnel to an address of the host, which is opened again when the link was lost; gives where it begins.
    pub(super) fn open_tunnel(&self, there: SocketAddr) -> anyhow::Result<SocketAddr> {
        let login = self.login();
        let open = || {
            let tunnel = Tunnel::to(there)?;
            login.forward(tunnel).map(|()| tunnel)
        };
        // Another command may have been quicker to take the port.
        let tunnel = open().or_else(|_| open())?;
        self.state().tunnel = Some(tunnel);
        Ok(tunnel.here)
    }

    /// For how long the link has been lost, if it is. From the first time that this is asked on, it is looked for.
    pub(super) fn away(self: &Arc<Self>) -> Option<Duration> {
        let mut state = self.state();
        if let Some(since) = state.lost {
            return Some(since.elapsed());
        }
        let reason = state.channel.as_ref()?.why_lost()?;
        state.lost = Some(Instant::now());
        drop(state);
        console::note(&format!("{reason}; the job goes on, and the host is looked for"));
        let link = Arc::downgrade(self);
        let looking = std::thread::Builder::new().name("link".into()).spawn(move || find_again(&link));
        if let Err(error) = looking {
            console::note(&format!("{} cannot be looked for: starting a thread: {error}", self.entry.name));
        }
        Some(Duration::ZERO)
    }

    /// Logs in again, and takes up what was being done.
    fn restore(&self) -> anyhow::Result<()> {
        let agent = self.agent.get().context("nobody commands its agent")?;
        let login = Arc::new(Login::new(&self.entry, &self.access)?);
        let channel = self.open_channel(&login, agent)?;
        let (lock, observed) = {
            let state = self.state();
            (state.lock.clone(), state.observed.clone())
        };
        let ask = |request: &Request| {
            let reply = channel.request(request, REQUEST_TIME)?;
            // The agent that was lost has the lock until it notices.
            ensure!(reply == Reply::Nothing, "the agent answered {reply:?}");
            Ok(())
        };
        lock.iter().try_for_each(ask)?;
        for name in self.known.names() {
            if let Err(error) = ask(&Request::Watch { name: name.clone() }) {
                if channel.why_lost().is_some() {
                    return Err(error);
                }
                // Somebody has ended it meanwhile, and cleaned up.
                self.known.note(Event::Ended { name, end: End::Unknown(format!("{error:#}")) });
            }
        }
        observed.map(|address| Request::Observe { address }).iter().try_for_each(ask)?;
        let (old, tunnel) = {
            let mut state = self.state();
            state.channel = Some(Arc::new(channel));
            state.lost = None;
            (std::mem::replace(&mut state.login, Arc::clone(&login)), state.tunnel)
        };
        // What the old login still has open here ends with it.
        drop(old);
        if let Some(tunnel) = tunnel
            && let Err(error) = login.forward(tunnel)
        {
            console::note(&format!("{} leads nowhere any more: {error:#}", tunnel.here));
        }
        Ok(())
    }
}

fn find_again(link: &Weak<Link>) {
    loop {
        std::thread::sleep(TRY_PAUSE);
        let Some(link) = link.upgrade() else { return };
        // Why it does not succeed is of no interest, as long as it is tried.
        if link.restore().is_ok() {
            console::note(&format!("{} is back", link.entry.name));
            return;
        }
    }
}

/// The answer to a request that has no other than that it is done.
pub(super) fn nothing(reply: Reply) -> anyhow::Result<()> {
    match reply {
        Reply::Nothing => Ok(()),
        other => bail!("the agent answered {other:?}"),
    }
}
