//! Classifiers; the first is the initializer. The production state machines make all decisions. This file carries events to
//! them and actions from them, and simulates the duration of models, data connections and restarts.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::anyhow;
use classifier::batch::Batch;
use classifier::cluster::coordinator::{self, Candidate, Coordinator};
use classifier::cluster::membership::Limit;
use classifier::cluster::participant::{self, Participant};
use protocol::Temporary;
use protocol::handshake::{ControlMessage, Member};
use protocol::results::{FromReceiver, Outcome, ResultBatch, Welcome};
use rand::RngExt;

use crate::network::{Address, Delivery, Message, Network};
use crate::port::{Port, ToSend};
use crate::unexpected;

const RECEIVER: Address = Address::Receiver;
const INITIALIZER: Address = Address::Classifier(0);
/// Time limit for the first cluster to form, and how long later ones wait for missing processes.
const FIRST: Duration = Duration::from_secs(180);
const LATER: Duration = Duration::from_secs(10);
/// The longest time to make data connections, in milliseconds.
const CONNECT: u64 = 50;
/// The schema of all results.
const SCHEMA: &[u8] = br#"[{"row":0,"schema":{"columns":[["A",["text"]]]}}]"#;
/// The longest time of a restart, in milliseconds.
const RESTART: u64 = 100;

pub(crate) struct Classifier {
    index: usize,
    processes: usize,
    /// The longest time for a batch, in milliseconds.
    work: u64,
    /// It has been in a cluster; its ready file says so, which outlives the process.
    has_formed: bool,
    smaller: u32,
    grown: u32,
    /// It has learnt that the job is done.
    concluded: bool,
    life: Option<Life>,
}

struct Life {
    began: u64,
    role: Role,
    /// The connection to the receiver.
    receiver: Option<u64>,
    /// When its data connections are established.
    connected_at: Option<u64>,
    /// Batches that are being classified, with the time when each is done.
    in_progress: VecDeque<(u64, Batch)>,
}

enum Role {
    Initializer(Box<Initializer>),
    Member { control: u64, participant: Participant, generation: u64 },
}

struct Initializer {
    coordinator: Coordinator,
    /// When the next scheduled tick is due.
    tick: Option<u64>,
    /// Control connections of the members, in their order.
    members: Vec<u64>,
    welcome: Option<Welcome>,
    /// The port for rows, once the dataflow runs.
    port: Option<Port>,
}

impl Classifier {
    pub(crate) fn new(index: usize, processes: usize, work: u64) -> Self {
        Self { index, processes, work, has_formed: false, smaller: 0, grown: 0, concluded: false, life: None }
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

    /// The number of generations that formed without all processes.
    pub(crate) fn smaller(&self) -> u32 {
        self.smaller
    }

    /// The number of generations that ended for a larger one.
    pub(crate) fn grown(&self) -> u32 {
        self.grown
    }

    /// Whether it knows that the job is done, and no connected sender still waits for that answer.
    pub(crate) fn has_concluded(&self) -> bool {
        let sender = match &self.life {
            Some(Life { role: Role::Initializer(first), .. }) => {
                first.port.as_ref().is_some_and(Port::has_senders)
            }
            _ => false,
        };
        self.concluded && !sender
    }

    /// Whether it knows that the job is done.
    pub(crate) fn knows_the_end(&self) -> bool {
        self.concluded
    }

    pub(crate) fn die(&mut self) {
        self.life = None;
    }

    /// Ends the process and restarts it. The error must be temporary, since a final one would end the job.
    fn end(&mut self, network: &mut Network, error: &anyhow::Error) {
        assert!(error.is::<Temporary>(), "{:?} ends the job: {error:#}", self.me());
        network.crash(self.me(), RESTART);
    }

    fn lost(&mut self, network: &mut Network, what: &str) {
        self.end(network, &anyhow!("{what} is lost").context(Temporary("lost")));
    }

    pub(crate) fn start(&mut self, network: &mut Network) {
        let role = if self.index == 0 {
            let limit = if self.has_formed { Limit::Back(LATER) } else { Limit::All(FIRST) };
            let coordinator = Coordinator::new(self.member(), self.processes, limit, FIRST);
            Role::Initializer(Box::new(Initializer {
                coordinator,
                tick: None,
                members: Vec::new(),
                welcome: None,
                port: None,
            }))
        } else {
            let control = network.connect(self.me(), INITIALIZER);
            network.send(control, self.me(), Message::Join(self.member()));
            Role::Member { control, participant: Participant::new("the initializer".into()), generation: 0 }
        };
        self.life = Some(Life {
            began: network.now,
            role,
            receiver: None,
            connected_at: None,
            in_progress: VecDeque::new(),
        });
        self.schedule_tick(network);
    }

    pub(crate) fn recv(&mut self, network: &mut Network, connection: u64, delivery: Delivery) {
        let Some(life) = &mut self.life else { return };
        if life.receiver == Some(connection) {
            return match delivery {
                Delivery::Broken => self.lost(network, "the receiver"),
                Delivery::Message(message) => self.recv_from_receiver(network, message),
            };
        }
        match &mut life.role {
            Role::Member { control, .. } if *control == connection => self.recv_control(network, delivery),
            Role::Member { .. } => {}
            Role::Initializer(_) => self.recv_first(network, connection, delivery),
        }
    }

    fn recv_from_receiver(&mut self, network: &mut Network, message: Message) {
        let Some(life) = &mut self.life else { return };
        match (message, &mut life.role) {
            (Message::Refused { later }, _) => {
                let error = anyhow!("the receiver has refused it");
                self.end(network, &if later { error.context(Temporary("not now")) } else { error });
            }
            (Message::Welcome(welcome), Role::Initializer(first)) => {
                let generation = welcome.generation;
                first.welcome = Some(welcome);
                self.coordinate(network, coordinator::Event::Numbered(generation));
            }
            (Message::Welcome(_), Role::Member { .. }) => {
                self.participate(network, participant::Event::Formed);
            }
            (
                Message::FromReceiver(FromReceiver::Acknowledgement(acknowledgement)),
                Role::Initializer(first),
            ) => {
                let Some(port) = &mut first.port else { return };
                let to_send = port.acknowledge(&acknowledgement, time(network.now));
                self.send_all(network, to_send);
            }
            (
                Message::FromReceiver(FromReceiver::Outcome(Outcome::Done(summary))),
                Role::Initializer(first),
            ) => {
                self.concluded = true;
                let to_send = first.port.as_mut().map(|port| port.conclude(summary.rows));
                self.send_all(network, to_send.unwrap_or_default());
            }
            (other, _) => unexpected(self.me(), &other),
        }
    }

    /// Handles what a member receives from the initializer.
    fn recv_control(&mut self, network: &mut Network, delivery: Delivery) {
        let event = match delivery {
            Delivery::Message(Message::Data(batch)) => return self.classify(network, batch),
            Delivery::Message(Message::Control(message)) => participant::Event::Message(message),
            Delivery::Message(Message::Refused { later }) => {
                let error = anyhow!("the initializer has refused it");
                assert!(later, "a final refusal would end the job");
                participant::Event::Lost(error)
            }
            Delivery::Message(other) => unexpected(self.me(), &other),
            Delivery::Broken => participant::Event::Lost(anyhow!("it is silent")),
        };
        self.participate(network, event);
    }

    fn participate(&mut self, network: &mut Network, event: participant::Event) {
        let me = self.me();
        let Some(Life { role: Role::Member { control, participant, generation }, connected_at, .. }) =
            &mut self.life
        else {
            return;
        };
        match participant.handle(event) {
            None => {}
            Some(participant::Action::Connect(formation)) => {
                *generation = formation.generation;
                *connected_at = Some(connect_time(network, me));
            }
            Some(participant::Action::Send(message)) => {
                network.send(*control, me, Message::Control(message));
            }
            Some(participant::Action::Start) => self.has_formed = true,
            Some(participant::Action::End(error)) => self.end(network, &error),
        }
    }

    /// Handles what the initializer receives from members, latecomers and senders.
    fn recv_first(&mut self, network: &mut Network, connection: u64, delivery: Delivery) {
        let Some(Life { role: Role::Initializer(first), .. }) = &mut self.life else { return };
        let is_sender = first.port.as_ref().is_some_and(|port| port.knows(connection));
        let event = match (delivery, &mut first.port) {
            (Delivery::Broken, Some(port)) if is_sender => return port.close(connection),
            (Delivery::Broken, _) => coordinator::Event::Left(connection, anyhow!("it is silent")),
            (Delivery::Message(Message::Join(member)), _) => {
                let (name, ip) = (member.name.clone(), IpAddr::V4(Ipv4Addr::LOCALHOST));
                coordinator::Event::Join(connection, Candidate { member, name, local: ip, remote: ip })
            }
            (Delivery::Message(Message::Control(message)), _) => {
                coordinator::Event::Message(connection, message)
            }
            // The initializer admits no senders before the dataflow runs.
            (Delivery::Message(Message::Hello(_)), None) => return network.break_off(connection),
            (Delivery::Message(Message::Hello(hello)), Some(port)) => {
                let to_send = port.open(connection, hello);
                return self.send_all(network, to_send);
            }
            (Delivery::Message(Message::Bytes(bytes)), Some(port)) if is_sender => {
                let to_send = port.recv(connection, &bytes, time(network.now));
                return self.send_all(network, to_send);
            }
            // The port has closed the connection in the meantime.
            (Delivery::Message(Message::Bytes(_)), _) => return,
            (Delivery::Message(other), _) => unexpected(INITIALIZER, &other),
        };
        self.coordinate(network, event);
    }

    fn coordinate(&mut self, network: &mut Network, event: coordinator::Event) {
        let Some(Life { role: Role::Initializer(first), began, receiver, connected_at, .. }) = &mut self.life
        else {
            return;
        };
        for action in first.coordinator.handle(event, time(network.now - *began)) {
            match action {
                coordinator::Action::Refuse(id, reason) => {
                    let later = reason.is::<Temporary>();
                    network.send(id, INITIALIZER, Message::Refused { later });
                    network.break_off(id);
                }
                coordinator::Action::RequestNumber => {
                    self.smaller += u32::from(first.coordinator.missing() > 0);
                    let connection = network.connect(INITIALIZER, RECEIVER);
                    *receiver = Some(connection);
                    network.send(connection, INITIALIZER, Message::Open(None));
                }
                coordinator::Action::Send(id, message) => {
                    if let ControlMessage::Form { .. } = &message {
                        first.members.push(id);
                    }
                    network.send(id, INITIALIZER, Message::Control(message));
                }
                coordinator::Action::Connect(_) => *connected_at = Some(connect_time(network, INITIALIZER)),
                coordinator::Action::Start => {
                    self.has_formed = true;
                    let welcome =
                        first.welcome.clone().expect("the generation's number came with the welcome");
                    first.port = Some(Port::new(first.members.len() + 1, &welcome));
                }
                coordinator::Action::End(error) => {
                    self.grown += u32::from(format!("{error:#}").contains("makes way"));
                    return self.end(network, &error);
                }
            }
        }
        self.schedule_tick(network);
    }

    fn schedule_tick(&mut self, network: &mut Network) {
        let Some(Life { role: Role::Initializer(first), began, .. }) = &mut self.life else { return };
        let Some(deadline) = first.coordinator.deadline(time(network.now - *began)) else { return };
        let at = *began + deadline.as_millis() as u64;
        if first.tick != Some(at) {
            first.tick = Some(at);
            network.wake(INITIALIZER, at.saturating_sub(network.now));
        }
    }

    /// Sends the port's messages to workers, the receiver and senders.
    fn send_all(&mut self, network: &mut Network, all: Vec<ToSend>) {
        for to_send in all {
            let Some(Life { role: Role::Initializer(first), receiver, .. }) = &mut self.life else { return };
            match to_send {
                ToSend::Batch(batch) => match (batch.worker as usize).checked_sub(1) {
                    None => self.classify(network, batch),
                    Some(other) => network.send(first.members[other], INITIALIZER, Message::Data(batch)),
                },
                ToSend::Receiver(message) => {
                    if let Some(receiver) = *receiver {
                        network.send(receiver, INITIALIZER, message);
                    }
                }
                ToSend::Sender(connection, message) => network.send(connection, INITIALIZER, message),
                ToSend::Close(connection) => network.break_off(connection),
            }
        }
    }

    fn classify(&mut self, network: &mut Network, batch: Batch) {
        let me = self.me();
        let Some(life) = &mut self.life else { return };
        let begin = life.in_progress.back().map_or(network.now, |(at, _)| *at);
        let done = begin + network.random.random_range(1..self.work);
        life.in_progress.push_back((done, batch));
        network.wake(me, done - network.now);
    }

    pub(crate) fn wake(&mut self, network: &mut Network) {
        let me = self.me();
        let Some(life) = &mut self.life else { return };
        while let Some((_, batch)) = life.in_progress.pop_front_if(|(at, _)| *at <= network.now) {
            let Some(receiver) = life.receiver else { continue };
            let results = ResultBatch {
                number: batch.number,
                first_row: batch.first_row,
                rows: batch.rows,
                rejected: 0,
                worker: batch.worker,
                schema: bytes::Bytes::from_static(SCHEMA),
                results: batch.frames,
                rejects: bytes::Bytes::new(),
            };
            network.send(receiver, me, Message::Results(results));
        }
        let connected = life.connected_at.take_if(|at| *at <= network.now).is_some();
        match &mut life.role {
            Role::Member { generation, .. } if connected => {
                let receiver = network.connect(me, RECEIVER);
                network.send(receiver, me, Message::Open(Some(*generation)));
                life.receiver = Some(receiver);
            }
            Role::Member { .. } => {}
            Role::Initializer(first) => {
                let ticks = first.tick.take_if(|at| *at <= network.now).is_some();
                if connected {
                    self.coordinate(network, coordinator::Event::Formed);
                }
                if ticks {
                    self.coordinate(network, coordinator::Event::Tick);
                }
            }
        }
    }
}

/// Schedules the end of connecting; returns when data connections that begin now are established.
fn connect_time(network: &mut Network, of: Address) -> u64 {
    let takes = network.random.random_range(1..CONNECT);
    network.wake(of, takes);
    network.now + takes
}

fn time(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
