//! The window: how many batches may be issued, and which worker gets the next one. Pure: the caller passes the time.
//!
//! Two limits hold at once. The window itself limits the batches that are issued and not acknowledged as durable. It bounds
//! all buffers, including the receiver's reorder buffer. At most half of its bytes may be in flight: issued, and without
//! results at the receiver. Batches in flight are in the memory of the classifiers.
//!
//! The next batch goes to the worker with the fewest batches in flight. Each worker's queue has its own depth, which adapts
//! like TCP's congestion window. The depth grows while batches come through quickly, so that a fast worker never waits for the
//! next batch. It shrinks when they take long, so that a slow worker does not hold batches that others could classify.
//!
//! A worker with a deep queue gets several batches in a row. Threads, sockets and workers are then woken once for all of
//! them; in a wide cluster, waking them costs more than classifying.

use std::collections::VecDeque;
use std::time::Duration;

/// The least depth: one batch being classified, and one waiting.
const LEAST_DEPTH: usize = 2;
/// The depth grows for batches that come through within this time.
const QUICK: Duration = Duration::from_millis(25);
/// The depth shrinks for batches that take longer than this.
const SLOW: Duration = Duration::from_millis(100);

/// A worker gets at most its queue's depth divided by this in a row.
const RUN: usize = 2;

/// How much may be issued and not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub batches: usize,
    /// Bytes of the batches' rows. A single batch may be larger.
    pub bytes: usize,
}

/// The batches that are issued and not acknowledged.
#[derive(Debug)]
pub struct Window {
    limits: Limits,
    /// The first batch that is not acknowledged.
    acknowledged: u64,
    /// The sizes of the batches from that one on.
    issued: VecDeque<usize>,
    /// The sum of `issued`.
    bytes: usize,
    /// Bytes of rows whose results have not reached the receiver.
    in_flight: usize,
    /// Bytes of results that wait at the receiver for an earlier batch.
    held: u64,
    queues: Vec<WorkerQueue>,
    /// Where the search for a worker starts, so that equal workers take turns.
    turn: usize,
    /// The worker that was chosen last, and how many more batches it gets in a row.
    run: (usize, usize),
}

/// A worker's batches.
#[derive(Debug)]
struct WorkerQueue {
    /// For each batch, when it was issued and its size.
    in_flight: VecDeque<(Duration, usize)>,
    /// The number of batches that have reached the receiver.
    received: u64,
    depth: usize,
    /// How many batches must come through before the depth may shrink again. Batches issued before it shrank do not show the
    /// effect of the new depth.
    settling: usize,
}

impl Window {
    /// An empty window over this many workers, whose first batch is `next`.
    pub fn new(limits: Limits, workers: usize, next: u64) -> Self {
        let queue =
            || WorkerQueue { in_flight: VecDeque::new(), received: 0, depth: LEAST_DEPTH, settling: 0 };
        Self {
            limits,
            acknowledged: next,
            issued: VecDeque::new(),
            bytes: 0,
            in_flight: 0,
            held: 0,
            queues: (0..workers).map(|_| queue()).collect(),
            turn: 0,
            run: (0, 0),
        }
    }

    /// Issues the next batch, of this many bytes, if there is room for it. Returns its number and its worker.
    pub fn issue(&mut self, bytes: usize, now: Duration) -> Option<(u64, usize)> {
        // Results may be much longer than rows. The batch that they wait for is issued already, so this cannot deadlock.
        let flooded = !self.issued.is_empty() && self.held >= self.limits.bytes as u64;
        let full = flooded
            || self.issued.len() >= self.limits.batches
            || (!self.issued.is_empty() && self.bytes + bytes > self.limits.bytes)
            || (self.in_flight > 0 && self.in_flight + bytes > self.limits.bytes / 2);
        if full {
            return None;
        }
        let worker = self.next_worker(bytes, now)?;
        self.queues[worker].in_flight.push_back((now, bytes));
        self.in_flight += bytes;
        self.bytes += bytes;
        self.issued.push_back(bytes);
        Some((self.acknowledged + self.issued.len() as u64 - 1, worker))
    }

    fn next_worker(&mut self, bytes: usize, now: Duration) -> Option<usize> {
        let (worker, left) = self.run;
        // The run ends when a batch takes long: the worker may hang.
        if left > 0 && self.queues[worker].has_room() && self.queues[worker].is_quick(now) {
            self.run.1 -= 1;
            return Some(worker);
        }
        let count = self.queues.len();
        let worker = (0..count)
            .map(|i| (self.turn + i) % count)
            .filter(|&i| self.queues[i].has_room())
            .min_by_key(|&i| self.queues[i].in_flight.len())?;
        self.turn = (worker + 1) % count;
        // In a short window, a run must leave batches for the other workers.
        let room = self.limits.batches.min(self.limits.bytes / 2 / bytes.max(1));
        let run = (self.queues[worker].depth / RUN).min(room / count);
        self.run = (worker, run.saturating_sub(1));
        Some(worker)
    }

    /// Acknowledges all batches below `next` as durable.
    pub fn acknowledge(&mut self, next: u64) {
        while self.acknowledged < next
            && let Some(bytes) = self.issued.pop_front()
        {
            self.acknowledged += 1;
            self.bytes -= bytes;
        }
    }

    /// Sets the bytes of results that wait at the receiver for an earlier batch.
    pub fn hold(&mut self, bytes: u64) {
        self.held = bytes;
    }

    /// Records that `count` batches of this worker in total have reached the receiver. Calls `took` with the time of each
    /// new one.
    pub fn received(&mut self, worker: usize, count: u64, now: Duration, mut took: impl FnMut(Duration)) {
        let Some(queue) = self.queues.get_mut(worker) else { return };
        while queue.received < count
            && let Some((issued, bytes)) = queue.in_flight.pop_front()
        {
            queue.received += 1;
            self.in_flight -= bytes;
            queue.adapt(now.saturating_sub(issued));
            took(now.saturating_sub(issued));
        }
    }

    /// Bytes of rows that are issued and not acknowledged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether all issued batches are acknowledged.
    pub fn is_empty(&self) -> bool {
        self.issued.is_empty()
    }

    /// The first batch that is not acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }
}

impl WorkerQueue {
    fn has_room(&self) -> bool {
        self.in_flight.len() < self.depth
    }

    /// Whether the oldest batch in flight is not yet late.
    fn is_quick(&self, now: Duration) -> bool {
        self.in_flight.front().is_none_or(|(issued, _)| now.saturating_sub(*issued) < QUICK)
    }

    fn adapt(&mut self, took: Duration) {
        self.settling = self.settling.saturating_sub(1);
        if took < QUICK {
            // An unused depth need not grow.
            self.depth += usize::from(self.in_flight.len() + 1 >= self.depth / 2);
        } else if took > SLOW && self.settling == 0 {
            self.depth = (self.depth * 3 / 4).max(LEAST_DEPTH);
            self.settling = self.in_flight.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn window(batches: usize, bytes: usize, workers: usize) -> Window {
        Window::new(Limits { batches, bytes }, workers, 0)
    }

    #[test]
    fn batches_are_numbered_and_idle_workers_take_turns() {
        let mut window = window(100, 1000, 3);
        let issued: Vec<_> = (0..5).map(|_| window.issue(1, MS).unwrap()).collect();
        assert_eq!(issued, [(0, 0), (1, 1), (2, 2), (3, 0), (4, 1)]);
    }

    #[test]
    fn quick_workers_get_several_batches_in_a_row() {
        let mut window = window(1000, 1 << 20, 2);
        let mut issued = [0; 2];
        let mut row = |window: &mut Window, batches: usize| -> Vec<usize> {
            let workers = (0..batches).map_while(|_| window.issue(1, MS)).map(|(_, worker)| worker);
            workers.inspect(|&worker| issued[worker] += 1).collect()
        };
        assert_eq!(row(&mut window, 100), [0, 1, 0, 1], "queues are shallow until workers prove quick");
        for (worker, count) in [(0, 2), (1, 2)] {
            window.received(worker, count, 2 * MS, |_| {});
        }
        assert_eq!(row(&mut window, 100), [0, 0, 1, 1, 0, 0, 1, 1]);
        assert_eq!(issued, [6, 6]);
    }

    #[test]
    fn a_short_window_has_batches_for_all_workers() {
        let mut window = window(16, 1 << 20, 4);
        let mut received = [0; 4];
        for round in 1..100 {
            let mut issued = [0; 4];
            while let Some((_, worker)) = window.issue(1, round * MS) {
                issued[worker] += 1;
            }
            if round > 10 {
                assert_eq!(issued, [4; 4], "however deep the queues have become");
            }
            for (worker, count) in issued.into_iter().enumerate() {
                received[worker] += count;
                window.received(worker, received[worker], round * MS, |_| {});
            }
            window.acknowledge(received.iter().sum());
        }
    }

    #[test]
    fn a_stalled_worker_gets_no_more_batches_in_a_row() {
        let mut window = window(1000, 1 << 20, 2);
        let mut received = [0; 2];
        for _ in 0..20 {
            while let Some((_, worker)) = window.issue(1, MS) {
                received[worker] += 1;
            }
            window.acknowledge(received.iter().sum());
            (0..2).for_each(|worker| window.received(worker, received[worker], MS, |_| {}));
        }
        let (_, first) = window.issue(1, MS).unwrap();
        assert_eq!(window.issue(1, MS).unwrap().1, first);
        let later = MS + QUICK;
        for _ in 0..2 {
            assert_ne!(window.issue(1, later).unwrap().1, first);
        }
    }

    #[test]
    fn a_batch_larger_than_the_window_is_issued_alone() {
        let mut window = window(100, 1000, 3);
        assert!(window.issue(5000, MS).is_some());
        assert!(window.issue(1, MS).is_none());
        window.received(0, 1, MS, |_| {});
        assert!(window.issue(1, MS).is_none(), "it is not acknowledged");
        window.acknowledge(1);
        assert!(window.issue(1, MS).is_some());
    }

    #[test]
    fn a_slow_worker_gets_fewer_batches() {
        // Worker 0 takes 10 ms a batch, worker 1 takes 200 ms.
        let mut window = window(1000, 1 << 20, 2);
        let (mut done, mut given, mut clock) = ([0u64; 2], [0u64; 2], Duration::ZERO);
        let mut busy_until: [VecDeque<Duration>; 2] = Default::default();
        for _ in 0..2000 {
            clock += 5 * MS;
            for worker in 0..2 {
                while busy_until[worker].front().is_some_and(|t| *t <= clock) {
                    busy_until[worker].pop_front();
                    done[worker] += 1;
                }
                window.received(worker, done[worker], clock, |_| {});
            }
            window.acknowledge(window.acknowledged() + window.issued.len() as u64);
            while let Some((_, worker)) = window.issue(100, clock) {
                given[worker] += 1;
                let cost = if worker == 0 { 10 * MS } else { 200 * MS };
                let start = busy_until[worker].back().copied().unwrap_or(clock).max(clock);
                busy_until[worker].push_back(start + cost);
            }
        }
        // In 10 s, the workers can do 1000 batches and 50.
        assert!(done[0] > 950, "the quick worker did {} of 1000", done[0]);
        assert!((45..=50).contains(&done[1]), "the slow worker did {}", done[1]);
        assert!(given[1] - done[1] <= 3, "the slow worker hoards {} batches", given[1] - done[1]);
    }

    proptest! {
        /// In whatever order batches reach the receiver, the limits hold, and once all are acknowledged, more can be issued.
        #[test]
        fn the_limits_hold(
            batches in 1usize..20, bytes in 1usize..2000, workers in 1usize..5,
            steps in prop::collection::vec((0u8..3, 1usize..500, any::<prop::sample::Index>()), 1..300),
        ) {
            let mut window = window(batches, bytes, workers);
            let mut next = 0;
            let mut sizes = Vec::new();
            let mut by_worker = vec![Vec::new(); workers];
            let mut received = vec![0u64; workers];
            let mut acknowledged = 0u64;
            for (i, (step, size, pick)) in steps.into_iter().enumerate() {
                let now = MS * i as u32;
                match step {
                    0 => if let Some((number, worker)) = window.issue(size, now) {
                        prop_assert_eq!(number, next);
                        next += 1;
                        sizes.push(size);
                        by_worker[worker].push(number);
                    }
                    1 => {
                        let worker = pick.index(workers);
                        received[worker] = (received[worker] + 1).min(by_worker[worker].len() as u64);
                        window.received(worker, received[worker], now, |_| {});
                    }
                    _ => {
                        // Batches become durable in order, once received.
                        let is_received = |number: &u64| (0..workers).any(|w| {
                            by_worker[w].iter().take(received[w] as usize).any(|n| n == number)
                        });
                        while acknowledged < next && is_received(&acknowledged) { acknowledged += 1; }
                        window.acknowledge(acknowledged);
                    }
                }
                let unacknowledged = &sizes[window.acknowledged() as usize..];
                prop_assert!(unacknowledged.len() <= batches);
                prop_assert!(unacknowledged.len() <= 1 || unacknowledged.iter().sum::<usize>() <= bytes);
            }
            for (worker, queue) in by_worker.iter().enumerate() {
                window.received(worker, queue.len() as u64, MS * 1000, |_| {});
            }
            window.acknowledge(next);
            prop_assert!(window.is_empty());
            prop_assert!(window.issue(1, MS).is_some());
        }
    }
}
