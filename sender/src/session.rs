//! A sender's state across its connections: which row the source asks for, whether all rows are sent, and whether to
//! reconnect. Pure: the caller passes the time.

use std::time::Duration;

use anyhow::anyhow;
use protocol::handshake::SourceAnswer;

/// The pause before reconnecting.
const PAUSE: Duration = Duration::from_millis(100);
/// The pause after the source was busy or did not answer.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// How many connections in a row may be lost without the source asking for a later row.
const MOST_FRUITLESS: u32 = 20;

/// Why a connection ended before the job.
#[derive(Debug)]
pub enum Failure {
    /// Another connection may succeed.
    Lost(anyhow::Error),
    /// No other connection would help.
    Final(anyhow::Error),
    /// The input cannot be read to its end. The sender reports this to the source.
    Input(anyhow::Error),
}

/// What the source's answer asks the sender to do.
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
    /// Whether an earlier process was the same sender; it may have sent all rows.
    is_resumed: bool,
    /// When to give up, unless the source asks for a row.
    deadline: Duration,
    /// The row that the source has asked for on this connection.
    asked: Option<u64>,
    /// The same of the last connection on which it did.
    asked_before: Option<u64>,
    /// Connections lost in a row without the source asking for a later row.
    fruitless: u32,
    /// The number of rows, once all are sent.
    sent: Option<u64>,
}

impl Session {
    /// `patience` limits how long to wait for the source, at first and whenever it is lost. All times are counted from this
    /// call.
    pub fn new(patience: Duration, is_resumed: bool) -> Self {
        Self {
            patience,
            is_resumed,
            deadline: patience,
            asked: None,
            asked_before: None,
            fruitless: 0,
            sent: None,
        }
    }

    /// Begins a new connection. Returns how long connecting may take.
    pub fn connect(&mut self, now: Duration) -> Duration {
        self.asked = None;
        self.deadline.saturating_sub(now)
    }

    /// Handles an answer other than [`SourceAnswer::Waiting`] and [`SourceAnswer::Durable`].
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

    /// Records that all rows, `rows` in number, are sent.
    pub fn sent_all(&mut self, rows: u64) {
        self.sent = Some(rows);
    }

    /// Handles a lost connection. Returns the pause before the next one.
    ///
    /// # Errors
    /// Returns `error` when it is time to give up.
    pub fn lost(&mut self, error: anyhow::Error, now: Duration) -> anyhow::Result<Duration> {
        if self.asked.is_some() {
            // The source answered, so patience starts anew; `fruitless` limits how often.
            self.deadline = now + self.patience;
            // A new generation may ask for an earlier row than the last one did.
            self.fruitless = if self.asked > self.asked_before { 0 } else { self.fruitless + 1 };
            self.asked_before = self.asked;
        }
        if self.fruitless == MOST_FRUITLESS || now + PAUSE >= self.deadline {
            return Err(error);
        }
        Ok(if self.asked.is_some() { PAUSE } else { BUSY_PAUSE })
    }

    fn finish(&self, rows: u64) -> Result<Step, Failure> {
        // An earlier process of a resumed sender may have sent them.
        if self.sent == Some(rows) || (self.sent.is_none() && self.is_resumed) {
            return Ok(Step::Done(rows));
        }
        let sent = self.sent.map_or_else(|| "not all".to_owned(), |sent| sent.to_string());
        Err(Failure::Final(anyhow!(
            "the source says that all {rows} rows are durable, but {sent} were sent: they are another sender's"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn text(outcome: Result<Step, Failure>) -> String {
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
    fn a_sender_sends_from_the_requested_row_until_all_rows_are_durable() {
        let mut session = Session::new(60 * SECOND, false);
        assert_eq!(session.connect(SECOND), 59 * SECOND);
        assert_eq!(text(session.recv(SourceAnswer::NextRow(0))), "Send(0)");
        assert_eq!(lost(&mut session, 50 * SECOND).unwrap(), PAUSE);
        assert_eq!(session.connect(50 * SECOND), 60 * SECOND, "the source answered, so patience starts anew");
        assert_eq!(text(session.recv(SourceAnswer::NextRow(300))), "Send(300)");
        session.sent_all(1000);
        assert_eq!(text(session.recv(SourceAnswer::Done(1000))), "Done(1000)");
    }

    #[test]
    fn a_sender_fails_when_another_sender_sent_the_rows() {
        let done = |mut session: Session| text(session.recv(SourceAnswer::Done(7)));
        assert!(done(Session::new(SECOND, false)).contains("not all were sent: they are another sender's"));
        assert_eq!(done(Session::new(SECOND, true)), "Done(7)");
        let mut other = Session::new(SECOND, true);
        other.sent_all(8);
        assert!(
            done(other).starts_with("final: the source says that all 7 rows are durable, but 8 were sent")
        );
    }

    #[test]
    fn a_sender_gives_up_a_source_that_is_busy_or_makes_no_progress() {
        let mut session = Session::new(60 * SECOND, false);
        session.connect(Duration::ZERO);
        assert_eq!(text(session.recv(SourceAnswer::Busy)), "lost: another sender is sending");
        assert_eq!(lost(&mut session, 10 * SECOND).unwrap(), BUSY_PAUSE);
        assert!(lost(&mut session, 60 * SECOND).is_err());
        let mut session = Session::new(60 * SECOND, false);
        for round in 0..=MOST_FRUITLESS {
            session.connect(Duration::ZERO);
            session.recv(SourceAnswer::NextRow(7)).unwrap();
            assert_eq!(lost(&mut session, Duration::ZERO).is_ok(), round < MOST_FRUITLESS, "{round}");
        }
    }

    #[test]
    fn lost_connections_do_not_count_while_the_source_makes_progress() {
        let mut session = Session::new(60 * SECOND, false);
        for row in 0..10 * u64::from(MOST_FRUITLESS) {
            session.connect(Duration::ZERO);
            session.recv(SourceAnswer::NextRow(row)).unwrap();
            assert!(lost(&mut session, Duration::ZERO).is_ok(), "{row}");
        }
    }
}
