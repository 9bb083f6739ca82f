//! Time, connections and what becomes of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chacha20::ChaCha8Rng;
use classifier::batch::Batch;
use protocol::handshake::{ControlMessage, Member, SenderHello, SourceAnswer};
use protocol::results::{FromReceiver, Identity, ResultBatch, Totals, Welcome};
use rand::{RngExt, SeedableRng};

/// After this many milliseconds without a heartbeat, the other side of a connection is gone.
const SILENCE: u64 = 5000;
/// When the simulation begins, in milliseconds since 1970, and by how much a clock may be wrong.
const LONG_AGO: u64 = 1_500_000_000_000;
const STEP: i64 = 1_000_000_000;
/// The longest that a message takes.
const SLOWEST: u64 = 30;

/// Who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Address {
    Receiver,
    /// The first is the initializer.
    Classifier(usize),
    Sender,
}

/// What crosses.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    /// To the initializer's control port.
    Join(Member),
    Control(ControlMessage),
    /// To another classifier.
    Data(Batch),
    /// To the receiver: a process of this generation comes, or an initializer.
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
    /// So many messages of bytes were read.
    Taken(usize),
    /// The connection is not wanted; perhaps later.
    Refused {
        later: bool,
    },
}

/// What becomes of one side of a connection.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    Message(Message),
    /// The other side is gone, or was never there.
    Broken,
}

#[derive(Debug, Clone)]
pub(crate) enum Event {
    Fault,
    Start(Address),
    Fate { to: Address, connection: u64, fate: Fate },
    Timer { of: Address, incarnation: u32 },
}

struct Connection {
    /// Both ends, in the lives that they had when it was made.
    ends: [(Address, u32); 2],
    /// When the last message to each end arrives: messages do not overtake each other.
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
    /// Which life each is in, and whether it lives.
    lives: BTreeMap<Address, (u32, bool)>,
    /// Until when each is cut off.
    cut: BTreeMap<Address, u64>,
    /// Those that have died since anybody looked.
    pub(crate) died: Vec<Address>,
    talks: bool,
    /// By how many milliseconds the clocks on the wall are wrong, which a step changes.
    wrong: i64,
}

impl Network {
    pub(crate) fn new(seed: u64, talks: bool) -> Self {
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
            talks,
            wrong: 0,
        }
    }

    /// What a clock on the wall shows.
    pub(crate) fn wall(&self) -> SystemTime {
        let shown = self.now as i64 + self.wrong;
        SystemTime::UNIX_EPOCH + Duration::from_millis(LONG_AGO.saturating_add_signed(shown))
    }

    /// The clocks on the wall are set, forward or back.
    pub(crate) fn step_clock(&mut self) {
        self.wrong = self.random.random_range(-STEP..STEP);
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
            // Else it was lost on its way.
            let Some(event) = self.what.remove(&number) else { continue };
            match &event {
                Event::Start(address) => {
                    let life = self.lives.entry(*address).or_insert((0, false));
                    if life.1 {
                        continue;
                    }
                    *life = (life.0 + 1, true);
                }
                Event::Fate { to, connection, .. } => {
                    let connection = &self.connections[connection];
                    let end = connection.ends.iter().find(|(address, _)| address == to);
                    // It has died since.
                    if end.is_none_or(|(_, incarnation)| self.incarnation(*to) != Some(*incarnation)) {
                        continue;
                    }
                }
                Event::Fault | Event::Timer { .. } => {}
            }
            if self.talks {
                crate::print(format_args!("{time:>7} {event:?}"));
            }
            return Some(event);
        }
    }

    pub(crate) fn incarnation(&self, of: Address) -> Option<u32> {
        self.lives.get(&of).filter(|(_, lives)| *lives).map(|(incarnation, _)| *incarnation)
    }

    /// Starts a process after so many milliseconds.
    pub(crate) fn start(&mut self, address: Address, after: u64) {
        self.at(self.now + after, Event::Start(address));
    }

    /// Wakes a process after so many milliseconds, if it still lives then.
    pub(crate) fn wake(&mut self, of: Address, after: u64) {
        if let Some(incarnation) = self.incarnation(of) {
            self.at(self.now + after, Event::Timer { of, incarnation });
        }
    }

    /// A process dies, and is started again within so many milliseconds.
    pub(crate) fn crash(&mut self, who: Address, away: u64) {
        let Some(life) = self.lives.get_mut(&who).filter(|(_, lives)| *lives) else { return };
        life.1 = false;
        self.died.push(who);
        let away = self.random.random_range(1..=away);
        self.start(who, away);
        let all: Vec<u64> = self.connections.keys().copied().collect();
        for connection in all {
            if self.connections[&connection].ends.iter().any(|(address, _)| *address == who) {
                self.break_off(connection);
            }
        }
    }

    /// A host is cut off for so many milliseconds: what is sent meanwhile arrives later, or, when that takes too long, both sides
    /// take the other for dead.
    pub(crate) fn cut(&mut self, who: Address, time: u64) {
        self.cut.insert(who, self.now + time);
        if time < SILENCE {
            return;
        }
        let all: Vec<u64> = self.connections.keys().copied().collect();
        for connection in all {
            let ends = self.connections[&connection].ends.map(|(address, _)| address);
            if ends.contains(&who) && !self.connections[&connection].broken {
                self.connections.get_mut(&connection).expect("it is there").broken = true;
                for to in ends {
                    self.at(self.now + SILENCE, Event::Fate { to, connection, fate: Fate::Broken });
                }
            }
        }
    }

    fn reaches(&self, ends: [Address; 2]) -> u64 {
        let until = ends.iter().filter_map(|end| self.cut.get(end)).max().copied();
        until.unwrap_or(0).max(self.now)
    }

    /// Connects; whether the other side is there is told by what becomes of it.
    pub(crate) fn connect(&mut self, from: Address, to: Address) -> u64 {
        self.count += 1;
        let connection = self.count;
        let incarnation = self.incarnation(from).expect("who connects lives");
        let other = self.incarnation(to);
        let ends = [(from, incarnation), (to, other.unwrap_or(0))];
        let broken = other.is_none() || self.reaches([from, to]) > self.now;
        self.connections.insert(connection, Connection { ends, last: [0, 0], broken });
        if broken {
            let fate = Fate::Broken;
            self.at(self.now + SLOWEST, Event::Fate { to: from, connection, fate });
        }
        connection
    }

    pub(crate) fn send(&mut self, connection: u64, from: Address, message: Message) {
        let Some(known) = self.connections.get(&connection).filter(|known| !known.broken) else { return };
        let to = usize::from(known.ends[0].0 == from);
        let ends = known.ends.map(|(address, _)| address);
        let begin = self.reaches(ends).max(known.last[to]);
        let time = begin + self.random.random_range(0..SLOWEST);
        self.connections.get_mut(&connection).expect("it is there").last[to] = time;
        self.at(time, Event::Fate { to: ends[to], connection, fate: Fate::Message(message) });
    }

    /// Closes a connection: both sides see that, and what is on its way may be lost.
    pub(crate) fn break_off(&mut self, connection: u64) {
        let Some(known) = self.connections.get_mut(&connection).filter(|known| !known.broken) else { return };
        known.broken = true;
        let (ends, last) = (known.ends.map(|(address, _)| address), known.last);
        for (to, last) in ends.into_iter().zip(last) {
            // A reset overtakes what was sent before; an orderly end does not.
            let lost = self.random.random_bool(0.5);
            let time = if lost { self.now + 1 } else { last.max(self.now) + 1 };
            if lost {
                let late = |event: &Event| matches!(event, Event::Fate { to: other, connection: of, .. } if *other == to && *of == connection);
                self.what.retain(|_, event| !late(event));
            }
            self.at(time, Event::Fate { to, connection, fate: Fate::Broken });
        }
    }
}
