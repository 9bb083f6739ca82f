//! The receiver: the production job and writer, on a disk that keeps only what was synced.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use ::receiver::audit::Audit;
use ::receiver::checkpoint::Position;
use ::receiver::job::{End, Job, SyncWork};
use ::receiver::peer;
use ::receiver::spill::{Spill, Stub};
use ::receiver::store::Storage;
use ::receiver::writer::Writer;
use protocol::Temporary;
use protocol::rejects::MostRejects;
use protocol::results::{FromReceiver, Outcome, ResultBatch, Summary, Welcome};
use protocol::schema::Schema;
use rand::RngExt;

use crate::network::{Address, Delivery, Message, Network};
use crate::unexpected;

const ME: Address = Address::Receiver;
/// The longest time of a sync, in milliseconds.
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

impl peer::Peer for Peer {
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

/// Never used, since memory has room for all early batches.
struct NoSpill;

impl Spill for NoSpill {
    fn write(&mut self, batch: ResultBatch) -> anyhow::Result<Stub> {
        panic!("memory has room for batch {}", batch.number)
    }

    fn take(&mut self, _: Stub) -> anyhow::Result<ResultBatch> {
        panic!("there is no batch on disk")
    }

    fn forget(&mut self, batches: usize) -> anyhow::Result<()> {
        assert_eq!(batches, 0);
        Ok(())
    }
}

/// The receiver's files.
#[derive(Clone, Default)]
struct Files {
    results: Vec<u8>,
    schema: Schema,
    position: Position,
}

impl Storage for Files {
    fn position(&self) -> Position {
        self.position
    }

    fn note_schema(&mut self, schema: &Schema) {
        self.schema.clone_from(schema);
    }

    fn append(&mut self, batches: &[ResultBatch]) -> anyhow::Result<()> {
        for batch in batches {
            self.results.extend_from_slice(&batch.results);
            self.position.next += 1;
            self.position.next_row += u64::from(batch.rows);
            self.position.result_bytes = self.results.len() as u64;
        }
        Ok(())
    }
}

#[derive(Default)]
pub(crate) struct Receiver {
    /// The durable files.
    disk: Files,
    /// The number of its lives, durable as well.
    lives: u64,
    life: Option<Life>,
    newest: u64,
    generations: u32,
    finished: bool,
}

struct Life {
    job: Job<Peer>,
    writer: Writer<Files, NoSpill>,
    outbox: Outbox,
    /// Generation and number of each process, by connection.
    processes: BTreeMap<u64, (u64, u64)>,
    syncing: bool,
}

impl Receiver {
    pub(crate) fn start(&mut self, _network: &mut Network) {
        let files = self.disk.clone();
        let position = files.position;
        let mut audit = Audit::new(MostRejects::default());
        audit.resume(position.next_row, files.schema.clone(), io::empty()).expect("there are no rejects");
        let job = Job::default();
        self.lives += 1;
        job.begin_at(position, None, self.lives);
        if self.finished {
            job.end(done(position));
        }
        self.life = Some(Life {
            job,
            writer: Writer::new(files, NoSpill, audit),
            outbox: Outbox::default(),
            processes: BTreeMap::new(),
            syncing: false,
        });
    }

    pub(crate) fn die(&mut self) {
        self.life = None;
    }

    pub(crate) fn results(&self) -> &[u8] {
        &self.disk.results
    }

    /// Whether it is durable that the job is done.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    pub(crate) fn generations(&self) -> u32 {
        self.generations
    }

    pub(crate) fn recv(&mut self, network: &mut Network, connection: u64, delivery: Delivery) {
        let Some(life) = &mut self.life else { return };
        match delivery {
            Delivery::Broken => {
                if let Some((_, number)) = life.processes.remove(&connection) {
                    life.job.left(number);
                }
            }
            Delivery::Message(Message::Open(generation)) => {
                let peer = Peer { connection, outbox: Rc::clone(&life.outbox) };
                let is_new = generation.is_none();
                match life.job.admit(peer, generation) {
                    Ok((generation, number)) => {
                        assert!(!is_new || generation > self.newest, "a generation's number was used before");
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
            Delivery::Message(Message::Results(batch)) => {
                // Results of an ended generation may still arrive.
                let Some(&(generation, _)) = life.processes.get(&connection) else { return };
                let received = life.writer.recv(generation, batch, &life.job, network.wall());
                received.expect("all numbers are within the window");
                life.writer.write(&life.job, true).expect("batches follow each other, and fit");
            }
            Delivery::Message(Message::Identity(identity)) => {
                let Some(&(generation, _)) = life.processes.get(&connection) else { return };
                life.job.identity(generation, identity, None).expect("it is always the same job");
            }
            Delivery::Message(Message::Totals(totals)) => {
                life.job.totals(totals, network.wall()).expect("each generation reads the same rows");
            }
            Delivery::Message(other) => unexpected(ME, &other),
        }
        self.work(network);
    }

    /// Completes a sync.
    pub(crate) fn wake(&mut self, network: &mut Network) {
        let Some(life) = &mut self.life else { return };
        life.syncing = false;
        match life.job.sync_work_now() {
            Some(SyncWork::Sync(position)) => {
                let bytes = position.result_bytes as usize;
                // Neither restarts nor wrong clocks change the time at which the job began.
                let started = self.disk.position.started;
                assert!(started == 0 || started == position.started, "the job's start time changed");
                let written = life.writer.storage();
                let (results, schema) = (written.results[..bytes].to_vec(), written.schema.clone());
                self.disk = Files { results, schema, position };
                life.job.durable(position);
            }
            Some(SyncWork::Finish(totals)) => {
                let position = self.disk.position;
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
                            acknowledgement.next <= self.disk.position.next,
                            "an acknowledgement covers batches that are not durable"
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

/// The end of a job whose results reach up to `position`.
fn done(position: Position) -> End {
    let summary = Summary {
        rows: position.next_row,
        batches: position.next,
        bytes: position.result_bytes,
        ..Summary::default()
    };
    End::Job(Outcome::Done(summary))
}
