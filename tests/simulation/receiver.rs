//! The receiver: the real job and sequencer, over a disk that keeps what was synced.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use ::receiver::checkpoint::Position;
use ::receiver::job::{self, End, Job, SyncWork};
use ::receiver::reorder::{Held, ReorderBuffer, Sequencer, Spill};
use ::receiver::spill::Stub;
use protocol::Temporary;
use protocol::results::{FromReceiver, Outcome, ResultBatch, Summary, Welcome};
use rand::RngExt;

use crate::network::{Address, Fate, Message, Network};
use crate::unexpected;

const ME: Address = Address::Receiver;
/// How long a sync takes at most, in milliseconds.
const SYNC: u64 = 20;

/// Messages to send; `None` closes the connection.
type Outbox = Rc<RefCell<Vec<(u64, Option<Message>)>>>;

#[derive(Debug)]
struct Peer {
    connection: u64,
    outbox: Outbox,
}

impl Peer {
    fn enqueue(&self, message: Option<Message>) {
        self.outbox.borrow_mut().push((self.connection, message));
    }
}

impl job::Peer for Peer {
    fn welcome(&self, welcome: Welcome) {
        self.enqueue(Some(Message::Welcome(welcome)));
    }

    fn send(&self, message: FromReceiver) {
        self.enqueue(Some(Message::FromReceiver(message)));
    }

    fn close(&self) {
        self.enqueue(None);
    }
}

/// Not used, since all early batches have room in memory.
struct NoSpill;

impl Spill for NoSpill {
    fn write(&mut self, batch: ResultBatch) -> anyhow::Result<Stub> {
        panic!("there is room for batch {}", batch.number)
    }

    fn forget(&mut self, batches: usize) -> anyhow::Result<()> {
        assert_eq!(batches, 0);
        Ok(())
    }
}

#[derive(Default)]
pub(crate) struct Receiver {
    /// What is durable.
    disk: (Vec<u8>, Position),
    /// How many lives it has had; durable as well.
    lives: u64,
    life: Option<Life>,
    newest: u64,
    generations: u32,
    finished: bool,
}

struct Life {
    job: Job<Peer>,
    sequencer: Sequencer,
    written: (Vec<u8>, Position),
    outbox: Outbox,
    /// Connections of processes: their generation and number.
    processes: BTreeMap<u64, (u64, u64)>,
    syncing: bool,
}

impl Receiver {
    pub(crate) fn start(&mut self, _network: &mut Network) {
        let (results, position) = self.disk.clone();
        let job = Job::default();
        self.lives += 1;
        job.begin_at(position, self.lives);
        if self.finished {
            job.end(done(position));
        }
        self.life = Some(Life {
            job,
            sequencer: Sequencer::new(ReorderBuffer::new(position.next, position.next_row), usize::MAX),
            written: (results, position),
            outbox: Outbox::default(),
            processes: BTreeMap::new(),
            syncing: false,
        });
    }

    pub(crate) fn die(&mut self) {
        self.life = None;
    }

    pub(crate) fn results(&self) -> &[u8] {
        &self.disk.0
    }

    /// Whether the job is done, durably.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    pub(crate) fn generations(&self) -> u32 {
        self.generations
    }

    pub(crate) fn recv(&mut self, network: &mut Network, connection: u64, fate: Fate) {
        let Some(life) = &mut self.life else { return };
        match fate {
            Fate::Broken => {
                if let Some((_, number)) = life.processes.remove(&connection) {
                    life.job.left(number);
                }
            }
            Fate::Message(Message::Open(generation)) => {
                let peer = Peer { connection, outbox: Rc::clone(&life.outbox) };
                let is_new = generation.is_none();
                match life.job.admit(peer, generation) {
                    Ok((generation, number)) => {
                        assert!(!is_new || generation > self.newest, "generations have numbers of their own");
                        life.processes.insert(connection, (generation, number));
                        if generation > self.newest {
                            self.newest = generation;
                            self.generations += 1;
                        }
                    }
                    Err(error) => {
                        let later = error.is::<Temporary>();
                        network.send(connection, ME, Message::Refused { later });
                    }
                }
            }
            Fate::Message(Message::Results(batch)) => {
                // Results of a generation that is over may still arrive.
                let Some(&(generation, _)) = life.processes.get(&connection) else { return };
                life.job.received(generation, batch.worker, network.wall());
                life.sequencer
                    .offer(generation, batch, &mut NoSpill)
                    .expect("no number is out of the window");
                while let Some(Held::InMemory(batch)) =
                    life.sequencer.take().expect("batches follow on each other")
                {
                    let (results, position) = &mut life.written;
                    results.extend_from_slice(&batch.results);
                    position.next += 1;
                    position.next_row += u64::from(batch.rows);
                    position.result_bytes = results.len() as u64;
                }
                life.job.written(life.written.1, life.sequencer.held() as u64, true);
            }
            Fate::Message(Message::Identity(identity)) => {
                life.job.identity(identity).expect("it is always the same job");
            }
            Fate::Message(Message::Totals(totals)) => {
                life.job.totals(totals, network.wall()).expect("each generation reads the same rows");
            }
            Fate::Message(other) => unexpected(ME, &other),
        }
        self.work(network);
    }

    /// A sync is done.
    pub(crate) fn wake(&mut self, network: &mut Network) {
        let Some(life) = &mut self.life else { return };
        life.syncing = false;
        match life.job.sync_work_now() {
            Some(SyncWork::Sync(position)) => {
                let bytes = position.result_bytes as usize;
                // Whatever happens to clocks and processes.
                let started = self.disk.1.started;
                assert!(started == 0 || started == position.started, "the job began at one time");
                self.disk = (life.written.0[..bytes].to_vec(), position);
                life.job.durable(position);
            }
            Some(SyncWork::Finish(totals)) => {
                let position = self.disk.1;
                assert_eq!((totals.batches, totals.rows), (position.next, position.next_row));
                self.finished = true;
                life.job.end(done(position));
            }
            Some(SyncWork::Stop) | None => {}
        }
        self.work(network);
    }

    /// Sends messages, and starts a sync if there is something to sync.
    fn work(&mut self, network: &mut Network) {
        let Some(life) = &mut self.life else { return };
        for (connection, message) in life.outbox.take() {
            match message {
                Some(message) => {
                    if let Message::FromReceiver(FromReceiver::Acknowledgement(acknowledgement)) = &message {
                        assert!(
                            acknowledgement.next <= self.disk.1.next,
                            "it acknowledges what is not durable"
                        );
                    }
                    network.send(connection, ME, message);
                }
                None => network.break_off(connection),
            }
        }
        if !life.syncing && life.job.sync_work_now().is_some() {
            life.syncing = true;
            let time = network.random.random_range(1..SYNC);
            network.wake(ME, time);
        }
    }
}

/// The end of a job whose results are these.
fn done(position: Position) -> End {
    let summary = Summary {
        rows: position.next_row,
        batches: position.next,
        bytes: position.result_bytes,
        ..Summary::default()
    };
    End::Job(Outcome::Done(summary))
}
