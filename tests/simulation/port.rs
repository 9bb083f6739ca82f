//! The port for rows: the production frame reader, intake and issuer, with buffers as connections.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use classifier::batch::Batch;
use classifier::ingest::intake::{Admission, Decided, Incoming, Intake, LeaseId};
use classifier::receiver_client::Outgoing;
use classifier::source::Issuer;
use classifier::window::Limits;
use protocol::frame::{DEFAULT_LIMIT, FrameError, FrameReader, RunEnd};
use protocol::handshake::{SenderHello, SourceAnswer};
use protocol::results::{Acknowledgement, Welcome};

use crate::network::Message;

/// The most rows and bytes in a batch.
const CHUNK: usize = 7;
const BATCH_BYTES: usize = 1000;
/// The most bytes that wait for the source.
const QUEUE: usize = 100;
const LIMITS: Limits = Limits { batches: 12, bytes: 400 };
/// The hash of the job's settings.
pub(crate) const SETTINGS: u64 = 1;

pub(crate) enum ToSend {
    Batch(Batch),
    Receiver(Message),
    Sender(u64, Message),
    Close(u64),
}

pub(crate) struct Port {
    intake: Intake<u64>,
    issuer: Issuer,
    senders: BTreeMap<u64, Inbound>,
    durable: u64,
    /// The number of the job's rows, once it is done.
    done: Option<u64>,
}

/// The connection of an admitted sender.
struct Inbound {
    /// `None` if the sender has sent all rows.
    lease: Option<LeaseId>,
    pipe: Pipe,
    reader: FrameReader<Pipe>,
    header: Option<Bytes>,
    /// Number of messages not read yet.
    unread: usize,
}

/// Bytes that have arrived and are not read yet.
#[derive(Clone, Default)]
struct Pipe(Rc<RefCell<VecDeque<u8>>>);

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.borrow_mut().read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl Port {
    pub(crate) fn new(workers: usize, welcome: &Welcome) -> Self {
        let header = welcome.identity.map(|identity| identity.header);
        Self {
            intake: Intake::new(welcome.next_row, header, QUEUE),
            issuer: Issuer::new(LIMITS, workers, welcome, SETTINGS),
            senders: BTreeMap::new(),
            durable: welcome.next_row,
            done: None,
        }
    }

    pub(crate) fn has_senders(&self) -> bool {
        !self.senders.is_empty()
    }

    pub(crate) fn knows(&self, connection: u64) -> bool {
        self.senders.contains_key(&connection)
    }

    /// Admits a sender.
    pub(crate) fn open(&mut self, connection: u64, hello: SenderHello) -> Vec<ToSend> {
        let answer = |answer| ToSend::Sender(connection, Message::Answer(answer));
        let (lease, to_send) = match self.intake.admit(hello.session, connection) {
            Admission::Busy | Admission::Late => panic!("there is only one sender"),
            Admission::Complete => {
                (None, self.done.map(|rows| answer(SourceAnswer::Done(rows))).into_iter().collect())
            }
            Admission::Send { lease, next_row, replaced } => {
                let mut to_send = vec![answer(SourceAnswer::NextRow(next_row))];
                // The replaced connection's thread ends later, and then releases its lease.
                to_send.extend(replaced.map(ToSend::Close));
                (Some(lease), to_send)
            }
        };
        let pipe = Pipe::default();
        let reader = FrameReader::new(pipe.clone(), "the sender", DEFAULT_LIMIT);
        self.senders.insert(connection, Inbound { lease, pipe, reader, header: None, unread: 0 });
        to_send
    }

    /// Tells the senders that the job is done.
    pub(crate) fn conclude(&mut self, rows: u64) -> Vec<ToSend> {
        self.done = Some(rows);
        let done = |connection: &u64| ToSend::Sender(*connection, Message::Answer(SourceAnswer::Done(rows)));
        self.senders.keys().map(done).collect()
    }

    /// Handles the end of a sender's connection.
    pub(crate) fn close(&mut self, connection: u64) {
        // Rows that the intake has accepted stay; the source asks for the others again.
        if let Some(Inbound { lease: Some(lease), .. }) = self.senders.remove(&connection) {
            self.intake.release(lease);
        }
    }

    /// Handles bytes from a sender.
    pub(crate) fn recv(&mut self, connection: u64, bytes: &[u8], now: Duration) -> Vec<ToSend> {
        if let Some(inbound) = self.senders.get_mut(&connection) {
            inbound.pipe.0.borrow_mut().extend(bytes);
            inbound.unread += 1;
        }
        self.issue(now)
    }

    pub(crate) fn acknowledge(&mut self, acknowledgement: &Acknowledgement, now: Duration) -> Vec<ToSend> {
        self.issuer.acknowledge(acknowledgement, now, |_| {});
        let mut to_send = self.issue(now);
        if self.issuer.durable_row() > self.durable {
            self.durable = self.issuer.durable_row();
            let told = |connection: &u64| {
                ToSend::Sender(*connection, Message::Answer(SourceAnswer::Durable(self.durable)))
            };
            to_send.extend(self.senders.keys().map(told));
        }
        to_send
    }

    /// Reads rows and issues batches until neither makes progress.
    fn issue(&mut self, now: Duration) -> Vec<ToSend> {
        let mut to_send = Vec::new();
        loop {
            to_send.extend(self.take_rows());
            let mut popped = false;
            let next = || {
                let incoming = self.intake.pop();
                popped |= incoming.is_some();
                incoming
            };
            let issued = self.issuer.issue(next, now);
            to_send.extend(issued.messages.into_iter().map(|message| {
                ToSend::Receiver(match message {
                    Outgoing::Identity(identity, _) => Message::Identity(identity),
                    Outgoing::Totals(totals) => Message::Totals(totals),
                    Outgoing::Batches(_) | Outgoing::Failure(_) => {
                        panic!("the issuer does not send {message:?}")
                    }
                })
            }));
            to_send.extend(issued.batches.into_iter().map(ToSend::Batch));
            if !popped {
                return to_send;
            }
        }
    }

    /// Reads from the active sender, as the thread of its connection does.
    fn take_rows(&mut self) -> Option<ToSend> {
        let connection = *self.intake.active()?;
        let inbound = self.senders.get_mut(&connection)?;
        let lease = inbound.lease?;
        while self.intake.has_room() {
            match inbound.read() {
                Ok((frames, rows, end)) => {
                    let header = inbound.header.clone().expect("the header is read first");
                    self.intake.check_header(&header).expect("all connections send the same header");
                    let mut put = |incoming| self.intake.push(lease, incoming).expect("the lease is active");
                    if rows > 0 {
                        put(Incoming::Rows { header, decided: Decided::default(), frames, rows });
                    }
                    if end {
                        put(Incoming::End);
                        inbound.lease = None;
                        self.intake.release(lease);
                        return None;
                    }
                }
                Err(FrameError::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
                    let read = std::mem::take(&mut inbound.unread);
                    return (read > 0).then_some(ToSend::Sender(connection, Message::Consumed(read)));
                }
                Err(error) => panic!("the sender's stream is malformed: {error}"),
            }
        }
        None
    }
}

impl Inbound {
    /// Reads the rows of the next batch, and whether they are the last; fails if they have not all arrived.
    fn read(&mut self) -> Result<(Bytes, u32, bool), FrameError> {
        if self.header.is_none() {
            self.header = self.reader.next_frame()?;
            self.reader.allow_marks();
        }
        let (run, end) = self.reader.run(CHUNK, BATCH_BYTES)?;
        Ok((run.bytes, run.frames as u32, end == RunEnd::End))
    }
}
