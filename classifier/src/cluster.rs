//! How processes find each other at the initializer's control port, and form the mesh.
//!
//! 1. Each process joins at the control port. It sends its name, data address, workers, build, settings and the token.
//! 2. When all have joined, each gets the generation's number and the member list, and makes its data connections: it
//!    connects to the processes before it in the list, and accepts connections from those after it.
//! 3. When it has these and the receiver has admitted it, a process reports that it has formed.
//! 4. When all have formed, the initializer sends the start.
//!
//! Both sides send heartbeats from the join on. When a process is lost, all others end and are restarted. They form the next
//! generation, without processes that are not back in time ([`membership`]).
//!
//! | module          | holds |
//! |-----------------|-------|
//! | [`coordinator`] | the initializer's side, as a state machine; pure |
//! | [`membership`]  | which processes are members, and when they are complete; pure |
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

/// A process's settings for joining its cluster.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The initializer's control address.
    pub control: String,
    /// The address of this process's own end of the control connection, where that matters.
    pub my_control: Option<String>,
    /// This process, as the others see it.
    pub me: Member,
    /// The number of processes in a complete cluster.
    pub processes: usize,
    pub token: Option<Token>,
    /// How long forming the cluster may take.
    pub patience: Duration,
    /// Set if this process was in a cluster before: how long an initializer waits for the others to come back.
    pub rejoin: Option<Duration>,
}

/// A generation whose members know each other.
#[derive(Debug, Clone)]
pub struct Formation {
    /// Later generations have larger numbers.
    pub generation: u64,
    /// This process's index among the members.
    pub process: usize,
    /// All members, the initializer first.
    pub members: Vec<Member>,
}

/// Whether the dataflow has ended. After that, a lost connection is no failure.
#[derive(Debug, Clone, Default)]
pub struct Leaving(Arc<AtomicBool>);

impl Leaving {
    pub fn is_leaving(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Returns a guard to keep in the dataflow, whose drop means that the dataflow has ended.
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
