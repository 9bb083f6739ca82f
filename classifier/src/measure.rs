//! Chooses the number of rows in a batch by a short measurement with the real model.
//!
//! A call of a model takes some time however few rows it gets, and some time for each row. Two sizes show both. The rows that are
//! measured are classified again later.

use std::time::{Duration, Instant};

use columns::{Survey, Table};
use records::check_record;

use crate::model::{Model, ModelError, Record, Request, Typed};

/// The sizes to choose from.
const SIZES: [u32; 7] = [100, 300, 1_000, 3_000, 10_000, 30_000, 100_000];
/// The sizes that are measured.
const MEASURED: [usize; 3] = [100, 1_000, 10_000];
/// The size if the model cannot be measured.
pub const DEFAULT: u32 = 1_000;
/// How long the measurement may take. The calls with the fewest rows are made in any case.
const BUDGET: Duration = Duration::from_secs(5);
/// The share of a worker's rows that a call with the most rows may have.
const SHARE: f64 = 0.05;
/// Shorter calls are made twice, since a disturbance may be as long.
const SHORT: Duration = Duration::from_millis(20);
/// With a model this slow, the smallest size will do.
const SLOW: Duration = Duration::from_secs(1);
/// How long a batch should take at most, so that progress is visible and little is tried again after a failure.
const LONGEST: Duration = Duration::from_secs(1);
/// A size is good enough if the job takes at most this many times the least time.
const TOLERANCE: f64 = 1.02;
/// The same for a stream, whose rows wait until a batch is full.
const STREAM_TOLERANCE: f64 = 1.1;
/// The least number of batches for each worker, so that all of them have work to the end.
const LEAST_BATCHES: u64 = 4;
/// Roughly the seconds between two calls of a model on a busy machine.
const BETWEEN: f64 = 1e-3;
/// Roughly the seconds that a row takes to and from the model. The first and the last batch do that while no model works.
const WAY: f64 = 1e-6;

/// The room for batches.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Workers in the cluster.
    pub workers: usize,
    /// How many bytes of rows may be issued and not durable.
    pub bytes: usize,
}

/// What is known of an input.
#[derive(Debug, Clone, Copy)]
struct Extent {
    /// The number of rows, if known.
    rows: Option<u64>,
    /// The mean length of a record.
    record: usize,
}

/// The batch size for an input and a model of a worker.
pub fn chunk_size(model: &mut dyn Model, header: &[u8], survey: &Survey, room: Room) -> u32 {
    let began = Instant::now();
    let (table, records) = table(header, survey);
    let mut call = |rows: usize| {
        model.prepare()?;
        let limit = model.timeout();
        let typed = Typed { table: &table, rows: 0..rows };
        let request = Request { header, records: &records[..rows], typed, numbers: None, limit };
        let start = Instant::now();
        model.classify(&request, &mut Vec::new())?;
        Ok(start.elapsed())
    };
    let bytes: usize = records.iter().map(|record| record.bytes.len()).sum();
    let extent = Extent { rows: survey.rows, record: bytes / records.len().max(1) };
    let share = extent.rows.map(|rows| rows as f64 / room.workers as f64);
    let times = measure(
        records.len(),
        share,
        || began.elapsed(),
        |rows| {
            let time: Result<_, ModelError> = call(rows);
            time.inspect_err(|error| tracing::warn!("measuring the model with {rows} rows: {error}")).ok()
        },
    );
    tracing::debug!("calls with so many rows take so long: {:?}", times.measured);
    let chosen = choose(&times, extent, room);
    tracing::info!(
        "batches of {chosen} rows, after measuring the model for {:.2} s",
        began.elapsed().as_secs_f64()
    );
    chosen
}

/// The records of the survey that can be classified, in an order in which those of any beginning are spread over the input.
fn table<'a>(header: &[u8], survey: &'a Survey) -> (Table, Vec<Record<'a>>) {
    let columns = records::count(header).unwrap_or(0);
    let mut table = Table::new(survey.types.clone());
    let mut records = Vec::new();
    for index in spread(survey.sample.len()) {
        let bytes = &survey.sample[index][..];
        if let Ok(shape) = check_record(bytes, columns)
            && table.push(bytes).is_ok()
        {
            records.push(Record { bytes, plain: !shape.special });
        }
    }
    (table, records)
}

/// The numbers below `count`, each once, at distances of about 0.618 of `count`.
fn spread(count: usize) -> impl Iterator<Item = usize> {
    let divides_both = |a: usize, b: usize| {
        let (mut a, mut b) = (a, b);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a != 1
    };
    let mut step = (count as f64 * 0.618) as usize;
    while count > 1 && (step == 0 || divides_both(count, step)) {
        step += 1;
    }
    (0..count).scan(0, move |next, _| {
        let index = *next;
        *next = (*next + step) % count;
        Some(index)
    })
}

/// What a measurement finds.
#[derive(Debug, Default)]
struct Times {
    /// Numbers of rows, ascending, and how long calls with them take.
    measured: Vec<(usize, Duration)>,
    /// A number of rows with which the model has failed.
    failed: Option<usize>,
}

impl Times {
    /// The seconds that a call with so many rows takes: on a line through the two nearest measured numbers, since a row costs less
    /// among many. `None` if nothing was measured.
    fn of(&self, rows: f64) -> Option<f64> {
        let point = |(rows, time): &(usize, Duration)| (*rows as f64, time.as_secs_f64());
        let (first, last) = self.measured.first().map(point).zip(self.measured.last().map(point))?;
        let mut pairs = self.measured.windows(2).map(|pair| (point(&pair[0]), point(&pair[1])));
        let near = pairs.clone().find(|(_, (most, _))| rows <= *most).or_else(|| pairs.next_back());
        let ((few, least), (many, most)) = near.unwrap_or(((0.0, 0.0), first));
        // More rows do not take less time.
        let row = ((most - least) / (many - few)).max(1e-9);
        Some(if rows >= last.0 { last.1 + row * (rows - last.0) } else { least + row * (rows - few) })
    }
}

/// Measures a model by calls with up to `rows` rows; `call` returns `None` if the model fails. Each worker will get `share` rows, if
/// that is known.
fn measure(
    rows: usize,
    share: Option<f64>,
    elapsed: impl Fn() -> Duration,
    mut call: impl FnMut(usize) -> Option<Duration>,
) -> Times {
    let mut times = Times::default();
    let smallest = rows.min(MEASURED[0]);
    if smallest == 0 {
        return times;
    }
    // The first call also loads what the model has put off.
    let is_slow = |time: &Duration| *time >= SLOW;
    if call(smallest).is_some_and(|time| is_slow(&time))
        && let Some(again) = call(smallest).filter(is_slow)
    {
        times.measured.push((smallest, again));
        return times;
    }
    for size in MEASURED {
        let size = size.min(rows);
        // The smallest two numbers are always worth it.
        let is_cheap =
            |rows: usize| times.measured.len() < 2 || share.is_none_or(|share| rows as f64 <= SHARE * share);
        let mut twice = is_cheap(2 * size);
        if let Some((takes, (before, _))) = times.of(size as f64).zip(times.measured.last()) {
            let left = BUDGET.saturating_sub(elapsed()).as_secs_f64();
            // A slightly larger size would show only noise.
            if size < 2 * before || takes > left / 2.0 || !is_cheap(size) {
                break;
            }
            twice = twice && takes <= left / 4.0;
        }
        // The less disturbed one of two, of which the first also gets the memory.
        let mut time = call(size);
        if let Some(first) = time.filter(|time| twice || *time < SHORT) {
            time = call(size).map(|second| second.min(first));
        }
        let Some(time) = time else {
            times.failed = Some(size);
            break;
        };
        times.measured.push((size, time));
    }
    times
}

/// The batch size that follows from the times.
fn choose(times: &Times, extent: Extent, room: Room) -> u32 {
    if times.measured.is_empty() {
        return if times.failed.is_some() { SIZES[0] } else { DEFAULT };
    }
    let seconds = |size: u32| times.of(f64::from(size)).unwrap_or_default();
    let workers = room.workers as u64;
    // Half of the window is for batches that have not reached the receiver, of which each worker needs two.
    let window = room.bytes as u64 / (4 * workers * extent.record.max(1) as u64);
    let share = extent.rows.map_or(window, |rows| window.min(rows / (workers * LEAST_BATCHES)));
    let fits = |size: &u32| {
        *size == SIZES[0]
            || u64::from(*size) <= share
                && times.failed.is_none_or(|failed| (*size as usize) < failed)
                && seconds(*size) <= LONGEST.as_secs_f64()
    };
    // All workers have a batch each, until the last one is done. A stream has no last one.
    let total = |size: u32| match extent.rows {
        Some(rows) => {
            let turns = rows.div_ceil(u64::from(size)).div_ceil(workers);
            (seconds(size) + BETWEEN) * turns as f64 + WAY * f64::from(size)
        }
        None => (seconds(size) + BETWEEN) / f64::from(size),
    };
    let possible: Vec<_> = SIZES.into_iter().filter(fits).collect();
    let best = possible.iter().map(|size| total(*size)).fold(f64::INFINITY, f64::min);
    let tolerance = if extent.rows.is_some() { TOLERANCE } else { STREAM_TOLERANCE };
    possible.into_iter().find(|size| total(*size) <= best * tolerance).unwrap_or(DEFAULT)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use proptest::prelude::*;

    fn micros(micros: f64) -> Duration {
        Duration::from_secs_f64(micros / 1e6)
    }

    /// The choice for a model that takes this many microseconds a call and a row, and the sizes of its calls.
    fn chosen(call: f64, row: f64, sample: usize, rows: Option<u64>, workers: usize) -> (u32, Vec<usize>) {
        let (extent, room) = (Extent { rows, record: 40 }, Room { workers, bytes: 32 << 20 });
        let (now, calls) = (Cell::new(Duration::ZERO), RefCell::new(Vec::new()));
        let times = measure(
            sample,
            rows.map(|rows| rows as f64 / workers as f64),
            || now.get(),
            |rows| {
                let time = micros(call + row * rows as f64);
                now.set(now.get() + time);
                calls.borrow_mut().push(rows);
                Some(time)
            },
        );
        (choose(&times, extent, room), calls.into_inner())
    }

    #[test]
    fn sizes_follow_from_the_time_of_a_call_and_of_a_row() {
        for (call, row, expected) in [
            // A fitted model, a vectorized function, a slow function for each row, and an API.
            (6_000.0, 3.0, 30_000),
            (1_000.0, 0.1, 100_000),
            (200.0, 50.0, 300),
            (0.0, 20_000.0, 100),
        ] {
            assert_eq!(chosen(call, row, 20_000, None, 2).0, expected, "{call} {row}");
        }
        // All workers have work.
        assert_eq!(chosen(6_000.0, 3.0, 20_000, Some(100_000), 2).0, 10_000);
        // One worker would do a last batch of 30,000 rows alone.
        assert_eq!(chosen(6_000.0, 3.0, 20_000, Some(250_000), 2).0, 10_000);
        assert_eq!(chosen(6_000.0, 3.0, 20_000, Some(240_000), 2).0, 30_000);
        assert_eq!(chosen(6_000.0, 3.0, 20_000, Some(100_000), 112).0, 100);
        assert_eq!(chosen(6_000.0, 3.0, 20_000, None, 112).0, 1_000);
        // A stream shows few rows.
        assert_eq!(chosen(6_000.0, 3.0, 1_000, None, 2).0, 30_000);
        assert_eq!(chosen(6_000.0, 3.0, 0, None, 2).0, DEFAULT);
    }

    #[test]
    fn a_slow_model_is_called_twice() {
        assert_eq!(chosen(0.0, 20_000.0, 20_000, None, 2).1, [100, 100]);
        let calls = chosen(0.0, 2_000.0, 20_000, None, 2).1;
        assert_eq!(calls, [100, 100, 100, 1_000], "ten times more would take too long");
        assert_eq!(
            chosen(20_000.0, 10.0, 20_000, Some(200_000), 2),
            (10_000, vec![100, 100, 100, 1_000, 1_000]),
            "the job is short"
        );
        let calls = chosen(2_000.0, 1.0, 20_000, Some(10_000_000), 2).1;
        assert_eq!(calls, [100, 100, 100, 1_000, 1_000, 10_000, 10_000], "all calls are short");
    }

    #[test]
    fn sizes_with_which_the_model_fails_are_not_chosen() {
        let chosen = |most: usize| {
            let times =
                measure(20_000, None, || Duration::ZERO, |rows| (rows <= most).then_some(micros(5_000.0)));
            choose(&times, Extent { rows: None, record: 40 }, Room { workers: 1, bytes: 32 << 20 })
        };
        assert_eq!([chosen(50), chosen(100), chosen(1_000), chosen(20_000)], [100, 300, 3_000, 100_000]);
    }

    #[test]
    fn a_first_call_that_loads_a_library_does_not_count() {
        let first = Cell::new(true);
        let times = measure(
            20_000,
            None,
            || Duration::ZERO,
            |rows| {
                let loads = if first.replace(false) { 1.2e6 } else { 0.0 };
                Some(micros(6_000.0 + 3.0 * rows as f64 + loads))
            },
        );
        let room = Room { workers: 1, bytes: 32 << 20 };
        assert_eq!(choose(&times, Extent { rows: None, record: 40 }, room), 30_000);
    }

    proptest! {
        #[test]
        fn spread_numbers_come_once(count in 0usize..3000) {
            let mut numbers: Vec<_> = spread(count).collect();
            if count > 100 {
                let first = &mut numbers[..10].to_vec();
                first.sort_unstable();
                prop_assert!(first[0] < count / 3 && first[9] > 2 * count / 3);
            }
            numbers.sort_unstable();
            prop_assert!(numbers.into_iter().eq(0..count));
        }

        #[test]
        fn a_choice_is_at_most_a_little_worse_than_the_best(call in 0.0f64..1e5, row in 0.01f64..100.0) {
            let cost = |size: u32| call / f64::from(size) + row;
            let size = chosen(call, row, 20_000, None, 1).0;
            let allowed = |size: &u32| *size == 100 || call + row * f64::from(*size) <= 0.99e6;
            let best = SIZES.into_iter().filter(allowed).map(cost).fold(f64::INFINITY, f64::min);
            prop_assert!(cost(size) <= best * 1.11, "{size}");
        }
    }
}
