//! Workers that hold the others back, and why one thinks so.

use std::time::Duration;

use crate::words;

/// With fewer workers than this, there is no saying who is the odd one out.
const LEAST_WORKERS: usize = 3;

/// What is known of a worker that is at work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Rows a second, over some time, if it had something to do.
    pub rate: Option<f32>,
    /// How long its model takes for a batch, at the 99th percentile.
    pub p99: Duration,
    /// For how long its oldest batch has been with it.
    pub oldest: Duration,
}

/// For each worker, the reason why it is a straggler, if it is one; `stage_p99` is how long batches of all workers are with
/// them, at the 99th percentile.
pub fn find(paces: &[Pace], stage_p99: Duration) -> Vec<Option<String>> {
    if paces.len() < LEAST_WORKERS {
        return vec![None; paces.len()];
    }
    let rate = median(paces.iter().filter_map(|pace| pace.rate.map(f64::from)));
    let p99 = median(paces.iter().map(|pace| pace.p99.as_secs_f64()));
    let reason = |pace: &Pace| {
        if let Some(own) = pace.rate.filter(|own| f64::from(*own) < rate / 2.0) {
            Some(format!("{own:.0} rows/s; the median is {rate:.0}"))
        } else if pace.p99.as_secs_f64() > 2.0 * p99 && p99 > 0.0 {
            Some(format!(
                "a batch takes up to {} (p99); the median of the workers is {}",
                words::duration(pace.p99),
                words::duration(Duration::from_secs_f64(p99))
            ))
        } else if pace.oldest > 3 * stage_p99 && stage_p99 > Duration::ZERO {
            Some(format!("its oldest batch has been there for {}", words::duration(pace.oldest)))
        } else {
            None
        }
    };
    paces.iter().map(reason).collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    if values.is_empty() {
        return 0.0;
    }
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pace(rate: f32, p99: u32, oldest: u32) -> Pace {
        Pace { rate: Some(rate), p99: p99 * MS, oldest: oldest * MS }
    }

    #[test]
    fn the_odd_one_out_is_found_with_the_reason() {
        let usual = pace(100.0, 20, 15);
        let reasons = |odd| find(&[usual, usual, odd, usual], 40 * MS).swap_remove(2);
        assert_eq!(reasons(usual), None);
        assert_eq!(reasons(pace(49.0, 20, 0)).unwrap(), "49 rows/s; the median is 100");
        assert_eq!(
            reasons(pace(100.0, 41, 0)).unwrap(),
            "a batch takes up to 41.0 ms (p99); the median of the workers is 20.0 ms"
        );
        assert_eq!(reasons(pace(100.0, 20, 121)).unwrap(), "its oldest batch has been there for 121.0 ms");
    }

    #[test]
    fn of_two_none_is_the_odd_one_out() {
        assert_eq!(find(&[pace(1.0, 1, 0), pace(100.0, 99, 0)], MS), [None, None]);
        assert_eq!(find(&[], MS), []);
    }

    #[test]
    fn idle_workers_are_no_stragglers() {
        assert_eq!(find(&[pace(0.0, 0, 0); 4], Duration::ZERO), [None, None, None, None]);
        let nothing_to_do = Pace { rate: None, ..pace(0.0, 20, 0) };
        assert_eq!(
            find(&[pace(100.0, 20, 0), nothing_to_do, pace(100.0, 20, 0)], 40 * MS),
            [None, None, None]
        );
        assert_eq!(find(&[nothing_to_do; 3], 40 * MS), [None, None, None]);
    }
}
