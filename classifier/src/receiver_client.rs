//! The connection to the receiver. Each process has one.

use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, bail};
use protocol::Temporary;
use protocol::frame::{DEFAULT_LIMIT, FrameReader};
use protocol::handshake::{self, HANDSHAKE_TIME, ResultsHello};
use protocol::results::write_batches;
use protocol::results::{self, FromReceiver, Identity, ResultBatch, Terms, Totals, Welcome};
use protocol::token::Token;

/// The approximate size of one write in bytes; larger writes are not faster.
const WRITE_SIZE: usize = 512 << 10;

/// Messages to the receiver.
#[derive(Debug)]
pub enum Outgoing {
    /// Results, in any order.
    Batches(Vec<ResultBatch<Vec<u8>>>),
    /// The job's identity and terms; from the initializer, before the first batch.
    Identity(Identity, Option<Terms>),
    /// The job's total rows and batches; from the initializer, after the last batch.
    Totals(Totals),
    /// Why the job cannot be finished; from the initializer.
    Failure(String),
}

/// A connection that the receiver has admitted.
#[derive(Debug)]
pub struct ReceiverClient {
    stream: TcpStream,
    reader: FrameReader<TcpStream>,
    /// The job's progress, as the receiver reported it.
    pub welcome: Welcome,
}

impl ReceiverClient {
    /// Connects to the receiver.
    ///
    /// # Errors
    /// When there is no receiver within `patience`, or it refuses the process.
    pub fn connect(
        address: &str,
        token: Option<&Token>,
        hello: &ResultsHello,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let stream = net::connect("the receiver", address, patience)?;
        let not_now =
            |error| handshake::unless_refused(error, Temporary("the receiver is unavailable for now"));
        handshake::send(&stream, token, hello)
            .with_context(|| format!("sending a handshake to the receiver at {address}"))
            .map_err(not_now)?;
        let clone = stream.try_clone().context("splitting the connection to the receiver")?;
        let mut reader = FrameReader::new(clone, format!("the receiver at {address}"), DEFAULT_LIMIT);
        let welcome = handshake::await_answer(&mut reader, HANDSHAKE_TIME).map_err(not_now)?;
        Ok(Self { stream, reader, welcome })
    }

    /// Serves the connection on two threads: one writes the messages of the returned channel, in order; the other passes the
    /// receiver's messages to `recv`. When the connection breaks, ends the process, unless `leaving` says that its work is
    /// done.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        self,
        recv: impl FnMut(FromReceiver) + Send + 'static,
        leaving: impl Fn() -> bool + Send + 'static,
    ) -> anyhow::Result<Sender<Outgoing>> {
        let Self { stream, mut reader, .. } = self;
        let (sender, outgoing) = channel();
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        thread("receiver")
            .spawn(move || {
                if let Err(error) = write(&stream, &outgoing) {
                    crate::leave_generation(format_args!("sending results to the receiver: {error:#}"));
                }
            })
            .context("starting a thread")?;
        thread("acknowledgements")
            .spawn(move || {
                let outcome = read(&mut reader, recv);
                if !leaving() {
                    let reason =
                        outcome.err().map_or_else(|| "it closed the connection".into(), |e| format!("{e:#}"));
                    crate::leave_generation(format_args!("lost the receiver: {reason}"));
                }
            })
            .context("starting a thread")?;
        Ok(sender)
    }
}

fn read(reader: &mut FrameReader<TcpStream>, mut recv: impl FnMut(FromReceiver)) -> anyhow::Result<()> {
    while let Some(payload) = reader.next_frame()? {
        recv(FromReceiver::decode(payload).with_context(|| format!("a message of {}", reader.peer()))?);
    }
    Ok(())
}

fn write(stream: &TcpStream, outgoing: &Receiver<Outgoing>) -> anyhow::Result<()> {
    while let Ok(first) = outgoing.recv() {
        let mut next = Some(first);
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while let Some(message) = next {
            match message {
                Outgoing::Batches(more) => {
                    bytes += more.iter().map(|batch| batch.results.len()).sum::<usize>();
                    batches.extend(more);
                }
                Outgoing::Identity(identity, terms) => {
                    results::write_identity(stream, &identity, terms.as_ref())?;
                }
                Outgoing::Failure(reason) => results::write_failure(stream, &reason)?,
                Outgoing::Totals(totals) => {
                    write_batches(stream, &batches)?;
                    batches.clear();
                    results::write_totals(stream, &totals)?;
                }
            }
            next = if bytes < WRITE_SIZE { outgoing.try_recv().ok() } else { None };
        }
        write_batches(stream, &batches)?;
    }
    match stream.shutdown(std::net::Shutdown::Write) {
        // The receiver has closed the connection already, after reporting that the job is done.
        Err(e) if e.kind() != std::io::ErrorKind::NotConnected => bail!("closing the connection: {e}"),
        _ => Ok(()),
    }
}
