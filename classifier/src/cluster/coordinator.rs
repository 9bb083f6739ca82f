//! The initializer's side of the control plane: decides which processes join, and when the generation forms, starts and ends.
//! Pure: turns events and the time into actions. Connections are numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::anyhow;
use protocol::Temporary;
use protocol::handshake::{ControlMessage, Member};

use super::Formation;
use super::membership::{JoinId, Latecomers, Limit, Membership, Standing};

/// A process that asks to be a member, and has shown the token.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub member: Member,
    /// For errors and the log.
    pub name: String,
    /// The initializer's end of the control connection: where the process reaches the initializer.
    pub local: IpAddr,
    /// The process's end: where other members reach the process.
    pub remote: IpAddr,
}

/// What happens at the control port.
#[derive(Debug)]
pub enum Event {
    /// A process asks to be a member.
    Join(JoinId, Candidate),
    /// A process has sent a message other than a heartbeat.
    Message(JoinId, ControlMessage),
    /// A process's connection has ended, for this reason.
    Left(JoinId, anyhow::Error),
    /// The receiver has numbered this generation.
    Numbered(u64),
    /// The initializer has made its own data connections.
    Formed,
    /// A client asks the cluster to stop.
    Shutdown,
    /// The deadline of [`Coordinator::deadline`] has passed.
    Tick,
}

/// What the caller must do.
#[derive(Debug)]
pub enum Action {
    /// Send this process the reason why it may not be a member, and close its connection.
    Refuse(JoinId, anyhow::Error),
    /// Ask the receiver for the generation's number.
    RequestNumber,
    /// Send this process a message.
    Send(JoinId, ControlMessage),
    /// Make the data connections of this generation.
    Connect(Formation),
    /// Run the dataflow.
    Start,
    /// End this process. If the error is [`Temporary`], the process joins the next generation when it is restarted.
    End(anyhow::Error),
}

/// Forms one generation, and ends it when a member is lost.
#[derive(Debug)]
pub struct Coordinator {
    membership: Membership,
    latecomers: Latecomers,
    /// Members and latecomers.
    candidates: BTreeMap<JoinId, Candidate>,
    /// How long forming may take.
    patience: Duration,
    phase: Phase,
}

/// The phase of a generation's life.
#[derive(Debug)]
enum Phase {
    /// Processes join.
    Gathering,
    /// The members are known; the receiver is asked for the generation's number.
    Numbering,
    /// The members make their data connections.
    Forming {
        /// Members that have not formed.
        waiting: BTreeSet<JoinId>,
        /// When they must have formed. Set once the initializer has formed, since its own waits have their own deadlines.
        deadline: Option<Duration>,
    },
    /// The dataflow has been running since this time.
    Running(Duration),
    /// The process must end.
    Ended,
}

impl Coordinator {
    /// Waits for `wanted` processes, the initializer included. `patience` limits how long they may take to form.
    pub fn new(me: Member, wanted: usize, limit: Limit, patience: Duration) -> Self {
        Self {
            membership: Membership::new(me, wanted, limit),
            latecomers: Latecomers::default(),
            candidates: BTreeMap::new(),
            patience,
            phase: Phase::Gathering,
        }
    }

    /// When [`Event::Tick`] is due. All times are counted from the opening of the control port.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        match &self.phase {
            Phase::Gathering => match self.membership.standing(now) {
                Standing::Waiting(left) => Some(now + left),
                Standing::Complete | Standing::TooLate => Some(now),
            },
            Phase::Forming { deadline, .. } => *deadline,
            Phase::Running(since) => self.latecomers.remaining(now - *since).map(|left| now + left),
            Phase::Numbering | Phase::Ended => None,
        }
    }

    /// The number of processes missing from this generation.
    pub fn missing(&self) -> usize {
        self.membership.missing()
    }

    /// Handles an event.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        if matches!(self.phase, Phase::Ended) {
            return Vec::new();
        }
        match event {
            Event::Join(id, candidate) => self.join(id, candidate, now),
            Event::Message(id, message) => self.message(id, &message, now),
            Event::Left(id, reason) => self.leave(id, reason),
            Event::Numbered(generation) => self.form(generation),
            Event::Formed => {
                if let Phase::Forming { deadline, .. } = &mut self.phase {
                    *deadline = Some(now + self.patience);
                }
                self.start_if_formed(now)
            }
            Event::Shutdown => {
                let stop = |id: &JoinId| Action::Send(*id, ControlMessage::Shutdown);
                let mut actions: Vec<_> = self.candidates.keys().map(stop).collect();
                actions.extend(self.end(anyhow!("the cluster was asked to shut down")));
                actions
            }
            Event::Tick => self.tick(now),
        }
    }

    fn join(&mut self, id: JoinId, candidate: Candidate, now: Duration) -> Vec<Action> {
        let is_gathering = matches!(self.phase, Phase::Gathering);
        let joined = match is_gathering {
            true => self.membership.join(id, candidate.member.clone()),
            false => self.latecomers.join(id),
        };
        match joined {
            Err(reason) => {
                tracing::warn!("refused {}: {reason:#}", candidate.name);
                return vec![Action::Refuse(id, reason)];
            }
            Ok(()) if !is_gathering => tracing::info!("{} waits for the next generation", candidate.name),
            Ok(()) => {}
        }
        self.candidates.insert(id, candidate);
        if is_gathering { self.gather(now) } else { Vec::new() }
    }

    fn leave(&mut self, id: JoinId, reason: anyhow::Error) -> Vec<Action> {
        // A refused process is not a candidate.
        let Some(candidate) = self.candidates.remove(&id) else { return Vec::new() };
        if let Phase::Gathering = self.phase {
            self.membership.leave(id);
            tracing::warn!("{} left before the cluster was complete: {reason:#}", candidate.name);
            return Vec::new();
        }
        self.latecomers.leave(id);
        if !self.is_member(id) {
            return Vec::new();
        }
        self.end(reason.context(candidate.name).context(Temporary("a member is lost")))
    }

    fn message(&mut self, id: JoinId, message: &ControlMessage, now: Duration) -> Vec<Action> {
        if let (Phase::Forming { waiting, .. }, ControlMessage::Formed) = (&mut self.phase, message)
            && waiting.remove(&id)
        {
            return self.start_if_formed(now);
        }
        let is_gathering = matches!(self.phase, Phase::Gathering);
        match self.candidates.get(&id).filter(|_| !is_gathering && self.is_member(id)) {
            Some(Candidate { name, .. }) => {
                let error = anyhow!("{name}: an unexpected message: {message:?}");
                self.end(error.context(Temporary("a member broke the protocol")))
            }
            // Messages of a process that is not a member do no harm.
            None => Vec::new(),
        }
    }

    fn tick(&mut self, now: Duration) -> Vec<Action> {
        match &self.phase {
            Phase::Gathering => self.gather(now),
            Phase::Forming { waiting, deadline: Some(deadline) } if now >= *deadline => {
                let names: Vec<_> = waiting.iter().map(|id| self.candidates[id].name.as_str()).collect();
                let patience = self.patience;
                self.end(anyhow!("waiting for {} to form: not within {patience:?}", names.join(", ")))
            }
            Phase::Running(since) if self.latecomers.remaining(now - *since) == Some(Duration::ZERO) => {
                let names: Vec<_> = self.late_names().collect();
                let error = anyhow!("makes way for a generation with {}", names.join(", "));
                self.end(error.context(Temporary("a missing process is back")))
            }
            _ => Vec::new(),
        }
    }

    /// Ends the wait for members when all have joined, or the time is over.
    fn gather(&mut self, now: Duration) -> Vec<Action> {
        match self.membership.standing(now) {
            Standing::Waiting(_) => return Vec::new(),
            Standing::TooLate => {
                let error = anyhow!(
                    "waiting for {} processes to join: after {now:.0?} there are {}",
                    self.membership.wanted(),
                    self.names()
                );
                return self.end(error);
            }
            Standing::Complete => {}
        }
        let missing = self.membership.missing();
        if missing > 0 {
            tracing::warn!(
                "{missing} of {} processes are not back; the cluster continues with {}",
                self.membership.wanted(),
                self.names()
            );
        }
        self.latecomers = Latecomers::new(missing);
        self.phase = Phase::Numbering;
        vec![Action::RequestNumber]
    }

    /// Sends the member list to all members.
    fn form(&mut self, generation: u64) -> Vec<Action> {
        let Phase::Numbering = self.phase else { return Vec::new() };
        let members: Vec<_> = self.membership.members().cloned().collect();
        let mut actions = Vec::new();
        for (process, id) in (1..).zip(self.membership.connections()) {
            let members = self.as_seen_from(id);
            actions.push(Action::Send(id, ControlMessage::Form { generation, process, members }));
        }
        actions.push(Action::Connect(Formation { generation, process: 0, members }));
        self.phase = Phase::Forming { waiting: self.membership.connections().collect(), deadline: None };
        actions
    }

    fn start_if_formed(&mut self, now: Duration) -> Vec<Action> {
        match &self.phase {
            Phase::Forming { waiting, deadline: Some(_) } if waiting.is_empty() => {}
            _ => return Vec::new(),
        }
        self.phase = Phase::Running(now);
        let start = |id| Action::Send(id, ControlMessage::Start);
        self.membership.connections().map(start).chain([Action::Start]).collect()
    }

    fn end(&mut self, error: anyhow::Error) -> Vec<Action> {
        self.phase = Phase::Ended;
        vec![Action::End(error)]
    }

    fn is_member(&self, id: JoinId) -> bool {
        self.membership.connections().any(|member| member == id)
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.membership.members().map(|member| member.name.as_str()).collect();
        format!("{}: {}", names.len(), names.join(", "))
    }

    fn late_names(&self) -> impl Iterator<Item = &str> {
        let late = self.candidates.iter().filter(|(id, _)| !self.is_member(**id));
        late.map(|(_, candidate)| candidate.name.as_str())
    }

    /// The members with addresses at which this one can reach them. A process that listens at all addresses of its host is
    /// reached at the address that its control connection comes from, and the initializer at the address that this
    /// connection goes to.
    fn as_seen_from(&self, id: JoinId) -> Vec<Member> {
        let initializer = self.candidates[&id].local;
        let others = self.membership.connections().map(|other| self.candidates[&other].remote);
        let reachable = |(member, seen): (&Member, IpAddr)| {
            let mut member = member.clone();
            // Malformed addresses were refused at the join.
            if let Ok(data) = member.data.parse::<SocketAddr>()
                && data.ip().is_unspecified()
            {
                member.data = SocketAddr::new(seen, data.port()).to_string();
            }
            member
        };
        self.membership.members().zip([initializer].into_iter().chain(others)).map(reachable).collect()
    }
}

#[cfg(test)]
mod tests;
