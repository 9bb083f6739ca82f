//! The channel to a host's agent: requests one way, replies and events the other.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use agent::protocol::{Event, FOLDER, Message, Reply, Request};
use anyhow::{Context, anyhow};
use openssh::{ChildStdin, Session};
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::script::{self, Started, Stdin, Stdout};
use crate::runtime::{runtime, within};

/// How long the agent may take to start.
const OPEN_TIME: Duration = Duration::from_secs(20);
/// The interval of signs of life to the agent without requests. It exits after `agent::serve::CLIENT_TIMEOUT` without any.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// How often a request that waits for its reply checks for a lost channel.
const REPLY_PAUSE: Duration = Duration::from_millis(100);

/// The agent ends when this is dropped; the programs that it started continue.
pub(super) struct Channel {
    requests: UnboundedSender<Vec<u8>>,
    /// Locked for a whole request: replies have the order of requests.
    replies: Mutex<Receiver<Result<Reply, String>>>,
    /// Why the channel is closed; `None` while it is open.
    lost: Arc<Mutex<Option<String>>>,
}

impl Channel {
    /// Starts the agent; `on_event` gets the events that it reports.
    pub(super) fn open(
        session: &Arc<Session>,
        host: &str,
        agent: &str,
        on_event: impl Fn(Event) + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let script = format!("cd {FOLDER} && exec ./agent-{agent} serve");
        let started = within("opening a channel", OPEN_TIME, script::start(session, &script, Stdin::Pipe))?;
        let Started { child, stdin, stdout, stderr, .. } = started;
        let stdin = stdin.context("a remote program without its pipe")?;
        let (requests, to_write) = unbounded_channel();
        let (replying, replies) = channel();
        let lost = Arc::new(Mutex::new(None));
        let runtime = runtime()?;
        runtime.spawn(write(stdin, to_write));
        let (why_lost, host) = (Arc::clone(&lost), host.to_owned());
        runtime.spawn(async move {
            let on_message = move |message| match message {
                // A request that timed out no longer waits for its reply.
                Message::Done(reply) => drop(replying.send(Ok(reply))),
                Message::Failed(why) => drop(replying.send(Err(why))),
                Message::Event(event) => on_event(event),
            };
            let mut reason = recv_all(stdout, on_message).await;
            let stderr = stderr.text().await;
            if !stderr.is_empty() {
                reason = format!("{reason}; it printed: {stderr}");
            }
            *why_lost.lock() = Some(format!("lost the agent of {host}: {reason}"));
            // Reaps the process; its exit status is not needed.
            let _ = child.wait().await;
        });
        Ok(Self { requests, replies: Mutex::new(replies), lost })
    }

    /// Sends a request, and waits for its reply.
    pub(super) fn request(&self, request: &Request, limit: Duration) -> anyhow::Result<Reply> {
        let mut line = serde_json::to_vec(request).context("encoding a request")?;
        line.push(b'\n');
        let replies = self.replies.lock();
        self.check()?;
        self.requests.send(line).map_err(|_| self.lost())?;
        let deadline = Instant::now() + limit;
        loop {
            match replies.recv_timeout(REPLY_PAUSE) {
                Ok(reply) => return reply.map_err(|why| anyhow!(why)),
                Err(RecvTimeoutError::Disconnected) => return Err(self.lost()),
                Err(RecvTimeoutError::Timeout) => {
                    self.check()?;
                    if Instant::now() >= deadline {
                        // A late reply would be taken for that of the next request.
                        *self.lost.lock() = Some(format!("the agent did not reply within {limit:?}"));
                        return Err(self.lost());
                    }
                }
            }
        }
    }

    /// Why the channel is closed; `None` while it is open.
    pub(super) fn why_lost(&self) -> Option<String> {
        self.lost.lock().clone()
    }

    fn check(&self) -> anyhow::Result<()> {
        self.why_lost().map_or(Ok(()), |reason| Err(anyhow!(reason)))
    }

    fn lost(&self) -> anyhow::Error {
        anyhow!(self.why_lost().unwrap_or_else(|| "lost the agent".to_owned()))
    }
}

/// Passes on messages until the channel closes; returns why it did.
async fn recv_all(stdout: Stdout, on_message: impl Fn(Message)) -> String {
    let mut lines = BufReader::new(stdout).lines();
    loop {
        let line = match lines.next_line().await {
            Ok(Some(line)) => line,
            Ok(None) => return "it closed the channel".to_owned(),
            Err(error) => return error.to_string(),
        };
        match serde_json::from_str(&line) {
            Ok(message) => on_message(message),
            Err(error) => return format!("it sent {line:?}, which is not a message: {error}"),
        }
    }
}

/// Writes requests, and empty lines as signs of life.
async fn write(mut stdin: ChildStdin, mut requests: UnboundedReceiver<Vec<u8>>) {
    loop {
        let line = match tokio::time::timeout(HEARTBEAT, requests.recv()).await {
            Ok(Some(line)) => line,
            Ok(None) => return,
            Err(_) => b"\n".to_vec(),
        };
        // The task that reads reports a broken connection.
        if stdin.write_all(&line).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
}

/// Runs a script, and passes on each line of its output as it arrives.
pub(super) fn stream_lines(
    session: &Arc<Session>,
    script: &str,
    on_line: &mut dyn FnMut(String) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let started = within("starting it", OPEN_TIME, script::start(session, script, Stdin::Null))?;
    runtime()?.block_on(async {
        let mut stdout = BufReader::new(started.stdout);
        let mut bytes = Vec::new();
        while stdout.read_until(b'\n', &mut bytes).await? > 0 {
            // The output need not be UTF-8.
            on_line(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned())?;
            bytes.clear();
        }
        started.child.wait().await?;
        Ok(())
    })
}
