//! Numbers batches, and issues them as the window allows. Pure: the caller passes the time.

use std::collections::VecDeque;
use std::time::Duration;

use protocol::results::{Acknowledgement, Identity, Terms, Totals, Welcome};

use crate::batch::Batch;
use crate::ingest::intake::{Decided, Incoming};
use crate::receiver_client::Outgoing;
use crate::window::{Limits, Window};

/// Gives batches their numbers and workers, and reports the job's identity and totals to the receiver.
#[derive(Debug)]
pub struct Issuer {
    window: Window,
    /// The hash of the settings that determine the results.
    settings: u64,
    next_row: u64,
    next_batch: u64,
    /// Rows before this one are durable.
    durable_row: u64,
    /// The number of rows of each batch that is issued and not durable.
    issued: VecDeque<u32>,
    /// Rows that the window has no room for.
    held: Option<Incoming>,
    /// The job's identity was sent to the receiver.
    identified: bool,
    /// The receiver has not noted the job's terms yet. Until then no batch is issued: if this process died, its successor could
    /// decide otherwise.
    awaits_note: bool,
    /// No more rows will arrive.
    ended: bool,
}

/// Batches and messages to send.
#[derive(Debug, Default)]
pub struct Issued {
    /// To the workers.
    pub batches: Vec<Batch>,
    /// To the receiver.
    pub messages: Vec<Outgoing>,
}

impl Issuer {
    /// Starts at the receiver's position.
    pub fn new(limits: Limits, workers: usize, welcome: &Welcome, settings: u64) -> Self {
        Self {
            window: Window::new(limits, workers, welcome.next),
            settings,
            next_row: welcome.next_row,
            next_batch: welcome.next,
            durable_row: welcome.next_row,
            issued: VecDeque::new(),
            held: None,
            identified: false,
            awaits_note: false,
            ended: false,
        }
    }

    /// Issues what `next` returns, until it returns nothing more or the window is full.
    pub fn issue(&mut self, mut next: impl FnMut() -> Option<Incoming>, now: Duration) -> Issued {
        let mut issued = Issued::default();
        while !self.awaits_note
            && let Some(incoming) = self.held.take().or_else(&mut next)
        {
            match &incoming {
                Incoming::Rows { header, decided, .. } => {
                    if !self.identified {
                        self.identified = true;
                        let header = protocol::hash::short(header);
                        let identity = Identity { settings: self.settings, header };
                        let terms = terms(decided);
                        self.awaits_note = terms.is_some();
                        issued.messages.push(Outgoing::Identity(identity, terms));
                        if self.awaits_note {
                            self.held = Some(incoming);
                            break;
                        }
                    }
                    match self.batch(&incoming, now) {
                        Some(batch) => issued.batches.push(batch),
                        None => {
                            self.held = Some(incoming);
                            break;
                        }
                    }
                }
                Incoming::End => {
                    self.ended = true;
                    issued.messages.push(Outgoing::Totals(self.totals()));
                }
            }
        }
        issued
    }

    /// Records that the receiver has noted the terms.
    pub fn noted(&mut self) {
        self.awaits_note = false;
    }

    /// Makes the next batch of these rows; `None` while the window has no room for it.
    fn batch(&mut self, rows: &Incoming, now: Duration) -> Option<Batch> {
        let Incoming::Rows { header, decided, frames, rows } = rows else { return None };
        let (number, worker) = self.window.issue(frames.len(), now)?;
        let (first_row, worker) = (self.next_row, worker as u32);
        self.next_row += u64::from(*rows);
        self.next_batch = number + 1;
        self.issued.push_back(*rows);
        let (header, types, frames) = (header.clone(), decided.types.clone(), frames.clone());
        Some(Batch { number, first_row, rows: *rows, worker, header, types, frames })
    }

    /// Handles an acknowledgement. Returns whether it has news. Calls `took` with the time that each batch took to the
    /// receiver.
    pub fn acknowledge(
        &mut self,
        acknowledgement: &Acknowledgement,
        now: Duration,
        mut took: impl FnMut(Duration),
    ) -> bool {
        let before = self.window.acknowledged();
        self.window.acknowledge(acknowledgement.next);
        let durable = (self.window.acknowledged() - before) as usize;
        self.durable_row += self.issued.drain(..durable).map(u64::from).sum::<u64>();
        self.window.hold(acknowledgement.held);
        for (worker, count) in &acknowledgement.received {
            self.window.received(*worker as usize, *count, now, &mut took);
        }
        self.window.acknowledged() > before || !acknowledgement.received.is_empty()
    }

    /// Describes what the source waits for, if it waits for anything but rows.
    pub fn waits_for(&self) -> Option<&'static str> {
        if self.ended {
            Some("waiting for the last batches to be classified, and for the receiver to finish the job")
        } else if self.awaits_note {
            Some("waiting for the receiver to note the types of the columns")
        } else if self.window.is_empty() {
            None
        } else {
            Some("waiting for batches to be classified, and acknowledged by the receiver")
        }
    }

    /// Rows before this one are durable.
    pub fn durable_row(&self) -> u64 {
        self.durable_row
    }

    /// Batches before this one are durable.
    pub fn durable_batch(&self) -> u64 {
        self.window.acknowledged()
    }

    /// Bytes of rows that are issued and not durable.
    pub fn window_bytes(&self) -> usize {
        self.window.bytes()
    }

    /// The job's rows and batches so far, which are its totals if no more rows arrive.
    pub fn totals(&self) -> Totals {
        Totals { rows: self.next_row, batches: self.next_batch }
    }

    /// The number of rows that wait for room in the window.
    pub fn held_rows(&self) -> u64 {
        match &self.held {
            Some(Incoming::Rows { rows, .. }) => u64::from(*rows),
            _ => 0,
        }
    }

    /// Whether all rows have been issued.
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

/// What the receiver should note; `None` if the model has no typed columns.
fn terms(decided: &Decided) -> Option<Terms> {
    let types = columns::of_letters(&decided.types)?;
    (!types.is_empty()).then_some(Terms { types, chunk_size: decided.chunk_size })
}

#[cfg(test)]
mod tests {
    use columns::ColumnType;

    use super::*;

    fn rows(rows: u32) -> Incoming {
        Incoming::Rows {
            header: "A".into(),
            decided: Decided::default(),
            frames: vec![0; 5 * rows as usize].into(),
            rows,
        }
    }

    #[test]
    fn the_receiver_gets_the_identity_before_the_first_batch_and_the_totals_after_the_last() {
        let welcome = Welcome { next: 3, next_row: 20, generation: 1, identity: None, terms: None };
        let mut issuer = Issuer::new(Limits { batches: 2, bytes: 1000 }, 1, &welcome, 9);
        let mut queue: VecDeque<_> = [rows(7), rows(7), rows(2), Incoming::End].into();
        let issued = issuer.issue(|| queue.pop_front(), Duration::ZERO);
        let header = protocol::hash::short(b"A");
        assert!(matches!(
            &issued.messages[..],
            [Outgoing::Identity(identity, None)] if *identity == Identity { settings: 9, header }
        ));
        let numbers: Vec<_> = issued.batches.iter().map(|batch| (batch.number, batch.first_row)).collect();
        assert_eq!((numbers, issuer.held_rows()), (vec![(3, 20), (4, 27)], 2));
        let acknowledgement = Acknowledgement { next: 4, received: vec![(0, 2)], held: 0 };
        assert!(issuer.acknowledge(&acknowledgement, Duration::ZERO, |_| {}));
        assert_eq!((issuer.durable_row(), issuer.durable_batch()), (27, 4));
        let issued = issuer.issue(|| queue.pop_front(), Duration::ZERO);
        assert_eq!(issued.batches.len(), 1);
        let totals = Totals { rows: 36, batches: 6 };
        assert!(matches!(&issued.messages[..], [Outgoing::Totals(sent)] if *sent == totals));
        assert!(issuer.has_ended());
    }

    #[test]
    fn typed_batches_wait_until_the_receiver_has_noted_the_terms() {
        let welcome = Welcome { next: 0, next_row: 0, generation: 1, identity: None, terms: None };
        let mut issuer = Issuer::new(Limits { batches: 2, bytes: 1000 }, 1, &welcome, 9);
        let Incoming::Rows { header, frames, rows, .. } = rows(7) else { unreachable!() };
        let decided = Decided::new(&[ColumnType::Int64], 7);
        let mut queue: VecDeque<_> = [Incoming::Rows { header, decided, frames, rows }, Incoming::End].into();
        let terms = Terms { types: vec![ColumnType::Int64], chunk_size: 7 };
        for expected in [1, 0] {
            let issued = issuer.issue(|| queue.pop_front(), Duration::ZERO);
            let sent =
                |message: &Outgoing| matches!(message, Outgoing::Identity(_, Some(sent)) if *sent == terms);
            assert_eq!(issued.messages.iter().filter(|message| sent(message)).count(), expected);
            assert_eq!((issued.batches.len(), issued.messages.len()), (0, expected));
            assert!(issuer.waits_for().unwrap().contains("note"));
        }
        issuer.noted();
        let issued = issuer.issue(|| queue.pop_front(), Duration::ZERO);
        assert_eq!((issued.batches.len(), issued.messages.len()), (1, 1));
        assert_eq!(issued.batches[0].types, "i");
    }
}
