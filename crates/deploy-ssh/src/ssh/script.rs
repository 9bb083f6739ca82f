//! Runs scripts over a connection.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use openssh::{Child, ChildStdin, ChildStdout, Session, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Chain};
use tokio::task::JoinHandle;

use super::shell::{Script, explain_session};

/// How much startup files may print before the script begins, in bytes.
const MAX_NOISE: usize = 4 << 20;
/// How much of standard error is kept, in bytes. The mark is near its beginning.
const MAX_STDERR: u64 = 1 << 20;
/// How long the host may take to close standard error after standard output.
const STDERR_TIME: Duration = Duration::from_secs(1);

/// A script's standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stdin {
    Null,
    Pipe,
    /// A pipe that begins with the line `exit`. If a startup file replaced the login shell by another one, that would wait for
    /// commands forever; with this line, it exits.
    PipeAfterExit,
}

/// A script's standard output, without the output of startup files before it.
pub(super) type Stdout = Chain<Cursor<Vec<u8>>, ChildStdout>;

/// A script that has begun.
pub(super) struct Started {
    pub(super) child: Child<Arc<Session>>,
    /// `None` with [`Stdin::Null`].
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Stdout,
    pub(super) stderr: Stderr,
    /// The user's home folder.
    pub(super) home: String,
}

/// A script's standard error. A task reads it all the time, so that the script never blocks on it.
pub(super) struct Stderr {
    script: Script,
    reading: JoinHandle<Vec<u8>>,
}

impl Stderr {
    /// The end of it, once the script has ended.
    pub(super) async fn text(self) -> String {
        let bytes = tokio::time::timeout(STDERR_TIME, self.reading).await;
        self.script.stderr_text(&bytes.ok().and_then(Result::ok).unwrap_or_default())
    }
}

/// Starts a script in the user's home folder, and waits until it has begun. The caller sets a time limit.
///
/// # Errors
/// The login shell does not run the script; the error has what the shell printed.
pub(super) async fn start(session: &Arc<Session>, script: &str, input: Stdin) -> anyhow::Result<Started> {
    let script = Script::new(script)?;
    let mut command = Arc::clone(session).arc_raw_command(&script.command);
    let stdin = if input == Stdin::Null { Stdio::null() } else { Stdio::piped() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().await.map_err(explain_session)?;
    let mut stdin = child.stdin().take();
    if let Some(stdin) = stdin.as_mut().filter(|_| input == Stdin::PipeAfterExit) {
        // If it has ended, its output shows why.
        let _ = stdin.write_all(b"exit\n").await;
    }
    let mut stdout = child.stdout().take().context("a remote program without its pipe")?;
    let stderr = child.stderr().take().context("a remote program without its pipe")?;
    let reading = tokio::spawn(async move {
        let (mut kept, mut stderr) = (Vec::new(), stderr);
        // Errors are ignored: what arrived before the connection broke is worth showing. The rest is discarded.
        let _ = (&mut stderr).take(MAX_STDERR).read_to_end(&mut kept).await;
        let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        kept
    });
    let mut output = Vec::new();
    loop {
        if let Some(begun) = script.begun(&output) {
            let (home, rest) = (begun.home.to_owned(), begun.rest.to_vec());
            let stdout = Cursor::new(rest).chain(stdout);
            return Ok(Started { child, stdin, stdout, stderr: Stderr { script, reading }, home });
        }
        ensure!(
            output.len() < MAX_NOISE,
            "the login shell's startup files print more than {MAX_NOISE} bytes; make them silent when the shell is not \
             interactive"
        );
        if stdout.read_buf(&mut output).await.context("reading the output of a script")? == 0 {
            let errors = tokio::time::timeout(STDERR_TIME, reading).await;
            return Err(script.not_begun(&output, &errors.ok().and_then(Result::ok).unwrap_or_default()));
        }
    }
}
