//! Opening an SFTP channel.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use openssh::{ChildStdout, Session, Stdio};
use openssh_sftp_client::{Sftp, SftpOptions};
use tokio::io::{AsyncRead, ReadBuf};

use super::script::{self, Started, Stdin};
use super::shell::explain_session;

/// Time limit for opening a channel.
const OPEN_TIME: Duration = Duration::from_secs(10);

const REMEDY: &str = "files are shipped over SFTP: its sshd needs the line `Subsystem sftp internal-sftp` in \
                      /etc/ssh/sshd_config, and to be reloaded";

/// Starts an SFTP server from the places where distributions have it.
const SERVER: &str = "for server in /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server \
                      /usr/libexec/sftp-server /usr/lib/ssh/sftp-server /usr/lib/sftp-server; do \
                      if [ -x $server ]; then exec $server; fi; done; exit 127";

/// Opens an SFTP channel. If the subsystem is a program, sshd starts it through the login shell, whose startup files may print
/// into the channel; then a script starts the server.
///
/// # Errors
/// The host has no SFTP; the error says what to configure.
pub(super) async fn open_sftp(session: &Arc<Session>) -> anyhow::Result<Sftp> {
    let mut command = Session::to_subsystem(Arc::clone(session), "sftp");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().await.map_err(explain_session)?;
    let (stdin, stdout) = (child.stdin().take(), child.stdout().take());
    let stdin = stdin.context("a remote program without its pipe")?;
    let stdout = stdout.context("a remote program without its pipe")?;
    let has_output = Arc::new(AtomicBool::new(false));
    let stdout = Watched { inner: stdout, has_output: Arc::clone(&has_output) };
    let opening = Sftp::new(stdin, stdout, SftpOptions::new());
    let error = match tokio::time::timeout(OPEN_TIME, opening).await {
        Ok(Ok(sftp)) => {
            // Reaps the process; its exit status is not needed.
            tokio::spawn(child.wait());
            return Ok(sftp);
        }
        Ok(Err(error)) => anyhow::Error::from(error),
        Err(_) => anyhow!("no reply within {OPEN_TIME:?}"),
    };
    // Without a subsystem, sshd closes the channel at once. Any output is from something other than an SFTP server.
    ensure!(has_output.load(Ordering::Relaxed), "it has no SFTP subsystem; {REMEDY}");
    open_by_script(session).await.map_err(|second| {
        anyhow!("{error:#}; a server started by hand: {second:#}; {REMEDY} (that one reads no startup files)")
    })
}

async fn open_by_script(session: &Arc<Session>) -> anyhow::Result<Sftp> {
    let Started { child, stdin, stdout, stderr, .. } = script::start(session, SERVER, Stdin::Pipe).await?;
    let stdin = stdin.context("a remote program without its pipe")?;
    match tokio::time::timeout(OPEN_TIME, Sftp::new(stdin, stdout, SftpOptions::new())).await {
        Ok(Ok(sftp)) => {
            tokio::spawn(child.wait());
            Ok(sftp)
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => bail!("no reply within {OPEN_TIME:?}: {}", stderr.text().await),
    }
}

/// Sets a flag when anything was read.
struct Watched {
    inner: ChildStdout,
    has_output: Arc<AtomicBool>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = ready!(Pin::new(&mut self.inner).poll_read(context, buffer));
        if buffer.filled().len() > before {
            self.has_output.store(true, Ordering::Relaxed);
        }
        Poll::Ready(outcome)
    }
}
