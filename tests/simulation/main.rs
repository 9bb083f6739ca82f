//! The protocols under simulated time. Production code makes all decisions: the coordinator and the participants of the
//! cluster, the source's intake, issuer and window, the sender's session and replay, the receiver's job, writer and audit,
//! and the frame reader. The simulated network delays messages, breaks connections and is cut. Processes die and restart. Wall
//! clocks are set. The disk keeps only synced data. A seed decides everything, so a failure can be repeated:
//!
//! ```text
//! SIMULATION_SEED=17 cargo test -p tests --test simulation -- --nocapture
//! ```

#![allow(clippy::print_stderr, reason = "tests print what they find")]

mod classifiers;
mod network;
mod port;
mod receiver;
mod sender;

use std::sync::atomic::{AtomicU64, Ordering};

use chacha20::ChaCha8Rng;
use protocol::frame;
use rand::{RngExt, SeedableRng};

use classifiers::Classifier;
use network::{Address, Delivery, Event, Message, Network};
use receiver::Receiver;
use sender::Sender;

/// The number of simulated jobs.
const SEEDS: u64 = 30_000;
/// Rows of a job; each row is its own number.
const ROWS: u32 = 300;
/// Time limit for a job, in simulated milliseconds.
const PATIENCE: u64 = 300_000;
/// The longest time for a batch, in milliseconds, with a quick and with a slow model. With a slow one, a job takes long
/// enough for missing processes to join.
const QUICK: u64 = 50;
const SLOW: u64 = 3000;
/// The most faults in a job, and the longest time between two, in milliseconds.
const MOST_FAULTS: u32 = 12;
const FAULT_PAUSE: u64 = 1500;

/// What happened in a run, to check that the simulation covers enough.
#[derive(Debug, Default, PartialEq)]
struct Stats {
    crashes: u32,
    cuts: u32,
    steps: u32,
    generations: u32,
    smaller: u32,
    grown: u32,
    rewinds: u32,
    ended: u64,
}

struct World {
    network: Network,
    random: ChaCha8Rng,
    receiver: Receiver,
    classifiers: Vec<Classifier>,
    sender: Sender,
    stats: Stats,
    /// The number of remaining faults.
    faults: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let processes = random.random_range(1..=4);
        let work = if random.random_bool(0.2) { SLOW } else { QUICK };
        let mut network = Network::new(seed, std::env::var_os("SIMULATION_SEED").is_some());
        let mut world = Self {
            receiver: Receiver::default(),
            classifiers: (0..processes).map(|i| Classifier::new(i, processes, work)).collect(),
            sender: Sender::new(random.random_bool(0.5)),
            stats: Stats::default(),
            faults: 0,
            random,
            network: {
                network.start(Address::Receiver, 0);
                (0..processes).for_each(|i| network.start(Address::Classifier(i), 0));
                network.start(Address::Sender, 0);
                network
            },
        };
        world.faults = world.random.random_range(0..=MOST_FAULTS);
        world.await_fault();
        world
    }

    fn run(mut self) -> Stats {
        while !self.is_over() {
            let Some(event) = self.network.next() else { panic!("the job has stalled") };
            assert!(self.network.now < PATIENCE, "the job does not end");
            match event {
                Event::Fault => self.fault(),
                Event::Start(address) => self.start(address),
                Event::Delivery { to, connection, delivery } => self.deliver(to, connection, delivery),
                Event::Timer { of, incarnation } => {
                    if self.network.incarnation(of) == Some(incarnation) {
                        self.wake(of);
                    }
                }
            }
            self.handle_deaths();
        }
        let mut expected = Vec::new();
        (0..ROWS).for_each(|row| frame::push(&mut expected, &row.to_be_bytes()));
        assert!(self.receiver.results() == expected, "the results are not those of an undisturbed run");
        self.stats.ended = self.network.now;
        self.stats.generations = self.receiver.generations();
        self.stats.rewinds = self.sender.rewinds();
        self.stats.grown = self.classifiers[0].grown();
        self.stats.smaller = self.classifiers[0].smaller();
        self.stats
    }

    /// Whether the initializer knows that the job is done, and so does a connected sender. A sender without a connection is
    /// not told; its supervisor learns it from the receiver.
    fn is_over(&self) -> bool {
        let initializer = &self.classifiers[0];
        assert!(
            !initializer.knows_the_end() || self.receiver.is_finished(),
            "the initializer learns of the end too early"
        );
        assert!(
            !self.sender.is_done() || initializer.knows_the_end(),
            "the sender learns of the end too early"
        );
        initializer.has_concluded() || self.sender.is_done()
    }

    fn await_fault(&mut self) {
        if self.faults > 0 {
            self.faults -= 1;
            let at = self.network.now + self.random.random_range(0..FAULT_PAUSE);
            self.network.at(at, Event::Fault);
        }
    }

    fn fault(&mut self) {
        self.await_fault();
        let count = self.classifiers.len();
        let mut all: Vec<_> = (0..count).map(Address::Classifier).collect();
        all.extend([Address::Receiver, Address::Sender]);
        let victim = all[self.random.random_range(0..all.len())];
        if self.random.random_bool(0.3) {
            self.stats.steps += 1;
            self.network.step_clock();
        }
        let may_die = victim != Address::Sender || self.sender.may_die();
        if self.random.random_bool(0.7) && may_die {
            self.stats.crashes += 1;
            // Most return soon, some only after the others have continued without them.
            let away = if self.random.random_bool(0.8) { 300 } else { 25_000 };
            self.network.crash(victim, away);
        } else {
            self.stats.cuts += 1;
            let time = self.random.random_range(1..12_000);
            self.network.cut(victim, time);
        }
    }

    fn start(&mut self, address: Address) {
        match address {
            Address::Receiver => self.receiver.start(&mut self.network),
            Address::Classifier(i) => self.classifiers[i].start(&mut self.network),
            Address::Sender => self.sender.start(&mut self.network),
        }
    }

    fn deliver(&mut self, to: Address, connection: u64, delivery: Delivery) {
        match to {
            Address::Receiver => self.receiver.recv(&mut self.network, connection, delivery),
            Address::Classifier(i) => self.classifiers[i].recv(&mut self.network, connection, delivery),
            Address::Sender => self.sender.recv(&mut self.network, connection, delivery),
        }
    }

    fn wake(&mut self, address: Address) {
        match address {
            Address::Receiver => self.receiver.wake(&mut self.network),
            Address::Classifier(i) => self.classifiers[i].wake(&mut self.network),
            Address::Sender => self.sender.wake(&mut self.network),
        }
    }

    /// Drops the memory of processes that have died.
    fn handle_deaths(&mut self) {
        while let Some(address) = self.network.died.pop() {
            match address {
                Address::Receiver => self.receiver.die(),
                Address::Classifier(i) => self.classifiers[i].die(),
                Address::Sender => self.sender.die(),
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_faults() {
    if let Ok(seed) = std::env::var("SIMULATION_SEED") {
        run(seed.parse().expect("SIMULATION_SEED is a number"));
        return;
    }
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let seeds = || next.fetch_add(1, Ordering::Relaxed);
                for seed in std::iter::repeat_with(seeds).take_while(|seed| *seed < SEEDS) {
                    run(seed);
                }
            });
        }
    });
}

#[test]
fn a_run_depends_only_on_its_seed() {
    assert_eq!(run(7), run(7));
}

#[test]
fn the_simulation_covers_all_kinds_of_faults_and_recoveries() {
    let runs: Vec<_> = (0..200).map(run).collect();
    let sum = |of: fn(&Stats) -> u32| runs.iter().map(of).sum::<u32>();
    assert!(sum(|stats| stats.crashes) > 400 && sum(|stats| stats.cuts) > 200);
    assert!(sum(|stats| stats.steps) > 200, "{}", sum(|stats| stats.steps));
    assert!(sum(|stats| stats.generations) > 300, "{}", sum(|stats| stats.generations));
    assert!(sum(|stats| stats.smaller) > 10, "{}", sum(|stats| stats.smaller));
    assert!(sum(|stats| stats.grown) > 0, "{}", sum(|stats| stats.grown));
    assert!(sum(|stats| stats.rewinds) > 100, "{}", sum(|stats| stats.rewinds));
}

fn run(seed: u64) -> Stats {
    let _seed = NameWhenPanicking(seed);
    World::new(seed).run()
}

/// Prints the seed if the run panics.
struct NameWhenPanicking(u64);

impl Drop for NameWhenPanicking {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print(format_args!("this run failed: SIMULATION_SEED={}", self.0));
        }
    }
}

#[expect(clippy::print_stdout, reason = "the test harness captures it unless a test fails")]
fn print(what: impl std::fmt::Display) {
    println!("{what}");
}

/// Panics: a message that a process does not expect is a defect of the simulation.
fn unexpected(process: Address, message: &Message) -> ! {
    panic!("{process:?} does not expect {message:?}")
}
