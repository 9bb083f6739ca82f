//! Which processes are members of the cluster, and when it is complete. Pure: connections are numbers, and the caller passes
//! the time.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{anyhow, ensure};
use protocol::Temporary;
use protocol::handshake::Member;

/// How old a generation must be before it ends for one with more members.
const LEAST_LIFE: Duration = Duration::from_secs(10);

/// The number of a control connection, unique in this process.
pub type JoinId = u64;

/// A cluster while it forms.
#[derive(Debug)]
pub struct Membership {
    /// The initializer.
    me: Member,
    /// The other members, in the order in which they joined.
    others: Vec<(JoinId, Member)>,
    /// The number of processes in a complete cluster, the initializer included.
    wanted: usize,
    limit: Limit,
}

/// How long to wait for processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Fail unless all processes join within this time.
    All(Duration),
    /// There was a cluster before: continue without processes that are not back within this time.
    Back(Duration),
}

/// Whether the members are complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not yet: check again after the next join, or after this time.
    Waiting(Duration),
    /// The cluster consists of the processes that have joined.
    Complete,
    /// The time is over.
    TooLate,
}

impl Membership {
    /// Starts with the initializer as the only member.
    pub fn new(me: Member, wanted: usize, limit: Limit) -> Self {
        Self { me, others: Vec::new(), wanted, limit }
    }

    /// Admits a process.
    ///
    /// # Errors
    /// When it may not be a member; says why. [`Temporary`] if it may join later.
    pub fn join(&mut self, id: JoinId, member: Member) -> anyhow::Result<()> {
        let first = &self.me;
        ensure!(member.build == first.build, "it is another build: {}, not {}", member.build, first.build);
        ensure!(
            member.settings == first.settings,
            "its settings are {}, but the initializer's are {}",
            member.settings,
            first.settings
        );
        ensure!(
            member.workers == first.workers,
            "it has {} workers, but the initializer has {}; all processes must have the same number",
            member.workers,
            first.workers
        );
        ensure!(member.data.parse::<SocketAddr>().is_ok(), "{:?} is not a data address", member.data);
        if self.members().any(|known| known.name == member.name) {
            // The other process may be dead, which will be noticed.
            let error = anyhow!("there is a process named {} already", member.name);
            return Err(error.context(Temporary("not now")));
        }
        self.others.push((id, member));
        Ok(())
    }

    /// Removes a process whose connection has ended.
    pub fn leave(&mut self, id: JoinId) {
        self.others.retain(|(other, _)| *other != id);
    }

    /// Whether the members are complete, `elapsed` after the control port was opened.
    pub fn standing(&self, elapsed: Duration) -> Standing {
        if self.others.len() + 1 >= self.wanted {
            return Standing::Complete;
        }
        let (Limit::All(limit) | Limit::Back(limit)) = self.limit;
        match self.limit {
            _ if elapsed < limit => Standing::Waiting(limit - elapsed),
            Limit::All(_) => Standing::TooLate,
            Limit::Back(_) => Standing::Complete,
        }
    }

    /// All members, the initializer first.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.me).chain(self.others.iter().map(|(_, member)| member))
    }

    /// The connections of the others, in the order of the members.
    pub fn connections(&self) -> impl Iterator<Item = JoinId> {
        self.others.iter().map(|(id, _)| *id)
    }

    /// The number of processes in a complete cluster.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// The number of processes that have not joined.
    pub fn missing(&self) -> usize {
        self.wanted.saturating_sub(self.others.len() + 1)
    }
}

/// Processes that ask to join while a generation is running without them.
#[derive(Debug, Default)]
pub struct Latecomers {
    missing: usize,
    waiting: Vec<JoinId>,
}

impl Latecomers {
    /// `missing` is the number of processes that were missing when the generation began.
    pub fn new(missing: usize) -> Self {
        Self { missing, waiting: Vec::new() }
    }

    /// Adds a process that waits for the next generation.
    ///
    /// # Errors
    /// When no process is missing.
    pub fn join(&mut self, id: JoinId) -> anyhow::Result<()> {
        if self.missing == 0 {
            // It may be a restarted member, whose earlier death will be noticed.
            return Err(anyhow!("the cluster is complete and running").context(Temporary("not now")));
        }
        self.waiting.push(id);
        Ok(())
    }

    /// Removes a process that no longer waits.
    pub fn leave(&mut self, id: JoinId) {
        self.waiting.retain(|other| *other != id);
    }

    /// How long until this generation, of this age, must end so that one with the waiting processes can form; `None` if no
    /// process waits.
    pub fn remaining(&self, age: Duration) -> Option<Duration> {
        (!self.waiting.is_empty()).then(|| LEAST_LIFE.saturating_sub(age))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn member(name: &str) -> Member {
        Member {
            name: name.into(),
            data: "127.0.0.1:1".into(),
            workers: 2,
            build: "b".into(),
            settings: "s".into(),
        }
    }

    fn names(membership: &Membership) -> String {
        membership.members().map(|member| member.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_first_cluster_waits_for_all_processes() {
        let mut membership = Membership::new(member("i"), 3, Limit::All(10 * SECOND));
        membership.join(1, member("a")).unwrap();
        assert_eq!(membership.standing(SECOND), Standing::Waiting(9 * SECOND));
        assert_eq!(membership.standing(10 * SECOND), Standing::TooLate);
        membership.join(2, member("b")).unwrap();
        assert_eq!(membership.standing(11 * SECOND), Standing::Complete);
        assert_eq!((names(&membership).as_str(), membership.missing()), ("i a b", 0));
    }

    #[test]
    fn a_later_cluster_continues_without_processes_that_are_not_back_in_time() {
        let mut membership = Membership::new(member("i"), 3, Limit::Back(10 * SECOND));
        membership.join(1, member("a")).unwrap();
        membership.join(2, member("b")).unwrap();
        membership.leave(1);
        assert_eq!(membership.standing(SECOND), Standing::Waiting(9 * SECOND));
        assert_eq!(membership.standing(10 * SECOND), Standing::Complete);
        assert_eq!((names(&membership).as_str(), membership.missing()), ("i b", 1));
    }

    #[test]
    fn a_refused_process_gets_the_reason_and_whether_it_is_temporary() {
        let mut membership = Membership::new(member("i"), 3, Limit::All(SECOND));
        let mut refusal = |change: fn(&mut Member)| {
            let mut new = member("a");
            change(&mut new);
            let error = membership.join(1, new).unwrap_err();
            (format!("{error:#}"), error.is::<Temporary>())
        };
        assert_eq!(refusal(|m| m.build = "c".into()), ("it is another build: c, not b".into(), false));
        assert!(refusal(|m| m.settings = "t".into()).0.contains("its settings are t"));
        assert!(refusal(|m| m.workers = 3).0.contains("it has 3 workers, but the initializer has 2"));
        assert!(refusal(|m| m.data = "here".into()).0.contains("is not a data address"));
        let (reason, is_temporary) = refusal(|m| m.name = "i".into());
        assert!(is_temporary && reason.contains("there is a process named i already"), "{reason}");
    }

    #[test]
    fn a_generation_ends_for_latecomers_when_it_is_ten_seconds_old() {
        let mut late = Latecomers::new(1);
        assert_eq!(late.remaining(SECOND), None);
        late.join(7).unwrap();
        assert_eq!(late.remaining(SECOND), Some(9 * SECOND));
        assert_eq!(late.remaining(20 * SECOND), Some(Duration::ZERO));
        late.leave(7);
        assert_eq!(late.remaining(SECOND), None);
        assert!(Latecomers::new(0).join(1).unwrap_err().is::<Temporary>());
    }
}
