//! What a sender knows across its connections: which row the source wants, whether all are sent, and whether to try again.
//! Pure: the caller tells the time.

use std::time::Duration;

use anyhow::anyhow;
use protocol::handshake::SourceAnswer;

/// The pause before connecting again.
const PAUSE: Duration = Duration::from_millis(100);
/// The pause when the source was busy, or did not answer.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// How many connections in a row may be lost without the source having taken a row.
const MOST_IN_VAIN: u32 = 20;

/// Why one connection did not bring the job to its end.
#[derive(Debug)]
pub enum Failure {
    /// Another connection may do better.
    Lost(anyhow::Error),
    /// No other connection would help.
    Final(anyhow::Error),
    /// The input cannot be read to its end. The source must be told.
    Input(anyhow::Error),
}

/// What an answer of the source asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send the header, and the rows from this one on.
    Send(u64),
    /// Nothing more: all rows, this many, are durable.
    Done(u64),
}

/// A job's sender, over all of its connections.
#[derive(Debug)]
pub struct Session {
    patience: Duration,
    /// An earlier process was the same sender, and has perhaps sent all rows.
    is_resumed: bool,
    /// When to give up, unless the source asks for a row.
    deadline: Duration,
    /// What the source has asked for on this connection.
    asked: Option<u64>,
    asked_before: Option<u64>,
    in_vain: u32,
    /// How many rows there are, once all are sent.
    sent: Option<u64>,
}

impl Session {
    /// `patience` limits the search for the source, at first and whenever it is lost. Times count from now.
    pub fn new(patience: Duration, is_resumed: bool) -> Self {
        Self {
            patience,
            is_resumed,
            deadline: patience,
            asked: None,
            asked_before: None,
            in_vain: 0,
            sent: None,
        }
    }

    /// A connection is being made; returns how long that may take.
    pub fn connect(&mut self, now: Duration) -> Duration {
        self.asked = None;
        self.deadline.saturating_sub(now)
    }

    /// Handles an answer, except for signs of life and what is durable.
    ///
    /// # Errors
    /// When the answer ends the connection or the job.
    pub fn recv(&mut self, answer: SourceAnswer) -> Result<Step, Failure> {
        match (answer, self.asked) {
            (SourceAnswer::Done(rows), _) => self.finish(rows),
            (SourceAnswer::NextRow(row), None) => {
                self.asked = Some(row);
                Ok(Step::Send(row))
            }
            (SourceAnswer::Busy, None) => Err(Failure::Lost(anyhow!("another sender is sending"))),
            (SourceAnswer::Failed(reason), _) => Err(Failure::Final(anyhow!("the job failed: {reason}"))),
            (other, None) => Err(Failure::Final(anyhow!("the source began with {other:?}"))),
            (other, Some(_)) => Err(Failure::Final(anyhow!("the source ended with {other:?}"))),
        }
    }

    /// All rows are sent; there are `rows`.
    pub fn sent_all(&mut self, rows: u64) {
        self.sent = Some(rows);
    }

    /// The connection is lost; returns the pause before the next one.
    ///
    /// # Errors
    /// Returns `error` when there should be no next one.
    pub fn lost(&mut self, error: anyhow::Error, now: Duration) -> anyhow::Result<Duration> {
        if self.asked.is_some() {
            // The source was there, so patience starts again; `in_vain` limits how often.
            self.deadline = now + self.patience;
            // A new generation may ask for an earlier row than the last one had taken.
            self.in_vain = if self.asked > self.asked_before { 0 } else { self.in_vain + 1 };
            self.asked_before = self.asked;
        }
        if self.in_vain == MOST_IN_VAIN || now + PAUSE >= self.deadline {
            return Err(error);
        }
        Ok(if self.asked.is_some() { PAUSE } else { BUSY_PAUSE })
    }

    fn finish(&self, rows: u64) -> Result<Step, Failure> {
        // The earlier process of a resumed sender may have sent them.
        if self.sent == Some(rows) || (self.sent.is_none() && self.is_resumed) {
            return Ok(Step::Done(rows));
        }
        let sent = self.sent.map_or_else(|| "not all".to_owned(), |sent| sent.to_string());
        Err(Failure::Final(anyhow!(
            "the source says that all of {rows} rows are durable, and {sent} were sent: they are another sender's"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn words(outcome: Result<Step, Failure>) -> String {
        match outcome {
            Ok(step) => format!("{step:?}"),
            Err(Failure::Lost(error)) => format!("lost: {error:#}"),
            Err(Failure::Final(error)) => format!("final: {error:#}"),
            Err(Failure::Input(error)) => format!("input: {error:#}"),
        }
    }

    fn lost(session: &mut Session, now: Duration) -> anyhow::Result<Duration> {
        session.lost(anyhow!("it broke"), now)
    }

    #[test]
    fn rows_are_sent_where_the_source_wants_them_until_all_are_durable() {
        let mut session = Session::new(60 * SECOND, false);
        assert_eq!(session.connect(SECOND), 59 * SECOND);
        assert_eq!(words(session.recv(SourceAnswer::NextRow(0))), "Send(0)");
        assert_eq!(lost(&mut session, 50 * SECOND).unwrap(), PAUSE);
        assert_eq!(session.connect(50 * SECOND), 60 * SECOND, "the source was there");
        assert_eq!(words(session.recv(SourceAnswer::NextRow(300))), "Send(300)");
        session.sent_all(1000);
        assert_eq!(words(session.recv(SourceAnswer::Done(1000))), "Done(1000)");
    }

    #[test]
    fn rows_of_another_sender_are_not_taken_for_its_own() {
        let done = |mut session: Session| words(session.recv(SourceAnswer::Done(7)));
        assert!(done(Session::new(SECOND, false)).contains("not all were sent: they are another sender's"));
        assert_eq!(done(Session::new(SECOND, true)), "Done(7)");
        let mut other = Session::new(SECOND, true);
        other.sent_all(8);
        assert!(
            done(other).starts_with("final: the source says that all of 7 rows are durable, and 8 were sent")
        );
    }

    #[test]
    fn a_source_that_is_not_there_or_takes_no_row_is_given_up() {
        let mut session = Session::new(60 * SECOND, false);
        session.connect(Duration::ZERO);
        assert_eq!(words(session.recv(SourceAnswer::Busy)), "lost: another sender is sending");
        assert_eq!(lost(&mut session, 10 * SECOND).unwrap(), BUSY_PAUSE);
        assert!(lost(&mut session, 60 * SECOND).is_err());
        let mut session = Session::new(60 * SECOND, false);
        for round in 0..=MOST_IN_VAIN {
            session.connect(Duration::ZERO);
            session.recv(SourceAnswer::NextRow(7)).unwrap();
            assert_eq!(lost(&mut session, Duration::ZERO).is_ok(), round < MOST_IN_VAIN, "{round}");
        }
    }

    #[test]
    fn connections_that_are_lost_while_rows_are_taken_are_not_in_vain() {
        let mut session = Session::new(60 * SECOND, false);
        for row in 0..10 * u64::from(MOST_IN_VAIN) {
            session.connect(Duration::ZERO);
            session.recv(SourceAnswer::NextRow(row)).unwrap();
            assert!(lost(&mut session, Duration::ZERO).is_ok(), "{row}");
        }
    }
}
