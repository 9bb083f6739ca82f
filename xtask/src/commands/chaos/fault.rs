//! Faults that are injected into a job.

use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::{Rng, RngExt};

use super::job::Job;
use super::processes::Target;

/// The longest stop or cut, in milliseconds.
const LONGEST: u64 = 10_000;

#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT a while later.
    Stop(Duration),
    /// A host's link is down for a while.
    Cut(Duration),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Stop(_) => "stop",
            Self::Cut(_) => "cut off",
        })
    }
}

pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) target: Target,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, target } = self;
        write!(f, "{kind} {} ({})", target.role, target.name)?;
        match kind {
            Kind::Kill => Ok(()),
            Kind::Stop(time) | Kind::Cut(time) => write!(f, " for {:.1} s", time.as_secs_f64()),
        }
    }
}

impl Fault {
    /// Half of the faults are kills. First chooses a role, each with the same probability, then a target of that role.
    pub(super) fn choose(random: &mut impl Rng, processes: &[Target], cables: &[Target]) -> Option<Self> {
        let time = Duration::from_millis(random.random_range(500..LONGEST));
        let kind = match random.random_range(0..4) {
            0 | 1 => Kind::Kill,
            2 if !cables.is_empty() => Kind::Cut(time),
            _ => Kind::Stop(time),
        };
        let targets = if matches!(kind, Kind::Cut(_)) { cables } else { processes };
        let mut roles: Vec<_> = targets.iter().map(|target| target.role.as_str()).collect();
        roles.sort_unstable();
        roles.dedup();
        if roles.is_empty() {
            return None;
        }
        let role = roles[random.random_range(0..roles.len())];
        let these: Vec<_> = targets.iter().filter(|target| target.role == role).collect();
        let target = these[random.random_range(0..these.len())].clone();
        Some(Self { kind, target })
    }

    /// Injects the fault, and undoes it when its time is over.
    pub(super) fn inject(&self, job: &Job) -> anyhow::Result<()> {
        match self.kind {
            Kind::Kill => self.target.signal(Signal::SIGKILL),
            Kind::Stop(time) => {
                self.target.signal(Signal::SIGSTOP);
                job.runs_for(time, || {})?;
                self.target.signal(Signal::SIGCONT);
            }
            Kind::Cut(time) => {
                job.set_link(&self.target.name, "down")?;
                job.runs_for(time, || {})?;
                job.set_link(&self.target.name, "up")?;
            }
        }
        Ok(())
    }
}
