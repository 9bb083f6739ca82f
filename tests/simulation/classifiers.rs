//! Classifiers: the first is the initializer, with the real membership and the real issuer. As real ones do, each leaves when it
//! loses another one or the receiver, and is started again.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use classifier::batch::Batch;
use classifier::cluster::membership::{Latecomers, Limit, Membership, Standing};
use classifier::source::Issuer;
use classifier::window::Limits;
use protocol::handshake::{ControlMessage, Member};
use protocol::results::{FromReceiver, ResultBatch, Welcome};
use rand::RngExt;

use crate::network::{Address, Fate, Message, Network};
use crate::unexpected;

const RECEIVER: Address = Address::Receiver;
const INITIALIZER: Address = Address::Classifier(0);
/// How long the first cluster may take to form, and later ones wait, in milliseconds.
const FIRST: u64 = 180_000;
const LATER: u64 = 10_000;
/// How long a batch takes at most, and how long a process takes to be started again.
const WORK: u64 = 50;
const RESTART: u64 = 100;
/// How often latecomers are looked for.
const LOOK: u64 = 1000;
/// Rows in a batch.
const CHUNK: usize = 7;
const LIMITS: Limits = Limits { batches: 12, bytes: 200 };

pub(crate) struct Classifier {
    index: usize,
    processes: usize,
    /// It has been in a cluster; that stands in its ready file.
    has_formed: bool,
    smaller: u32,
    life: Option<Life>,
}

#[derive(Default)]
struct Life {
    began: u64,
    /// Its own connections.
    uplink: Option<u64>,
    control: Option<u64>,
    welcome: Option<Welcome>,
    /// Batches that are being classified, by when they are done.
    at_work: VecDeque<(u64, Batch)>,
    /// The initializer's part.
    first: Option<Initializer>,
}

struct Initializer {
    membership: Membership,
    /// When the cluster has been gathered: who is still forming.
    forming: Option<BTreeSet<u64>>,
    latecomers: Latecomers,
    /// Control connections by process, in the order of the members.
    members: Vec<u64>,
    issuer: Option<Issuer>,
    started: u64,
    /// When it looks for latecomers.
    next_look: u64,
    sender: Option<u64>,
    next_row: u64,
    rows: VecDeque<u32>,
    /// Messages of rows, and how many rows of each are not cut to batches yet.
    messages: VecDeque<usize>,
    ended: bool,
    told: bool,
}

impl Classifier {
    pub(crate) fn new(index: usize, processes: usize) -> Self {
        Self { index, processes, has_formed: false, smaller: 0, life: None }
    }

    fn me(&self) -> Address {
        Address::Classifier(self.index)
    }

    fn member(&self) -> Member {
        Member {
            name: format!("c{}", self.index),
            data: "127.0.0.1:1".into(),
            workers: 1,
            build: String::new(),
            settings: String::new(),
        }
    }

    /// How many generations there were without all.
    pub(crate) fn smaller(&self) -> u32 {
        self.smaller
    }

    pub(crate) fn die(&mut self) {
        self.life = None;
    }

    fn leave(&mut self, network: &mut Network) {
        network.crash(self.me(), RESTART);
    }

    pub(crate) fn start(&mut self, network: &mut Network) {
        let mut life = Life { began: network.now, ..Life::default() };
        if self.index == 0 {
            let limit = if self.has_formed { Limit::Back(ms(LATER)) } else { Limit::All(ms(FIRST)) };
            life.first = Some(Initializer {
                membership: Membership::new(self.member(), self.processes, limit),
                forming: None,
                latecomers: Latecomers::default(),
                members: Vec::new(),
                issuer: None,
                started: 0,
                next_look: 0,
                sender: None,
                next_row: 0,
                rows: VecDeque::new(),
                messages: VecDeque::new(),
                ended: false,
                told: false,
            });
            self.life = Some(life);
            self.gather(network);
        } else {
            let control = network.connect(self.me(), INITIALIZER);
            network.send(control, self.me(), Message::Join(self.member()));
            life.control = Some(control);
            self.life = Some(life);
        }
    }

    pub(crate) fn hear(&mut self, network: &mut Network, connection: u64, fate: Fate) {
        let Some(life) = &mut self.life else { return };
        match fate {
            Fate::Broken => {
                let mine = [life.uplink, life.control].contains(&Some(connection));
                match &mut life.first {
                    _ if mine => self.leave(network),
                    Some(first) => {
                        first.latecomers.leave(connection);
                        if first.sender == Some(connection) {
                            // What was taken stays; the rest is asked for again.
                            first.sender = None;
                        } else if first.members.contains(&connection) {
                            self.leave(network);
                        } else {
                            first.membership.leave(connection);
                        }
                    }
                    None => {}
                }
            }
            Fate::Message(Message::Refused) => self.leave(network),
            Fate::Message(Message::Welcome(welcome)) => {
                life.welcome = Some(welcome);
                match life.control {
                    Some(control) => {
                        network.send(control, self.me(), Message::Control(ControlMessage::Formed));
                    }
                    None => self.form(network, welcome.generation),
                }
            }
            Fate::Message(Message::Data(batch)) => self.classify(network, batch),
            Fate::Message(Message::Control(ControlMessage::Form { generation, .. })) => {
                let uplink = network.connect(Address::Classifier(self.index), RECEIVER);
                life.uplink = Some(uplink);
                network.send(uplink, self.me(), Message::Open(Some(generation)));
            }
            Fate::Message(Message::Control(ControlMessage::Start)) => self.has_formed = true,
            Fate::Message(message) if self.index == 0 => self.hear_first(network, connection, message),
            Fate::Message(other) => unexpected(self.me(), &other),
        }
    }

    /// What only the initializer hears.
    fn hear_first(&mut self, network: &mut Network, connection: u64, message: Message) {
        let Some(life) = &mut self.life else { return };
        let Some(first) = &mut life.first else { return };
        match message {
            Message::Join(member) => {
                let refused = match first.forming {
                    None => first.membership.join(connection, member).is_err(),
                    Some(_) => first.latecomers.come(connection).is_err(),
                };
                if refused {
                    network.send(connection, INITIALIZER, Message::Refused);
                    network.break_off(connection);
                }
                self.gather(network);
            }
            Message::Control(ControlMessage::Formed) => {
                if let Some(forming) = &mut first.forming {
                    forming.remove(&connection);
                }
                self.begin(network);
            }
            Message::Hello => {
                if first.issuer.is_none() {
                    network.send(connection, INITIALIZER, Message::Refused);
                    return network.break_off(connection);
                }
                // The same sender, come back.
                if let Some(old) = first.sender.replace(connection) {
                    network.break_off(old);
                }
                if first.ended {
                    // It has sent everything, and waits for the end.
                    return;
                }
                // Rows that are not a whole batch yet are not taken.
                first.next_row -= first.rows.len() as u64;
                first.rows.clear();
                first.messages.clear();
                network.send(connection, INITIALIZER, Message::NextRow(first.next_row));
            }
            Message::Rows(rows) => {
                if first.sender == Some(connection) {
                    first.next_row += rows.len() as u64;
                    first.messages.push_back(rows.len());
                    first.rows.extend(rows);
                    self.issue(network);
                }
            }
            Message::End => {
                if first.sender == Some(connection) {
                    first.ended = true;
                    self.issue(network);
                }
            }
            Message::FromReceiver(FromReceiver::Acknowledgement(acknowledgement)) => {
                if let Some(issuer) = &mut first.issuer {
                    issuer.acknowledge(&acknowledgement, ms(network.now), |_| {});
                }
                self.issue(network);
            }
            other => unexpected(INITIALIZER, &other),
        }
    }

    /// Forms the cluster, if those are here that it waits for.
    fn gather(&mut self, network: &mut Network) {
        let Some(life) = &mut self.life else { return };
        let Some(first) = life.first.as_mut().filter(|first| first.forming.is_none()) else { return };
        match first.membership.standing(ms(network.now - life.began)) {
            Standing::Waiting(time) => network.wake(INITIALIZER, time.as_millis() as u64 + 1),
            Standing::TooLate => panic!("the first cluster was too long in forming"),
            Standing::Complete => {
                let missing = first.membership.missing();
                self.smaller += u32::from(missing > 0);
                first.latecomers = Latecomers::new(missing);
                first.members = first.membership.connections().collect();
                first.forming = Some(first.members.iter().copied().collect());
                let uplink = network.connect(INITIALIZER, RECEIVER);
                life.uplink = Some(uplink);
                network.send(uplink, INITIALIZER, Message::Open(None));
            }
        }
    }

    /// Has the processes form the generation that the receiver has numbered.
    fn form(&mut self, network: &mut Network, generation: u64) {
        let Some(Life { first: Some(first), .. }) = &self.life else { return };
        for &control in &first.members {
            let form = ControlMessage::Form { generation, process: 1, members: Vec::new() };
            network.send(control, INITIALIZER, Message::Control(form));
        }
        self.begin(network);
    }

    /// Starts the dataflow, if all have formed.
    fn begin(&mut self, network: &mut Network) {
        let Some(life) = &mut self.life else { return };
        let Some(first) = life.first.as_mut().filter(|first| first.issuer.is_none()) else { return };
        let (Some(welcome), Some(forming)) = (&life.welcome, &first.forming) else { return };
        if !forming.is_empty() {
            return;
        }
        self.has_formed = true;
        first.issuer = Some(Issuer::new(LIMITS, first.members.len() + 1, welcome));
        first.next_row = welcome.next_row;
        first.started = network.now;
        for &control in &first.members {
            network.send(control, INITIALIZER, Message::Control(ControlMessage::Start));
        }
        first.next_look = network.now + LOOK;
        network.wake(INITIALIZER, LOOK);
    }

    /// Cuts rows to batches, and issues them.
    fn issue(&mut self, network: &mut Network) {
        let Some(life) = &mut self.life else { return };
        let Some(first) = &mut life.first else { return };
        let Some(issuer) = &mut first.issuer else { return };
        let mut mine = Vec::new();
        while first.rows.len() >= CHUNK || (first.ended && !first.rows.is_empty()) {
            let count = first.rows.len().min(CHUNK);
            let bytes: Vec<u8> = first.rows.iter().take(count).flat_map(|row| row.to_be_bytes()).collect();
            let (header, frames) = (Bytes::from_static(b"A"), Bytes::from(bytes));
            let Some(batch) = issuer.issue(&header, &frames, count as u32, ms(network.now)) else { break };
            first.rows.drain(..count);
            match (batch.worker as usize).checked_sub(1) {
                None => mine.push(batch),
                Some(other) => network.send(first.members[other], INITIALIZER, Message::Data(batch)),
            }
            let mut taken = count;
            while let Some(message) = first.messages.front_mut().filter(|_| taken > 0) {
                let part = taken.min(*message);
                (*message, taken) = (*message - part, taken - part);
                if *message == 0 {
                    first.messages.pop_front();
                    if let Some(sender) = first.sender {
                        network.send(sender, INITIALIZER, Message::Taken);
                    }
                }
            }
        }
        if first.ended && first.rows.is_empty() && !first.told {
            first.told = true;
            if let Some(uplink) = life.uplink {
                network.send(uplink, INITIALIZER, Message::Totals(issuer.totals()));
            }
        }
        mine.into_iter().for_each(|batch| self.classify(network, batch));
    }

    fn classify(&mut self, network: &mut Network, batch: Batch) {
        let me = self.me();
        let Some(life) = &mut self.life else { return };
        let begin = life.at_work.back().map_or(network.now, |(at, _)| *at);
        let done = begin + network.random.random_range(1..WORK);
        life.at_work.push_back((done, batch));
        network.wake(me, done - network.now);
    }

    pub(crate) fn wake(&mut self, network: &mut Network) {
        let me = self.me();
        let Some(life) = &mut self.life else { return };
        while let Some((_, batch)) = life.at_work.pop_front_if(|(at, _)| *at <= network.now) {
            let Some(uplink) = life.uplink else { continue };
            let results = ResultBatch {
                number: batch.number,
                first_row: batch.first_row,
                rows: batch.rows,
                rejected: 0,
                worker: batch.worker,
                schema: Bytes::new(),
                results: batch.frames,
                rejects: Bytes::new(),
            };
            network.send(uplink, me, Message::Results(results));
        }
        if let Some(first) = &mut life.first
            && first.issuer.is_some()
        {
            if first.latecomers.patience(ms(network.now - first.started)) == Some(Duration::ZERO) {
                return self.leave(network);
            }
            if first.next_look <= network.now {
                first.next_look = network.now + LOOK;
                network.wake(me, LOOK);
            }
        }
        self.gather(network);
    }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
