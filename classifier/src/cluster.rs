//! How processes find each other at the initializer's control port, and form the mesh.
//!
//! 1. Each process joins at the control port: name, data address, workers, build, settings, token.
//! 2. When all are there, each gets the generation and the member list, and makes its data connections: to the
//!    processes before it in the list, and from those behind it.
//! 3. When its data connections stand and the receiver has let it in, a process says that it has formed.
//! 4. When all have, the initializer says start.
//!
//! Heartbeats run both ways from the beginning. When a process is lost, all others leave, and are started again; together
//! they form the next generation, without those that are not back in time ([`membership`]).
//!
//! | module          | holds |
//! |-----------------|-------|
//! | [`coordinator`] | the initializer's side, as a state machine; pure |
//! | [`membership`]  | who is in, and when that is all; pure |
//! | [`participant`] | the other processes' side, as a state machine; pure |
//! | [`initializer`] | the control port around the coordinator |
//! | [`member`]      | the control connection around the participant |
//! | [`mesh`]        | the data connections |

pub mod coordinator;
pub mod initializer;
mod link;
pub mod member;
pub mod membership;
pub mod mesh;
pub mod participant;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol::handshake::Member;
use protocol::token::Token;

/// What a process knows of the cluster that it wants to be in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The initializer's control address.
    pub control: String,
    /// Where this process's own end of the control connection is, if that matters.
    pub my_control: Option<String>,
    /// How this process describes itself; its data address as it is to be reached.
    pub me: Member,
    /// How many processes form the cluster when all are there.
    pub processes: usize,
    /// The job's token.
    pub token: Option<Token>,
    /// How long forming the cluster may take.
    pub patience: Duration,
    /// If this process was in a cluster before: how long its initializer waits for others to come back.
    pub rejoin: Option<Duration>,
}

/// The cluster, as far as it is formed: all know of each other.
#[derive(Debug, Clone)]
pub struct Formation {
    /// Grows from cluster to cluster.
    pub generation: u64,
    /// This process's place among the members.
    pub process: usize,
    /// All members, the initializer first.
    pub members: Vec<Member>,
}

/// Whether the dataflow has ended, so that connections may end as well.
#[derive(Debug, Clone, Default)]
pub struct Leaving(Arc<AtomicBool>);

impl Leaving {
    /// Whether it has.
    pub fn is_leaving(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Something to keep in the dataflow: when it is dropped, the dataflow has ended.
    pub fn on_drop(&self) -> LeaveOnDrop {
        LeaveOnDrop(self.clone())
    }
}

/// See [`Leaving::on_drop`].
#[derive(Debug)]
pub struct LeaveOnDrop(Leaving);

impl Drop for LeaveOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::SeqCst);
    }
}
