//! Requests and answers. Whatever the process does, a wait for it ends at its deadline.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::Context;
use protocol::frame;

use super::super::ended::Ended;
use super::super::tree;
use super::{Above, Answer, Process};

/// How often to check a process while waiting for its answer.
const SLICE: Duration = Duration::from_millis(100);
/// How long reading an answer may take at least.
const READ_TIME: Duration = Duration::from_secs(1);
/// A stopped process is killed after this time.
const STOPPED_TIME: Duration = Duration::from_secs(2);
/// How long to wait for the guard's report when a process has closed its socket.
const REPORT_TIME: Duration = Duration::from_secs(2);

/// The wait for an answer to one request.
pub(in crate::model::python) struct Wait {
    limit: Duration,
    deadline: Instant,
    next_check: Instant,
    stopped_since: Option<Instant>,
}

impl Wait {
    pub(super) fn new(limit: Duration) -> Self {
        let now = Instant::now();
        Self { limit, deadline: now + limit, next_check: now + SLICE, stopped_since: None }
    }

    /// Leaves time to read an answer that came while this thread did something else.
    pub(super) fn begin_to_read(&mut self) {
        self.deadline = self.deadline.max(Instant::now() + READ_TIME);
    }
}

impl Process {
    pub(super) fn send(&mut self, request: &[u8], wait: &mut Wait) -> Result<(), Ended> {
        let prefix = (request.len() as u32).to_be_bytes();
        for mut bytes in [&prefix, request] {
            while !bytes.is_empty() {
                match self.data.write(bytes) {
                    Ok(written) => bytes = &bytes[written..],
                    Err(error) => self.retry(&error)?,
                }
                self.check(wait)?;
            }
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, wait: &mut Wait) -> Result<Answer, Ended> {
        let mut prefix = [0; frame::PREFIX];
        self.read(&mut prefix, wait)?;
        let length = u32::from_be_bytes(prefix) as usize;
        if length == 0 || length > frame::PEER_LIMIT {
            return Err(Ended::Broken(format!("an answer of {length} bytes")));
        }
        // Untouched memory costs nothing, so a wrong length does no harm.
        let mut answer = vec![0; length];
        self.read(&mut answer, wait)?;
        let text = answer.split_off(1);
        match answer.first() {
            Some(b'K') => Ok(Answer::Good(text)),
            Some(b'E') => Ok(Answer::Bad(String::from_utf8_lossy(&text).into_owned())),
            Some(b'S') => Ok(Answer::BadSeeLog(String::from_utf8_lossy(&text).into_owned())),
            _ => Err(Ended::Broken("an answer of an unknown kind".to_owned())),
        }
    }

    fn read(&mut self, mut bytes: &mut [u8], wait: &mut Wait) -> Result<(), Ended> {
        while !bytes.is_empty() {
            match self.data.read(bytes) {
                Ok(0) => return Err(self.hung_up()),
                Ok(read) => bytes = &mut bytes[read..],
                Err(error) => self.retry(&error)?,
            }
            // An answer that is here is in time.
            if !bytes.is_empty() {
                self.check(wait)?;
            }
        }
        Ok(())
    }

    /// Ignores the timeout of a read or write after its slice. Any other error means that the process is gone.
    fn retry(&mut self, error: &std::io::Error) -> Result<(), Ended> {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(()),
            _ => Err(self.hung_up()),
        }
    }

    /// Finds the reason for a closed socket: the process has ended, or has closed the descriptor while running.
    fn hung_up(&mut self) -> Ended {
        let deadline = Instant::now() + REPORT_TIME;
        while self.ended.is_none() && Instant::now() < deadline {
            if !self.recv() {
                break;
            }
        }
        self.ended.clone().unwrap_or_else(|| {
            Ended::Broken("it has closed its connection to the classifier, as os.closerange does".to_owned())
        })
    }

    /// Checks, once per [`SLICE`], whether to keep waiting for an answer.
    fn check(&mut self, wait: &mut Wait) -> Result<(), Ended> {
        let now = Instant::now();
        if now < wait.next_check && now < wait.deadline {
            return Ok(());
        }
        wait.next_check = now + SLICE;
        self.recv_now()?;
        if now >= wait.deadline {
            return Err(Ended::TimedOut(wait.limit));
        }
        if !tree::is_stopped(self.pid) {
            wait.stopped_since = None;
        } else if now - *wait.stopped_since.get_or_insert(now) >= STOPPED_TIME {
            return Err(Ended::Stopped);
        }
        let above = match &self.above {
            Above::Guard { pid, .. } | Above::Keeper { pid, .. } => *pid,
        };
        if tree::takes_more_than(above, self.memory_limit) {
            return Err(Ended::OverMemory(self.memory_limit));
        }
        Ok(())
    }
}

/// A pair of sockets, whose first one returns from reads and writes after [`SLICE`].
pub(super) fn sockets() -> anyhow::Result<(UnixStream, UnixStream)> {
    let (ours, its) = UnixStream::pair().context("making sockets for a Python process")?;
    ours.set_read_timeout(Some(SLICE)).context("setting a socket's timeout")?;
    ours.set_write_timeout(Some(SLICE)).context("setting a socket's timeout")?;
    Ok((ours, its))
}
