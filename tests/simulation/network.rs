//! The network, which is also the clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chacha20::ChaCha8Rng;
use classifier::batch::Batch;
use protocol::handshake::{ControlMessage, Member, SenderHello, SourceAnswer};
use protocol::results::{FromReceiver, Identity, ResultBatch, Totals, Welcome};
use rand::{RngExt, SeedableRng};

/// After this many milliseconds without a heartbeat, the other side of a connection counts as lost.
const SILENCE: u64 = 5000;
/// Wall-clock time at which the simulation begins, in milliseconds since 1970, and how far clocks may be off, in
/// milliseconds.
const WALL_START: u64 = 1_500_000_000_000;
const MOST_CLOCK_OFFSET: i64 = 1_000_000_000;
/// The longest delay of a message, in milliseconds.
const SLOWEST: u64 = 30;

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Address {
    Receiver,
    /// The first is the initializer.
    Classifier(usize),
    Sender,
}

/// A message between processes.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    /// To the initializer's control port.
    Join(Member),
    Control(ControlMessage),
    /// To another classifier.
    Data(Batch),
    /// To the receiver, from a process of this generation or from an initializer.
    Open(Option<u64>),
    Welcome(Welcome),
    Results(ResultBatch),
    Identity(Identity),
    Totals(Totals),
    FromReceiver(FromReceiver),
    /// From a sender, and to it.
    Hello(SenderHello),
    Answer(SourceAnswer),
    /// The header, rows, or their end.
    Bytes(Bytes),
    /// This many messages of bytes were read.
    Consumed(usize),
    /// The connection is refused; with `later`, only for now.
    Refused {
        later: bool,
    },
}

/// What one end of a connection gets.
#[derive(Debug, Clone)]
pub(crate) enum Delivery {
    Message(Message),
    /// The other side is lost, or was never there.
    Broken,
}

#[derive(Debug, Clone)]
pub(crate) enum Event {
    Fault,
    Start(Address),
    Delivery { to: Address, connection: u64, delivery: Delivery },
    Timer { of: Address, incarnation: u32 },
}

struct Connection {
    /// Both ends, with their incarnations when they connected.
    ends: [(Address, u32); 2],
    /// When the last message to each end arrives; messages stay in order.
    last: [u64; 2],
    broken: bool,
}

/// The network, which is also the clock.
pub(crate) struct Network {
    pub(crate) now: u64,
    pub(crate) random: ChaCha8Rng,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    what: BTreeMap<u64, Event>,
    count: u64,
    connections: BTreeMap<u64, Connection>,
    /// The incarnation of each process, and whether it runs.
    lives: BTreeMap<Address, (u32, bool)>,
    /// Until when each process is cut off.
    cut: BTreeMap<Address, u64>,
    /// Processes whose death is not handled yet.
    pub(crate) died: Vec<Address>,
    is_verbose: bool,
    /// How far the wall clocks are off, in milliseconds.
    clock_offset: i64,
}

impl Network {
    pub(crate) fn new(seed: u64, is_verbose: bool) -> Self {
        Self {
            now: 0,
            random: ChaCha8Rng::seed_from_u64(!seed),
            events: BinaryHeap::new(),
            what: BTreeMap::new(),
            count: 0,
            connections: BTreeMap::new(),
            lives: BTreeMap::new(),
            cut: BTreeMap::new(),
            died: Vec::new(),
            is_verbose,
            clock_offset: 0,
        }
    }

    /// The time of the wall clocks.
    pub(crate) fn wall(&self) -> SystemTime {
        let shown = self.now as i64 + self.clock_offset;
        SystemTime::UNIX_EPOCH + Duration::from_millis(WALL_START.saturating_add_signed(shown))
    }

    /// Sets the wall clocks forward or back.
    pub(crate) fn step_clock(&mut self) {
        self.clock_offset = self.random.random_range(-MOST_CLOCK_OFFSET..MOST_CLOCK_OFFSET);
    }

    pub(crate) fn at(&mut self, time: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time, self.count)));
        self.what.insert(self.count, event);
    }

    pub(crate) fn next(&mut self) -> Option<Event> {
        loop {
            let Reverse((time, number)) = self.events.pop()?;
            self.now = time;
            // A reset may have removed the event.
            let Some(event) = self.what.remove(&number) else { continue };
            match &event {
                Event::Start(address) => {
                    let life = self.lives.entry(*address).or_insert((0, false));
                    if life.1 {
                        continue;
                    }
                    *life = (life.0 + 1, true);
                }
                Event::Delivery { to, connection, .. } => {
                    let connection = &self.connections[connection];
                    let end = connection.ends.iter().find(|(address, _)| address == to);
                    // The process has died in the meantime.
                    if end.is_none_or(|(_, incarnation)| self.incarnation(*to) != Some(*incarnation)) {
                        continue;
                    }
                }
                Event::Fault | Event::Timer { .. } => {}
            }
            if self.is_verbose {
                crate::print(format_args!("{time:>7} {event:?}"));
            }
            return Some(event);
        }
    }

    pub(crate) fn incarnation(&self, of: Address) -> Option<u32> {
        self.lives.get(&of).filter(|(_, lives)| *lives).map(|(incarnation, _)| *incarnation)
    }

    /// Starts a process after this many milliseconds.
    pub(crate) fn start(&mut self, address: Address, after: u64) {
        self.at(self.now + after, Event::Start(address));
    }

    /// Wakes a process after this many milliseconds, if the same incarnation runs then.
    pub(crate) fn wake(&mut self, of: Address, after: u64) {
        if let Some(incarnation) = self.incarnation(of) {
            self.at(self.now + after, Event::Timer { of, incarnation });
        }
    }

    /// Kills a process, and restarts it within `away` milliseconds.
    pub(crate) fn crash(&mut self, process: Address, away: u64) {
        let Some(life) = self.lives.get_mut(&process).filter(|(_, lives)| *lives) else { return };
        life.1 = false;
        self.died.push(process);
        let away = self.random.random_range(1..=away);
        self.start(process, away);
        let all: Vec<u64> = self.connections.keys().copied().collect();
        for connection in all {
            if self.connections[&connection].ends.iter().any(|(address, _)| *address == process) {
                self.break_off(connection);
            }
        }
    }

    /// Cuts a process off for this many milliseconds. Messages sent in that time arrive later. After [`SILENCE`], both sides
    /// consider the other lost.
    pub(crate) fn cut(&mut self, process: Address, time: u64) {
        self.cut.insert(process, self.now + time);
        if time < SILENCE {
            return;
        }
        let all: Vec<u64> = self.connections.keys().copied().collect();
        for connection in all {
            let ends = self.connections[&connection].ends.map(|(address, _)| address);
            if ends.contains(&process) && !self.connections[&connection].broken {
                self.connections.get_mut(&connection).expect("it is known").broken = true;
                for to in ends {
                    self.at(
                        self.now + SILENCE,
                        Event::Delivery { to, connection, delivery: Delivery::Broken },
                    );
                }
            }
        }
    }

    /// When a message sent now can leave: now, or when no end is cut off any more.
    fn reaches(&self, ends: [Address; 2]) -> u64 {
        let until = ends.iter().filter_map(|end| self.cut.get(end)).max().copied();
        until.unwrap_or(0).max(self.now)
    }

    /// Connects. If the other process does not run, the connection breaks later.
    pub(crate) fn connect(&mut self, from: Address, to: Address) -> u64 {
        self.count += 1;
        let connection = self.count;
        let incarnation = self.incarnation(from).expect("a process that connects runs");
        let other = self.incarnation(to);
        let ends = [(from, incarnation), (to, other.unwrap_or(0))];
        let broken = other.is_none() || self.reaches([from, to]) > self.now;
        self.connections.insert(connection, Connection { ends, last: [0, 0], broken });
        if broken {
            let delivery = Delivery::Broken;
            self.at(self.now + SLOWEST, Event::Delivery { to: from, connection, delivery });
        }
        connection
    }

    pub(crate) fn send(&mut self, connection: u64, from: Address, message: Message) {
        let Some(known) = self.connections.get(&connection).filter(|known| !known.broken) else { return };
        let to = usize::from(known.ends[0].0 == from);
        let ends = known.ends.map(|(address, _)| address);
        let begin = self.reaches(ends).max(known.last[to]);
        let time = begin + self.random.random_range(0..SLOWEST);
        self.connections.get_mut(&connection).expect("it is known").last[to] = time;
        self.at(time, Event::Delivery { to: ends[to], connection, delivery: Delivery::Message(message) });
    }

    /// Closes a connection. Both ends notice, and messages in flight may be lost.
    pub(crate) fn break_off(&mut self, connection: u64) {
        let Some(known) = self.connections.get_mut(&connection).filter(|known| !known.broken) else { return };
        known.broken = true;
        let (ends, last) = (known.ends.map(|(address, _)| address), known.last);
        for (to, last) in ends.into_iter().zip(last) {
            // A reset overtakes messages; an orderly end does not.
            let lost = self.random.random_bool(0.5);
            let time = if lost { self.now + 1 } else { last.max(self.now) + 1 };
            if lost {
                let late = |event: &Event| matches!(event, Event::Delivery { to: other, connection: of, .. } if *other == to && *of == connection);
                self.what.retain(|_, event| !late(event));
            }
            self.at(time, Event::Delivery { to, connection, delivery: Delivery::Broken });
        }
    }
}
