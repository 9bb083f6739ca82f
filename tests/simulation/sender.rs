//! The sender: the production session, with an input that can be read again, or the production replay over one that cannot.

use std::time::Duration;

use anyhow::{anyhow, ensure};
use bytes::Bytes;
use protocol::frame;
use protocol::handshake::{SenderHello, SourceAnswer};
use sender::input::{Extent, Input};
use sender::replay::Replay;
use sender::session::{Failure, Session, Step};

use crate::network::{Address, Delivery, Message, Network};
use crate::{ROWS, unexpected};

const ME: Address = Address::Sender;
/// Longer than any job.
const PATIENCE: Duration = Duration::from_secs(1000);
/// Rows in a message, and the most messages in flight.
const ROWS_AT_ONCE: u64 = 10;
const MOST_IN_FLIGHT: usize = 4;
pub(crate) const HEADER: &[u8] = b"A";

pub(crate) struct Sender {
    can_rewind: bool,
    lives: u32,
    rewinds: u32,
    is_done: bool,
    life: Option<Life>,
}

struct Life {
    began: u64,
    session: Session,
    input: Box<dyn Input>,
    connection: Option<u64>,
    in_flight: usize,
    sending: bool,
}

/// An input in which each row is its own number.
struct Numbers {
    next: u64,
    can_rewind: bool,
}

impl Input for Numbers {
    fn header(&self) -> &[u8] {
        HEADER
    }

    fn seek(&mut self, row: u64) -> anyhow::Result<()> {
        ensure!(self.can_rewind || row >= self.next, "it cannot go back from row {} to {row}", self.next);
        ensure!(row <= u64::from(ROWS), "there are not {row} rows");
        self.next = row;
        Ok(())
    }

    fn fill(&mut self, out: &mut Vec<u8>) -> anyhow::Result<()> {
        let end = (self.next + ROWS_AT_ONCE).min(u64::from(ROWS));
        (self.next..end).for_each(|row| frame::push(out, &(row as u32).to_be_bytes()));
        self.next = end;
        Ok(())
    }

    fn position(&self) -> u64 {
        self.next
    }

    fn extent(&self) -> Extent {
        Extent::default()
    }
}

impl Sender {
    /// A sender whose input can be read again or not; if not, the sender must not die.
    pub(crate) fn new(can_rewind: bool) -> Self {
        Self { can_rewind, lives: 0, rewinds: 0, is_done: false, life: None }
    }

    /// Whether the job can continue after its death.
    pub(crate) fn may_die(&self) -> bool {
        self.can_rewind
    }

    /// Whether it knows that the job is done.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    /// How often the source has asked for rows that were sent before.
    pub(crate) fn rewinds(&self) -> u32 {
        self.rewinds
    }

    pub(crate) fn start(&mut self, network: &mut Network) {
        let numbers = Numbers { next: 0, can_rewind: self.can_rewind };
        let input: Box<dyn Input> =
            if self.can_rewind { Box::new(numbers) } else { Box::new(Replay::new(numbers)) };
        let session = Session::new(PATIENCE, self.lives > 0);
        self.lives += 1;
        self.life =
            Some(Life { began: network.now, session, input, connection: None, in_flight: 0, sending: false });
        self.connect(network);
    }

    pub(crate) fn die(&mut self) {
        self.life = None;
    }

    /// Connects again after the pause.
    pub(crate) fn wake(&mut self, network: &mut Network) {
        if self.life.as_ref().is_some_and(|life| life.connection.is_none()) {
            self.connect(network);
        }
    }

    fn connect(&mut self, network: &mut Network) {
        let Some(life) = &mut self.life else { return };
        life.session.connect(life.now(network));
        let connection = network.connect(ME, Address::Classifier(0));
        life.connection = Some(connection);
        life.sending = false;
        let hello = SenderHello { session: Some("the sender".into()), marks: true, ..SenderHello::default() };
        network.send(connection, ME, Message::Hello(hello));
    }

    pub(crate) fn recv(&mut self, network: &mut Network, connection: u64, delivery: Delivery) {
        let Some(life) = self.life.as_mut().filter(|life| life.connection == Some(connection)) else {
            return;
        };
        let answer = match delivery {
            Delivery::Broken => return life.lost(network, anyhow!("the connection broke")),
            Delivery::Message(Message::Consumed(messages)) => {
                life.in_flight -= messages;
                return life.send(network, connection);
            }
            Delivery::Message(Message::Answer(SourceAnswer::Durable(row))) => return life.input.forget(row),
            Delivery::Message(Message::Answer(answer)) => answer,
            Delivery::Message(other) => unexpected(ME, &other),
        };
        match life.session.recv(answer) {
            Ok(Step::Send(row)) => {
                self.rewinds += u32::from(row < life.input.position());
                let mut bytes = Vec::new();
                frame::push(&mut bytes, life.input.header());
                network.send(connection, ME, Message::Bytes(Bytes::from(bytes)));
                // The source never asks for rows that it has called durable.
                life.input.seek(row).expect("the input has this row");
                (life.sending, life.in_flight) = (true, 1);
                life.send(network, connection);
            }
            Ok(Step::Done(rows)) => {
                assert_eq!(rows, u64::from(ROWS));
                self.is_done = true;
            }
            Err(Failure::Lost(error)) => life.lost(network, error),
            Err(Failure::Final(error) | Failure::Input(error)) => {
                panic!("the sender ends the job: {error:#}")
            }
        }
    }
}

impl Life {
    fn now(&self, network: &Network) -> Duration {
        Duration::from_millis(network.now - self.began)
    }

    fn lost(&mut self, network: &mut Network, error: anyhow::Error) {
        self.connection = None;
        let pause = self.session.lost(error, self.now(network)).expect("the sender does not give up");
        network.wake(ME, pause.as_millis() as u64);
    }

    fn send(&mut self, network: &mut Network, connection: u64) {
        while self.sending && self.in_flight < MOST_IN_FLIGHT {
            let mut bytes = Vec::new();
            self.input.fill(&mut bytes).expect("filling from numbers never fails");
            if bytes.is_empty() {
                frame::push_end(&mut bytes);
                self.session.sent_all(self.input.position());
                self.sending = false;
            }
            network.send(connection, ME, Message::Bytes(Bytes::from(bytes)));
            self.in_flight += 1;
        }
    }
}
