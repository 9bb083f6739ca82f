//! Logs in: checks that an SSH server answers, pins its host key, and has ssh open a shared connection.

use std::fmt;
use std::io::{ErrorKind, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use openssh::Session;

use crate::control_socket;
use crate::inventory::HostEntry;
use crate::runtime::within;
use crate::scratch;

/// How long a host may take to identify itself as an SSH server.
const BANNER_TIME: Duration = Duration::from_secs(10);
/// How long a login may take.
const LOGIN_TIME: Duration = Duration::from_secs(20);
/// How often ssh sends a keepalive.
const ALIVE_INTERVAL: Duration = Duration::from_secs(4);
/// How many keepalives in a row may stay unanswered before the connection counts as lost.
const ALIVE_COUNT: u32 = 3;
/// When an unused connection ends, if this command was killed and could not close it.
const IDLE_SECONDS: u32 = 10;

/// The host does not answer at all: a firewall drops what it is sent, or it is off.
#[derive(Debug)]
pub struct NoAnswer;

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no answer")
    }
}

impl std::error::Error for NoAnswer {}

/// What a login needs besides the host.
#[derive(Debug, Clone)]
pub struct Access {
    /// An SSH configuration in place of the user's.
    pub config: Option<PathBuf>,
    /// The folder for the keys of hosts with a fingerprint.
    pub known_hosts: PathBuf,
}

impl Access {
    /// The file for the key of a host with a fingerprint.
    fn known_hosts_file(&self, host: &HostEntry) -> PathBuf {
        self.known_hosts.join(format!("{}.known_hosts", host.name))
    }
}

/// ssh's options for which host keys to trust.
fn known_hosts_options(host: &HostEntry, access: &Access) -> Vec<String> {
    let mut options = vec!["-o".to_owned(), "StrictHostKeyChecking=yes".to_owned()];
    if host.fingerprint.is_some() {
        let file = quoted(&access.known_hosts_file(host));
        options.extend(["-o".to_owned(), format!("UserKnownHostsFile={file}")]);
    }
    options
}

/// Quotes a path for an option that may be a list of paths.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('%', "%%"))
}

pub(super) fn connect(host: &HostEntry, access: &Access) -> anyhow::Result<Session> {
    let destination = Destination::of(host, access.config.as_deref())?;
    if destination.is_direct {
        await_banner(&destination)?;
    }
    if let Some(fingerprint) = &host.fingerprint {
        pin(&destination, fingerprint, &access.known_hosts_file(host))?;
    }
    let folder = scratch::socket_folder()?;
    let (socket, log) = (folder.join(control_socket::NAME), folder.join("log"));
    let mut command = tokio::process::Command::new("ssh");
    command.args(["-M", "-f", "-N", "-T", "-S"]).arg(&socket).arg("-E").arg(&log);
    command.args(master_options()).args(login_options(host, access)).arg("--").arg(&host.address);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    within("logging in", LOGIN_TIME, async move {
        let status = command.status().await.context("starting ssh")?;
        if status.success() {
            return Ok(Session::resume_mux(socket.into(), Some(log.into())));
        }
        // If its log cannot be read, the error has only its status.
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        let log = log.trim().strip_prefix("ssh: ").unwrap_or(log.trim());
        let status = format!("ssh ended with {status}");
        Err(explain(if log.is_empty() { &status } else { log }))
    })
}

/// Options of the shared connection. They override what the user's configuration has for interactive logins: forwards, whose
/// ports may be in use, a command to run, a terminal.
fn master_options() -> Vec<String> {
    let options = [
        "BatchMode=yes".to_owned(),
        format!("ControlPersist={IDLE_SECONDS}"),
        format!("ConnectTimeout={}", BANNER_TIME.as_secs()),
        format!("ServerAliveInterval={}", ALIVE_INTERVAL.as_secs()),
        format!("ServerAliveCountMax={ALIVE_COUNT}"),
        "ClearAllForwardings=yes".to_owned(),
        "ForwardX11=no".to_owned(),
        "PermitLocalCommand=no".to_owned(),
        "RemoteCommand=none".to_owned(),
        "RequestTTY=no".to_owned(),
        "Tunnel=no".to_owned(),
        // Errors are logged, whatever the user's configuration says.
        "LogLevel=ERROR".to_owned(),
    ];
    options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect()
}

/// ssh's options for which host key to trust, and which user and key to log in with.
pub(crate) fn login_options(host: &HostEntry, access: &Access) -> Vec<std::ffi::OsString> {
    let mut options: Vec<std::ffi::OsString> =
        known_hosts_options(host, access).into_iter().map(Into::into).collect();
    if let Some(config) = &access.config {
        options.extend(["-F".into(), config.into()]);
    }
    if let Some(port) = host.port {
        options.extend(["-p".into(), port.to_string().into()]);
    }
    if let Some(user) = &host.user {
        options.extend(["-l".into(), user.into()]);
    }
    if let Some(key) = &host.key {
        // Only this key is tried: a server may refuse a login after a few wrong ones.
        options.extend(["-o".into(), "IdentitiesOnly=yes".into(), "-i".into(), key.into()]);
    }
    options
}

/// Adds advice to the refusals that users meet.
fn explain(text: &str) -> anyhow::Error {
    let error = anyhow!("{text}");
    if text.contains("host key is known") {
        return error.context(
            "its host key is not known; log in once by hand to check and keep it, or put its fingerprint (ssh-keygen -l) \
             into the hosts file",
        );
    }
    if text.contains("Host key verification failed") {
        return error.context(
            "its host key differs from the known one; if that is right, put its fingerprint (ssh-keygen -l) into the hosts \
             file, or its key into known_hosts",
        );
    }
    if text.contains("UNPROTECTED PRIVATE KEY") {
        return error.context("other users may read its private key, so ssh does not use it: chmod 600");
    }
    if text.contains("Permission denied") {
        return error.context("it refuses this user and key; correct user and key in the hosts file");
    }
    error
}

/// The name or address of a host after the SSH configuration is applied.
pub(crate) fn resolved_hostname(host: &HostEntry, config: Option<&Path>) -> anyhow::Result<String> {
    let destination = Destination::of(host, config)
        .with_context(|| format!("resolving {} ({})", host.name, host.address))?;
    Ok(destination.hostname)
}

/// The destination of a connection after the SSH configuration is applied.
struct Destination {
    hostname: String,
    port: u16,
    /// Without a jump host or a proxy command.
    is_direct: bool,
}

impl Destination {
    fn of(host: &HostEntry, config: Option<&Path>) -> anyhow::Result<Self> {
        let mut args = vec!["-G".to_owned()];
        if let Some(config) = config {
            args.extend(["-F".to_owned(), config.display().to_string()]);
        }
        if let Some(port) = host.port {
            args.extend(["-p".to_owned(), port.to_string()]);
        }
        args.push(host.address.clone());
        let ran = duct::cmd("ssh", args).stderr_to_stdout().stdout_capture().unchecked().run().context(
            "asking ssh how it would connect; hosts over SSH need OpenSSH's client (on Debian and Ubuntu: apt-get \
             install openssh-client)",
        )?;
        let output = String::from_utf8_lossy(&ran.stdout);
        ensure!(ran.status.success(), "ssh cannot resolve how to connect: {}", output.trim());
        let value = |name: &str| {
            output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned)
        };
        let hostname = value("hostname").context("ssh -G names no hostname")?;
        let port = value("port").and_then(|port| port.parse().ok()).context("ssh -G names no port")?;
        let is_unset = |name: &str| value(name).is_none_or(|value| value == "none");
        Ok(Self { hostname, port, is_direct: is_unset("proxyjump") && is_unset("proxycommand") })
    }
}

/// Waits for the banner of an SSH server.
fn await_banner(destination: &Destination) -> anyhow::Result<()> {
    let Destination { hostname, port, .. } = destination;
    let context = || format!("waiting for an SSH server at {hostname}:{port}");
    let addresses = (hostname.as_str(), *port).to_socket_addrs().with_context(context)?;
    let deadline = Instant::now() + BANNER_TIME;
    let mut stream = Err(anyhow!("{hostname} has no address"));
    for address in addresses {
        stream = TcpStream::connect_timeout(&address, BANNER_TIME)
            .map_err(|error| match error.kind() {
                ErrorKind::TimedOut | ErrorKind::HostUnreachable => anyhow::Error::new(NoAnswer),
                _ => error.into(),
            })
            .with_context(context);
        if stream.is_ok() || Instant::now() >= deadline {
            break;
        }
    }
    let mut stream = stream?;
    let mut start = [0; 4];
    for byte in &mut start {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).with_context(context)?;
        stream.read_exact(std::slice::from_mut(byte)).with_context(context)?;
    }
    ensure!(
        &start == b"SSH-",
        "the server at {hostname}:{port} is not an SSH server; correct the host's port"
    );
    Ok(())
}

/// Writes the host's key, if it has the right fingerprint, to a file of its own. There the key is valid for all addresses,
/// since the host's may change. (If the host then shows ssh another key, ssh refuses it.)
fn pin(destination: &Destination, fingerprint: &str, file: &Path) -> anyhow::Result<()> {
    ensure!(
        destination.is_direct,
        "a fingerprint can be checked only for hosts that are reached directly; add its key to known_hosts"
    );
    if let Ok(known) = std::fs::read_to_string(file)
        && fingerprints(&known)?.iter().any(|known| known == fingerprint)
    {
        return Ok(());
    }
    let (port, seconds) = (destination.port.to_string(), BANNER_TIME.as_secs().to_string());
    let scanned = duct::cmd!("ssh-keyscan", "-T", seconds, "-p", port, &destination.hostname)
        .stderr_null()
        .unchecked()
        .read()
        .context("asking for its host keys with ssh-keyscan")?;
    let keys: Vec<_> = scanned.lines().filter(|line| !line.starts_with('#')).collect();
    let found = fingerprints(&keys.join("\n"))?;
    let right = keys.iter().zip(&found).find(|(_, found)| *found == fingerprint);
    let Some((right, _)) = right else {
        if found.is_empty() {
            bail!("ssh-keyscan got no host key from it; is it still booting?");
        }
        bail!(
            "its host key differs: the hosts file has {fingerprint}, and the host shows {}; another machine may be answering",
            found.join(", ")
        );
    };
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
    }
    let (_, key) = right.split_once(' ').context("ssh-keyscan names no address")?;
    files::replace_file(file, format!("* {key}\n").as_bytes())
}

/// The fingerprints of keys. `keys` has the format of known_hosts, one key a line.
fn fingerprints(keys: &str) -> anyhow::Result<Vec<String>> {
    if keys.trim().is_empty() {
        return Ok(Vec::new());
    }
    let listed = duct::cmd!("ssh-keygen", "-l", "-f", "-")
        .stdin_bytes(format!("{keys}\n"))
        .stderr_null()
        .read()
        .context("asking ssh-keygen for fingerprints")?;
    Ok(listed.lines().filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect())
}
