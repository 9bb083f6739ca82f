//! Sends messages to a classifier process on a separate thread, so that a slow process does not block the threads that have
//! messages for it.

use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::Context;
use protocol::handshake;
use protocol::results::{FromReceiver, Welcome};

use crate::peer::Peer;

/// The longest that a write may take. Messages are rare and short, so a process that does not read them counts as lost.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// The queue of messages to a classifier process.
#[derive(Debug)]
pub struct Outbox {
    messages: Sender<Message>,
    stream: TcpStream,
}

#[derive(Debug)]
enum Message {
    Welcome(Welcome),
    Later(FromReceiver),
}

impl Outbox {
    /// Writes messages to `stream`. Calls `told` once the job's outcome has been written.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        stream: &TcpStream,
        name: String,
        told: impl FnOnce() + Send + 'static,
    ) -> anyhow::Result<Self> {
        net::limit_writes(stream, WRITE_TIME)?;
        let context = "splitting a connection";
        let (stream, out) = (stream.try_clone().context(context)?, stream.try_clone().context(context)?);
        let (messages, to_write) = channel();
        let write = move || {
            if let Err(error) = write(&out, &to_write, told) {
                tracing::warn!("sending messages to {name}: {error:#}; closing its connection");
                // Ends the thread that reads from it.
                let _ = out.shutdown(Shutdown::Both);
            }
        };
        std::thread::Builder::new().name("outbox".into()).spawn(write).context("starting a thread")?;
        Ok(Self { messages, stream })
    }

    fn enqueue(&self, message: Message) {
        // When the thread has ended, the connection is closed.
        let _ = self.messages.send(message);
    }
}

fn write(stream: &TcpStream, messages: &Receiver<Message>, told: impl FnOnce()) -> anyhow::Result<()> {
    let mut told = Some(told);
    while let Ok(message) = messages.recv() {
        match message {
            Message::Welcome(welcome) => handshake::send_json(stream, &welcome)?,
            Message::Later(message) => {
                message.write(stream)?;
                if matches!(message, FromReceiver::Outcome(_))
                    && let Some(told) = told.take()
                {
                    told();
                }
            }
        }
    }
    Ok(())
}

impl Peer for Outbox {
    fn welcome(&self, welcome: Welcome) {
        self.enqueue(Message::Welcome(welcome));
    }

    fn send(&self, message: FromReceiver) {
        self.enqueue(Message::Later(message));
    }

    fn close(&self) {
        // It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
