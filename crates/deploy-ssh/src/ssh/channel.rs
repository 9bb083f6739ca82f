//! The channel to a host's agent: requests one way, replies and events the other.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent::protocol::{Event, FOLDER, Message, Reply, Request};
use anyhow::{Context, anyhow};
use openssh::{ChildStdin, Session};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::session::{self, Reads, Started};
use crate::runtime::{runtime, within};

/// How long the agent may take to start.
const OPEN_TIME: Duration = Duration::from_secs(20);
/// How often the agent is told that somebody commands it.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// The channel. The agent ends when this is dropped; the programs that it keeps do not.
pub(super) struct Channel {
    requests: UnboundedSender<Vec<u8>>,
    /// One request at a time: replies come in the order of requests.
    replies: Mutex<Receiver<Result<Reply, String>>>,
    /// Why it is closed, when it is.
    lost: Arc<Mutex<Option<String>>>,
}

impl Channel {
    /// Starts the agent; what it tells is passed on to `note`.
    pub(super) fn open(
        session: &Arc<Session>,
        host: &str,
        agent: &str,
        note: impl Fn(Event) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let script = format!("cd {FOLDER} && exec ./agent-{agent} serve");
        let started = within("opening a channel", OPEN_TIME, session::start(session, &script, Reads::Pipe))?;
        let Started { child, stdin, printed, words, .. } = started;
        let stdin = stdin.context("a remote program without its pipe")?;
        let (requests, to_write) = unbounded_channel();
        let (replying, replies) = channel();
        let lost = Arc::new(Mutex::new(None));
        let runtime = runtime()?;
        runtime.spawn(write(stdin, to_write));
        let (why_lost, host) = (Arc::clone(&lost), host.to_owned());
        runtime.spawn(async move {
            let mut lines = BufReader::new(printed).lines();
            let mut reason = "it closed the channel".to_owned();
            loop {
                let line = match lines.next_line().await {
                    Ok(Some(line)) => line,
                    Ok(None) => break,
                    Err(error) => {
                        reason = error.to_string();
                        break;
                    }
                };
                match serde_json::from_str(&line) {
                    // When nobody waits for the reply any more, nobody misses it.
                    Ok(Message::Done(reply)) => drop(replying.send(Ok(reply))),
                    Ok(Message::Failed(why)) => drop(replying.send(Err(why))),
                    Ok(Message::Event(event)) => note(event),
                    Err(error) => {
                        reason = format!("it said {line:?}, which is not understood: {error}");
                        break;
                    }
                }
            }
            let said = words.said().await;
            if !said.is_empty() {
                reason = format!("{reason}; it said: {said}");
            }
            *lock(&why_lost) = Some(format!("lost the agent of {host}: {reason}"));
            // Its end is of no use any more, but it must be waited for.
            let _ = child.wait().await;
        });
        Ok(Self { requests, replies: Mutex::new(replies), lost })
    }

    /// Asks for something, and waits for the reply.
    pub(super) fn request(&self, request: &Request, limit: Duration) -> anyhow::Result<Reply> {
        let mut line = serde_json::to_vec(request).context("encoding a request")?;
        line.push(b'\n');
        let replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        self.requests.send(line).map_err(|_| self.lost())?;
        let deadline = Instant::now() + limit;
        loop {
            match replies.recv_timeout(Duration::from_millis(100)) {
                Ok(reply) => return reply.map_err(|why| anyhow!(why)),
                Err(RecvTimeoutError::Disconnected) => return Err(self.lost()),
                Err(RecvTimeoutError::Timeout) => {
                    self.check()?;
                    if Instant::now() >= deadline {
                        // Its reply may still come, and would be taken for the next one's.
                        *lock(&self.lost) = Some(format!("it did not answer within {limit:?}"));
                        return Err(self.lost());
                    }
                }
            }
        }
    }

    /// Why it is lost, if it is.
    pub(super) fn why_lost(&self) -> Option<String> {
        lock(&self.lost).clone()
    }

    fn check(&self) -> anyhow::Result<()> {
        self.why_lost().map_or(Ok(()), |reason| Err(anyhow!(reason)))
    }

    fn lost(&self) -> anyhow::Error {
        anyhow!(self.why_lost().unwrap_or_else(|| "lost the agent".to_owned()))
    }
}

fn lock(lost: &Mutex<Option<String>>) -> MutexGuard<'_, Option<String>> {
    lost.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes requests, and a sign of life where there are none.
async fn write(mut stdin: ChildStdin, mut requests: UnboundedReceiver<Vec<u8>>) {
    loop {
        let line = match tokio::time::timeout(HEARTBEAT, requests.recv()).await {
            Ok(Some(line)) => line,
            Ok(None) => return,
            Err(_) => b"\n".to_vec(),
        };
        // That the connection is broken is seen by the one that reads.
        if stdin.write_all(&line).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
}

/// Runs a script, and passes its lines on as they come.
pub(super) fn lines_of(
    session: &Arc<Session>,
    script: &str,
    line: &mut dyn FnMut(String) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let started = within("starting it", OPEN_TIME, session::start(session, script, Reads::Nothing))?;
    runtime()?.block_on(async {
        let mut stdout = BufReader::new(started.printed);
        let mut bytes = Vec::new();
        while stdout.read_until(b'\n', &mut bytes).await? > 0 {
            // A program may print anything.
            line(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned())?;
            bytes.clear();
        }
        started.child.wait().await?;
        Ok(())
    })
}
