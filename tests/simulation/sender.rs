//! A sender that comes back for as long as it takes.

use crate::network::{Address, Fate, Message, Network};
use crate::{ROWS, unexpected};

const ME: Address = Address::Sender;
/// The pause until it tries again, in milliseconds.
const PAUSE: u64 = 100;
/// Rows in a message, and messages that may be on their way.
const ROWS_AT_ONCE: u32 = 10;
const MOST_UNDER_WAY: u32 = 4;

#[derive(Default)]
pub(crate) struct Sender {
    connection: Option<u64>,
    next: u32,
    under_way: u32,
    sending: bool,
}

impl Sender {
    /// Connects to the source.
    pub(crate) fn start(&mut self, network: &mut Network) {
        let connection = network.connect(ME, Address::Classifier(0));
        self.connection = Some(connection);
        self.sending = false;
        network.send(connection, ME, Message::Hello);
    }

    pub(crate) fn die(&mut self) {
        self.connection = None;
    }

    pub(crate) fn hear(&mut self, network: &mut Network, connection: u64, fate: Fate) {
        if self.connection != Some(connection) {
            return;
        }
        match fate {
            Fate::Broken | Fate::Message(Message::Refused) => {
                self.connection = None;
                network.wake(ME, PAUSE);
            }
            Fate::Message(Message::NextRow(row)) => {
                self.next = row as u32;
                self.under_way = 0;
                self.sending = true;
                self.send(network, connection);
            }
            Fate::Message(Message::Taken) => {
                self.under_way -= 1;
                self.send(network, connection);
            }
            Fate::Message(other) => unexpected(ME, &other),
        }
    }

    fn send(&mut self, network: &mut Network, connection: u64) {
        while self.sending && self.under_way < MOST_UNDER_WAY {
            if self.next == ROWS {
                network.send(connection, ME, Message::End);
                self.sending = false;
                return;
            }
            let end = (self.next + ROWS_AT_ONCE).min(ROWS);
            network.send(connection, ME, Message::Rows((self.next..end).collect()));
            self.next = end;
            self.under_way += 1;
        }
    }
}
