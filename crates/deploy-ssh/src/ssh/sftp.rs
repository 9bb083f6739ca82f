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

use super::session::{self, Reads, Started};
use super::shell::explain_session;

/// How long a host may take to open a channel.
const OPEN_TIME: Duration = Duration::from_secs(10);

const REMEDY: &str = "files are shipped over SFTP: its sshd needs the line `Subsystem sftp internal-sftp` in \
                      /etc/ssh/sshd_config, and to be reloaded";

/// Starts the server that the subsystem would start, where systems have it.
const SERVER: &str = "for server in /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server \
                      /usr/libexec/sftp-server /usr/lib/ssh/sftp-server /usr/lib/sftp-server; do \
                      if [ -x $server ]; then exec $server; fi; done; exit 127";

/// Opens an SFTP channel. sshd starts a server that is a program of its own through the login shell, whose startup files may
/// print into the channel; such a server is started by a script.
///
/// # Errors
/// A host without SFTP, with what to do.
pub(super) async fn open_sftp(session: &Arc<Session>) -> anyhow::Result<Sftp> {
    let mut command = Session::to_subsystem(Arc::clone(session), "sftp");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().await.map_err(explain_session)?;
    let (stdin, stdout) = (child.stdin().take(), child.stdout().take());
    let stdin = stdin.context("a remote program without its pipe")?;
    let stdout = stdout.context("a remote program without its pipe")?;
    let heard = Arc::new(AtomicBool::new(false));
    let stdout = Heard { inner: stdout, heard: Arc::clone(&heard) };
    let opening = Sftp::new(stdin, stdout, SftpOptions::new());
    let error = match tokio::time::timeout(OPEN_TIME, opening).await {
        Ok(Ok(sftp)) => {
            // Its end is of no use, but it must be waited for.
            tokio::spawn(child.wait());
            return Ok(sftp);
        }
        Ok(Err(error)) => anyhow::Error::from(error),
        Err(_) => anyhow!("nothing came of it within {OPEN_TIME:?}"),
    };
    // Where there is none, the channel is closed at once. Else something has spoken that is no SFTP server.
    ensure!(heard.load(Ordering::Relaxed), "it has no SFTP subsystem; {REMEDY}");
    open_by_script(session).await.map_err(|second| {
        anyhow!("{error:#}; a server started by hand: {second:#}; {REMEDY} (that one reads no startup files)")
    })
}

async fn open_by_script(session: &Arc<Session>) -> anyhow::Result<Sftp> {
    let Started { child, stdin, printed, words, .. } = session::start(session, SERVER, Reads::Pipe).await?;
    let stdin = stdin.context("a remote program without its pipe")?;
    match tokio::time::timeout(OPEN_TIME, Sftp::new(stdin, printed, SftpOptions::new())).await {
        Ok(Ok(sftp)) => {
            tokio::spawn(child.wait());
            Ok(sftp)
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => bail!("nothing came of it within {OPEN_TIME:?}: {}", words.said().await),
    }
}

/// Notes whether anything was read.
struct Heard {
    inner: ChildStdout,
    heard: Arc<AtomicBool>,
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = ready!(Pin::new(&mut self.inner).poll_read(context, buffer));
        if buffer.filled().len() > before {
            self.heard.store(true, Ordering::Relaxed);
        }
        Poll::Ready(outcome)
    }
}
