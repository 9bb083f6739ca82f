//! The state that connections, the writer and the syncer share. It uses neither sockets nor files.

mod counts;
mod initializer;
mod state;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{anyhow, ensure};
use initializer::Initializer;
use parking_lot::{Condvar, Mutex, MutexGuard};
use protocol::Temporary;
use protocol::rejects::Reasons;
use protocol::results::{FromReceiver, Identity, Outcome, Progress, Summary, Terms, Totals, Welcome};

use state::State;

use crate::checkpoint::Position;
use crate::outbox::Outbox;
use crate::peer::Peer;
use crate::store::Finished;

/// The most generations in one life of the receiver. The generations of a later life have larger numbers.
const GENERATIONS: u64 = 1_000_000;

/// One job, as the receiver sees it. Connections are [`Peer`]s.
#[derive(Debug)]
pub struct Job<W = Outbox> {
    state: Mutex<State<W>>,
    changed: Condvar,
}

impl<W> Default for Job<W> {
    fn default() -> Self {
        Self { state: Mutex::default(), changed: Condvar::new() }
    }
}

/// How the receiver ends.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// The job is done or has failed.
    Job(Outcome),
    /// The receiver was asked to stop; this many rows are durable.
    Stopped(u64),
    /// The receiver was asked to stop, and had no cluster's job.
    Closed,
}

/// Whether a number of bytes of results is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Durable,
    /// The job is done, and has only this many bytes.
    Last(u64),
    /// The job has failed or was stopped.
    Never,
}

/// What the syncer should do next.
#[derive(Debug, PartialEq)]
pub enum SyncWork {
    /// Make everything up to this position durable.
    Sync(Position),
    /// All batches are durable: end the job.
    Finish(Totals),
    /// The receiver was asked to stop, and everything written before is durable.
    Stop,
}

impl<W: Peer> Job<W> {
    /// Begins at the position that the opened files have reached, with the terms that they have. `life` is the receiver's number
    /// among the job's receivers.
    pub fn begin_at(&self, position: Position, terms: Option<Terms>, life: u64) {
        let mut state = self.state();
        state.generation = life * GENERATIONS;
        state.written = position;
        state.durable = position;
        state.identity = position.identity;
        state.terms = terms;
        let since_1970 = Duration::from_millis(position.started);
        state.started = (position.started > 0).then(|| SystemTime::UNIX_EPOCH + since_1970);
    }

    /// Ends the job, since the opened files say that it is finished.
    pub fn finished_before(&self, summary: Summary, finished: Finished) {
        let mut state = self.state();
        state.generation = finished.life() * GENERATIONS;
        state.durable = finished.position();
        state.told = finished.is_told();
        state.reasons.clone_from(&summary.reject_reasons);
        state.finished = Some(finished);
        state.end = Some(End::Job(Outcome::Done(summary)));
    }

    /// Keeps the locks of the finished job's files.
    pub fn finished(&self, finished: Finished) {
        self.state().finished = Some(finished);
    }

    fn state(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock()
    }

    /// Admits a process of `generation`, or an initializer (`None`), which begins a new generation. Sends it the job's
    /// progress. Returns the generation, and a number for the connection.
    ///
    /// # Errors
    /// When the process is refused; says why.
    pub fn admit(&self, peer: W, generation: Option<u64>) -> anyhow::Result<(u64, u64)> {
        let mut state = self.state();
        match generation {
            None => {
                state.generation += 1;
                state.begun = true;
                state.initializer = None;
                for (_, old) in std::mem::take(&mut state.connections) {
                    // Ends the thread that reads from it.
                    old.close();
                }
            }
            Some(generation) if generation < state.generation => {
                let newest = state.generation;
                let error =
                    anyhow!("generation {generation} of the cluster is over; generation {newest} is running");
                return Err(error.context(Temporary("a newer generation has formed")));
            }
            Some(generation) => {
                ensure!(generation == state.generation, "the cluster has no generation {generation}");
            }
        }
        let generation_now = state.generation;
        let Position { next, next_row, identity, .. } = state.durable;
        // Sent while the state is locked, so that no acknowledgement comes first.
        let terms = state.terms.clone();
        peer.welcome(Welcome { next, next_row, generation: generation_now, identity, terms });
        let is_initializer = generation.is_none();
        if let (true, Some(End::Job(outcome))) = (is_initializer, &state.end) {
            // The job ended while the initializer was away.
            peer.send(FromReceiver::Outcome(outcome.clone()));
        }
        let peer = Arc::new(peer);
        state.connected += 1;
        let connection = state.connected;
        if is_initializer {
            state.initializer = Some(Initializer::new(connection, Arc::clone(&peer), state.durable.next));
        }
        state.connections.insert(connection, peer);
        state.disconnected_since = None;
        self.changed.notify_all();
        Ok((generation_now, connection))
    }

    /// Removes a classifier process whose connection has ended.
    pub fn left(&self, connection: u64) {
        let mut state = self.state();
        state.connections.remove(&connection);
        if state.initializer.as_ref().is_some_and(|i| i.connection == connection) {
            state.initializer = None;
        }
        if state.connections.is_empty() {
            state.disconnected_since = Some(Instant::now());
        }
        self.changed.notify_all();
    }

    /// Records the arrival of a batch of `worker`.
    pub fn received(&self, generation: u64, worker: u32, now: SystemTime) {
        let mut state = self.state();
        state.started.get_or_insert(now);
        if generation == state.generation
            && let Some(initializer) = &mut state.initializer
        {
            initializer.received(worker);
        }
    }

    /// Records the reasons of the rejects that are written.
    pub fn rejected(&self, reasons: &Reasons) {
        self.state().reasons.clone_from(reasons);
    }

    /// Records the writer's position, and the bytes of results that wait for an earlier batch. `idle` means that the writer
    /// has nothing else to do.
    pub fn written(&self, position: Position, held: u64, idle: bool) {
        let mut state = self.state();
        state.held = held;
        if state.written.next != position.next {
            state.written = position;
            self.changed.notify_all();
        }
        state.report(idle);
    }

    /// Records that everything up to `position` is durable, and acknowledges it to the source.
    pub fn durable(&self, position: Position) {
        let mut state = self.state();
        state.durable = position;
        state.report(true);
        self.changed.notify_all();
    }

    /// Waits until this many bytes of results are durable, or the job has ended.
    pub fn await_results(&self, bytes: u64) -> Reach {
        let mut state = self.state();
        loop {
            if state.durable.result_bytes >= bytes {
                return Reach::Durable;
            }
            match &state.end {
                Some(End::Job(Outcome::Done(_))) => return Reach::Last(state.durable.result_bytes),
                Some(_) => return Reach::Never,
                None => {}
            }
            self.changed.wait(&mut state);
        }
    }

    /// Records the job's identity and terms, and tells the initializer that the terms are known. Ignores those of an earlier
    /// generation, since the present one was told that there are none.
    ///
    /// # Errors
    /// When the durable results belong to another job, or other terms are known.
    pub fn identity(&self, generation: u64, identity: Identity, terms: Option<Terms>) -> anyhow::Result<()> {
        let mut state = self.state();
        if generation < state.generation {
            return Ok(());
        }
        ensure!(
            state.identity.is_none_or(|known| known == identity),
            "the durable results here are of another job, with another header or other settings; choose another --output"
        );
        ensure!(
            state.terms.is_none() || state.terms == terms,
            "the job has other types of columns, or another batch size, than before: {:?} and {:?}",
            terms,
            state.terms
        );
        state.identity = Some(identity);
        state.terms = terms;
        if let (Some(_), Some(initializer)) = (&state.terms, &state.initializer) {
            initializer.peer.send(FromReceiver::Noted);
        }
        self.changed.notify_all();
        Ok(())
    }

    /// What the job has decided with its first rows, if it has typed columns.
    pub fn terms(&self) -> Option<Terms> {
        self.state().terms.clone()
    }

    /// Records the job's total rows and batches.
    ///
    /// # Errors
    /// When an earlier generation reported other totals.
    pub fn totals(&self, totals: Totals, now: SystemTime) -> anyhow::Result<()> {
        let mut state = self.state();
        let known = state.totals.unwrap_or(totals);
        ensure!(
            known == totals,
            "the totals are {} rows in {} batches now, but were {} rows in {} batches before",
            totals.rows,
            totals.batches,
            known.rows,
            known.batches
        );
        state.started.get_or_insert(now);
        state.totals = Some(totals);
        self.changed.notify_all();
        Ok(())
    }

    /// Asks the syncer to make all written batches durable, and to end the job.
    pub fn stop(&self) {
        let mut state = self.state();
        state.stop = Some(state.written.next);
        self.changed.notify_all();
    }

    /// Waits for the syncer's next work; `None` when the job has ended.
    pub fn sync_work(&self) -> Option<SyncWork> {
        let mut state = self.state();
        loop {
            if state.end.is_some() {
                return None;
            }
            if let Some(work) = state.sync_work() {
                return Some(work);
            }
            self.changed.wait(&mut state);
        }
    }

    /// The syncer's next work, if there is any now.
    pub fn sync_work_now(&self) -> Option<SyncWork> {
        let state = self.state();
        if state.end.is_some() { None } else { state.sync_work() }
    }

    /// When the first batch (or the totals) arrived, at this receiver or an earlier one.
    pub fn started(&self) -> SystemTime {
        self.state().started.unwrap_or_else(SystemTime::now)
    }

    /// Ends the job, unless it has ended, and reports the outcome to the source.
    pub fn end(&self, end: End) {
        self.end_for(end, false);
    }

    /// Ends the job with a failure, unless it has ended. If the reason may last, another try to go on would fail in the same
    /// way.
    pub fn fail(&self, reason: String, lasts: bool) {
        self.end_for(End::Job(Outcome::Failed(reason)), lasts);
    }

    fn end_for(&self, end: End, lasts: bool) {
        let mut state = self.state();
        if state.end.is_some() {
            return;
        }
        if let (End::Job(outcome), Some(initializer)) = (&end, &state.initializer) {
            initializer.peer.send(FromReceiver::Outcome(outcome.clone()));
        }
        state.end = Some(end);
        state.lasts = lasts;
        self.changed.notify_all();
    }

    /// Whether the job has failed for a reason that may last.
    pub fn failure_lasts(&self) -> bool {
        self.state().lasts
    }

    /// Records that an initializer knows how the job ended.
    pub fn told(&self) {
        self.state().told = true;
        self.changed.notify_all();
    }

    /// Waits for the job's end. A job that has begun fails when no process has been connected for `patience`.
    pub fn wait(&self, patience: Duration) -> End {
        let mut state = self.state();
        loop {
            if let Some(end) = &state.end {
                return end.clone();
            }
            let begun = state.begun;
            let disconnected = state.disconnected_since.filter(|_| begun).map(|since| since.elapsed());
            if let Some(disconnected) = disconnected
                && disconnected >= patience
            {
                return End::Job(Outcome::Failed(format!(
                    "no classifier process has been connected for {patience:?}; {} rows are durable",
                    state.durable.next_row
                )));
            }
            let pause = disconnected.map_or(patience, |disconnected| patience - disconnected);
            self.changed.wait_for(&mut state, pause);
        }
    }

    /// Waits until an initializer knows how the job ended, the receiver is asked to stop, or `limit` is over.
    pub fn await_told(&self, limit: Duration) {
        let waits = |state: &mut State<W>| !state.told && state.stop.is_none();
        self.changed.wait_while_for(&mut self.state(), waits, limit);
    }

    /// Takes the locks of the finished job's files, if an initializer knows of the end. Otherwise the files stay locked
    /// while this process runs.
    pub fn take_told(&self) -> Option<Finished> {
        let mut state = self.state();
        if state.told { state.finished.take() } else { None }
    }

    /// Waits until all processes have closed their connections, or `limit` is over.
    pub fn wait_for_leave(&self, limit: Duration) {
        let waits = |state: &mut State<W>| !state.connections.is_empty();
        self.changed.wait_while_for(&mut self.state(), waits, limit);
    }

    pub fn progress(&self) -> Progress {
        let state = self.state();
        let Position { next_row: rows, rejects, result_bytes: bytes, .. } = state.durable;
        Progress { rows, rejects, bytes, ended: state.end.is_some() }
    }
}
