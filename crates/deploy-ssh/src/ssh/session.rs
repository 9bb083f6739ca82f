//! Scripts that run over a connection, from the moment in which they have begun.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use openssh::{Child, ChildStdin, ChildStdout, Session, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Chain};
use tokio::task::JoinHandle;

use super::shell::{Script, explain_session};

/// How much startup files may print before the script begins, in bytes.
const MOST_NOISE: usize = 4 << 20;
/// How much of what is said on standard error is kept, in bytes: its beginning has the mark.
const MOST_WORDS: u64 = 1 << 20;
/// How long the other side may take to close standard error, when it has closed standard output.
const WORDS_TIME: Duration = Duration::from_secs(1);

/// What a script reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    /// Nothing.
    Nothing,
    /// What is written to its pipe.
    Pipe,
    /// The same, after a line that says `exit`. A shell that a startup file has put in the place of the login shell would
    /// wait for commands for ever; it takes that for one.
    PipeAfterExit,
}

/// What the script prints, without the noise before it.
pub(super) type Printed = Chain<Cursor<Vec<u8>>, ChildStdout>;

/// A script that has begun.
pub(super) struct Started {
    pub(super) child: Child<Arc<Session>>,
    /// `None` if it was not asked for.
    pub(super) stdin: Option<ChildStdin>,
    pub(super) printed: Printed,
    pub(super) words: Words,
    /// The user's home folder.
    pub(super) home: String,
}

/// What a script says on standard error.
pub(super) struct Words {
    script: Script,
    reading: JoinHandle<Vec<u8>>,
}

impl Words {
    /// What it has said, when it has ended.
    pub(super) async fn said(self) -> String {
        let errors = tokio::time::timeout(WORDS_TIME, self.reading).await;
        self.script.said(&errors.ok().and_then(Result::ok).unwrap_or_default())
    }
}

/// Starts a script in the user's home folder, and waits until it has begun. The deadline is the caller's.
///
/// # Errors
/// A login shell that does not run it, with what that says and what to do.
pub(super) async fn start(session: &Arc<Session>, script: &str, reads: Reads) -> anyhow::Result<Started> {
    let script = Script::new(script)?;
    let mut command = Arc::clone(session).arc_raw_command(&script.command);
    let stdin = if reads == Reads::Nothing { Stdio::null() } else { Stdio::piped() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().await.map_err(explain_session)?;
    let mut stdin = child.stdin().take();
    if let Some(stdin) = stdin.as_mut().filter(|_| reads == Reads::PipeAfterExit) {
        // That it has ended is seen by what it prints.
        let _ = stdin.write_all(b"exit\n").await;
    }
    let mut stdout = child.stdout().take().context("a remote program without its pipe")?;
    let stderr = child.stderr().take().context("a remote program without its pipe")?;
    let reading = tokio::spawn(async move {
        let (mut errors, mut stderr) = (Vec::new(), stderr);
        // What it said before the connection broke is worth showing, too; what is too much is let go.
        let _ = (&mut stderr).take(MOST_WORDS).read_to_end(&mut errors).await;
        let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
        errors
    });
    let mut printed = Vec::new();
    loop {
        if let Some(begun) = script.begun(&printed) {
            let (home, rest) = (begun.home.to_owned(), begun.rest.to_vec());
            let printed = Cursor::new(rest).chain(stdout);
            return Ok(Started { child, stdin, printed, words: Words { script, reading }, home });
        }
        ensure!(
            printed.len() < MOST_NOISE,
            "the login shell's startup files print more than {MOST_NOISE} bytes; let them be silent when the shell is not \
             interactive"
        );
        if stdout.read_buf(&mut printed).await.context("reading what a script prints")? == 0 {
            let errors = tokio::time::timeout(WORDS_TIME, reading).await;
            return Err(script.not_begun(&printed, &errors.ok().and_then(Result::ok).unwrap_or_default()));
        }
    }
}
