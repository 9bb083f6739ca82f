//! Decides which sender may send rows, and from which row on, and queues batches for the source. Pure: no sockets, threads or
//! clocks.

use std::collections::VecDeque;

use anyhow::{anyhow, ensure};
use bytes::Bytes;
use columns::ColumnType;

/// A sender's own name; plain clients have none. A connection with the same name is the same sender, which has reconnected.
pub type Session = Option<String>;

/// The number of a sender's right to send; each admitted connection gets its own.
pub type LeaseId = u64;

/// A message from the port to the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// The rows of the next batch.
    Rows {
        /// The CSV's header.
        header: Bytes,
        /// What the job has decided about them.
        decided: Decided,
        /// The rows, as frames.
        frames: Bytes,
        /// The number of rows.
        rows: u32,
    },
    /// There are no more rows.
    End,
}

/// What a job decides once, with its first rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decided {
    /// The types of the columns, one letter each; empty if the model has no typed columns.
    pub types: Bytes,
    /// The number of rows in a batch.
    pub chunk_size: u32,
}

impl Decided {
    pub fn new(types: &[ColumnType], chunk_size: u32) -> Self {
        Self { types: columns::letters(types).into(), chunk_size }
    }
}

/// What to do with a sender that has connected.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission<H> {
    /// It may send, from `next_row` on.
    Send {
        /// Its right to send.
        lease: LeaseId,
        /// The first row that it must send.
        next_row: u64,
        /// The sender's previous connection, if that has not ended yet. It must be broken.
        replaced: Option<H>,
    },
    /// Another sender is sending.
    Busy,
    /// It has sent all rows, and waits for the outcome.
    Complete,
    /// Another sender has sent all rows, so its own rows would be lost.
    Late,
}

/// Admits one sender at a time, and accepts each row once. `H` is the port's handle of a connection.
#[derive(Debug)]
pub struct Intake<H> {
    queue: VecDeque<Incoming>,
    queued_bytes: usize,
    /// The queue is full at this many bytes; the last batch may exceed them.
    limit: usize,
    active: Option<Active<H>>,
    /// The number of leases so far.
    leases: LeaseId,
    /// Rows before this one are queued or with the source.
    next_row: u64,
    header: Option<Bytes>,
    decided: Option<Decided>,
    /// An earlier generation has decided it.
    is_known: bool,
    /// The hash of the header of rows that were durable before this process started.
    durable_header: Option<u64>,
    /// The sender that has sent the end.
    ended_by: Option<Session>,
    /// The last admitted sender.
    last: Session,
    /// Why the last admitted sender cannot continue.
    failure: Option<String>,
}

/// The sender that is sending.
#[derive(Debug)]
struct Active<H> {
    lease: LeaseId,
    session: Session,
    handle: H,
}

impl<H> Intake<H> {
    /// Accepts rows from `next_row` on, and queues about `limit` bytes. `durable_header` is the header's hash if earlier
    /// rows are durable.
    pub fn new(next_row: u64, durable_header: Option<u64>, limit: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            queued_bytes: 0,
            limit,
            active: None,
            leases: 0,
            next_row,
            header: None,
            decided: None,
            is_known: false,
            durable_header,
            ended_by: None,
            last: None,
            failure: None,
        }
    }

    /// Admits a sender if no other is sending, or if it is the active sender, reconnected.
    pub fn admit(&mut self, session: Session, handle: H) -> Admission<H> {
        let is_same = |before: &Session| session.is_some() && *before == session;
        if let Some(sender) = &self.ended_by {
            return if is_same(sender) { Admission::Complete } else { Admission::Late };
        }
        if self.active.as_ref().is_some_and(|active| !is_same(&active.session)) {
            return Admission::Busy;
        }
        self.leases += 1;
        let lease = self.leases;
        self.last.clone_from(&session);
        let replaced = self.active.replace(Active { lease, session, handle });
        Admission::Send { lease, next_row: self.next_row, replaced: replaced.map(|active| active.handle) }
    }

    /// Checks a sender's header. All rows of a job must have the same.
    ///
    /// # Errors
    /// When the header is malformed, or differs from an earlier one.
    pub fn check_header(&self, header: &Bytes) -> anyhow::Result<()> {
        records::check_header(header).map_err(|error| anyhow!("the CSV's header {error}"))?;
        ensure!(
            self.durable_header.is_none_or(|known| known == protocol::hash::short(header)),
            "its header is {:?}, but rows with another header are durable already",
            String::from_utf8_lossy(header)
        );
        let Some(expected) = &self.header else { return Ok(()) };
        ensure!(
            expected == header,
            "its header is {:?}, but the rows before had {:?}",
            String::from_utf8_lossy(header),
            String::from_utf8_lossy(expected)
        );
        Ok(())
    }

    /// What the job has decided, if that can no longer change: rows are queued, or an earlier generation has decided it.
    pub fn decided(&self) -> Option<&Decided> {
        self.decided.as_ref().filter(|_| self.header.is_some() || self.is_known)
    }

    /// Decides, unless the job has decided before. Returns what it has decided.
    pub fn decide(&mut self, decided: Decided) -> &Decided {
        let before = self.decided().cloned();
        self.decided.insert(before.unwrap_or(decided))
    }

    /// Sets what an earlier generation has decided.
    pub fn know(&mut self, decided: Decided) {
        self.decided = Some(decided);
        self.is_known = true;
    }

    /// Whether this lease still holds.
    pub fn is_active(&self, lease: LeaseId) -> bool {
        self.active.as_ref().is_some_and(|active| active.lease == lease)
    }

    /// The handle of the connection that is sending.
    pub fn active(&self) -> Option<&H> {
        self.active.as_ref().map(|active| &active.handle)
    }

    pub fn has_room(&self) -> bool {
        self.queued_bytes < self.limit
    }

    /// The next row to accept.
    pub fn next_row(&self) -> u64 {
        self.next_row
    }

    /// Queues rows, or their end, from the sender with this lease.
    ///
    /// # Errors
    /// When the lease no longer holds, since the same sender has reconnected.
    pub fn push(&mut self, lease: LeaseId, incoming: Incoming) -> anyhow::Result<()> {
        let active = self.active.as_ref().filter(|active| active.lease == lease);
        let Some(active) = active else {
            return Err(anyhow!("the same sender has reconnected"));
        };
        match &incoming {
            Incoming::Rows { header, frames, rows, .. } => {
                self.queued_bytes += frames.len();
                self.next_row += u64::from(*rows);
                self.header.get_or_insert_with(|| header.clone());
            }
            Incoming::End => {
                self.ended_by = Some(active.session.clone());
                tracing::info!("all {} rows are here", self.next_row);
            }
        }
        self.queue.push_back(incoming);
        Ok(())
    }

    /// Takes the first batch, or the end, from the queue.
    pub fn pop(&mut self) -> Option<Incoming> {
        let incoming = self.queue.pop_front()?;
        if let Incoming::Rows { frames, .. } = &incoming {
            self.queued_bytes -= frames.len();
        }
        Some(incoming)
    }

    /// Ends a lease whose connection has ended. Returns whether its sender must come back with the rest of the rows.
    pub fn release(&mut self, lease: LeaseId) -> bool {
        if !self.is_active(lease) {
            return false;
        }
        self.active = None;
        self.ended_by.is_none()
    }

    /// Records a sender's report that it cannot continue.
    ///
    /// # Errors
    /// When it is not the last admitted sender, or all rows are here: then its failure does not matter to the job.
    pub fn fail(&mut self, session: &Session, reason: String) -> anyhow::Result<()> {
        ensure!(
            session.is_some() && *session == self.last && self.ended_by.is_none(),
            "it cannot continue, but the job does not wait for its rows: {reason}"
        );
        self.failure = Some(reason);
        Ok(())
    }

    /// Takes the reason why the sender cannot continue, if it has reported one.
    pub fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(name: &str) -> Session {
        Some(name.into())
    }

    fn rows(rows: u32) -> Incoming {
        Incoming::Rows {
            header: "A".into(),
            decided: Decided::default(),
            frames: vec![0; 5 * rows as usize].into(),
            rows,
        }
    }

    #[test]
    fn a_reconnected_sender_takes_over_and_its_old_connection_is_ignored() {
        let mut intake = Intake::new(7, None, 100);
        assert_eq!(intake.admit(session("a"), 1), Admission::Send { lease: 1, next_row: 7, replaced: None });
        intake.push(1, rows(3)).unwrap();
        assert_eq!(intake.admit(session("b"), 2), Admission::Busy);
        assert_eq!(intake.admit(None, 2), Admission::Busy);
        assert_eq!(
            intake.admit(session("a"), 3),
            Admission::Send { lease: 2, next_row: 10, replaced: Some(1) }
        );
        assert!(intake.push(1, rows(1)).is_err() && !intake.release(1));
        assert_eq!(intake.next_row(), 10, "rows from the old connection are not counted");
        assert!(intake.release(2), "the sender must come back with the rest");
        assert_eq!(intake.pop(), Some(rows(3)));
    }

    #[test]
    fn a_decision_can_change_until_there_are_rows() {
        let decided = |chunk_size| Decided { types: "i".into(), chunk_size };
        let mut intake = Intake::new(0, None, 100);
        intake.admit(session("a"), 1);
        assert_eq!(intake.decide(decided(7)), &decided(7));
        assert_eq!(intake.decided(), None);
        assert_eq!(intake.decide(decided(8)), &decided(8));
        intake.push(1, rows(3)).unwrap();
        assert_eq!(intake.decide(decided(9)), &decided(8));
        let mut intake = Intake::<()>::new(0, None, 100);
        intake.know(decided(5));
        assert_eq!(intake.decide(decided(9)), &decided(5));
        assert_eq!(intake.decided(), Some(&decided(5)));
    }

    #[test]
    fn only_the_sender_of_all_rows_may_wait_for_the_outcome() {
        let mut intake = Intake::new(0, None, 100);
        assert!(matches!(intake.admit(session("a"), 1), Admission::Send { .. }));
        intake.push(1, Incoming::End).unwrap();
        assert!(!intake.release(1));
        assert_eq!(intake.admit(session("a"), 2), Admission::Complete);
        assert_eq!(intake.admit(session("b"), 3), Admission::Late);
        assert_eq!(intake.admit(None, 3), Admission::Late);
        assert!(intake.fail(&session("a"), "the file changed".into()).is_err());
    }

    #[test]
    fn the_queue_is_full_until_the_source_takes_a_batch() {
        let mut intake = Intake::new(0, None, 10);
        intake.admit(session("a"), 1);
        intake.push(1, rows(3)).unwrap();
        assert!(!intake.has_room());
        intake.pop().unwrap();
        assert!(intake.has_room());
    }

    #[test]
    fn only_the_failure_of_the_admitted_sender_counts() {
        let mut intake = Intake::new(0, None, 10);
        assert!(intake.fail(&session("a"), "no".into()).is_err());
        intake.admit(session("a"), 1);
        assert!(intake.fail(&session("b"), "no".into()).is_err());
        assert!(intake.fail(&None, "no".into()).is_err());
        intake.fail(&session("a"), "the file changed".into()).unwrap();
        assert_eq!(intake.take_failure().as_deref(), Some("the file changed"));
        assert_eq!(intake.take_failure(), None);
    }
}
