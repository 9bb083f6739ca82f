//! Finds workers that are slower than the others, with the reason.

use std::time::Duration;

use crate::words;

/// With fewer workers than this, no worker can be called an outlier.
const LEAST_WORKERS: usize = 3;

/// The pace of a worker whose process reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Rows per second, averaged over some seconds; `None` without work.
    pub rate: Option<f32>,
    /// The 99th percentile of its model's time for a batch.
    pub p99: Duration,
    /// The age of its oldest batch.
    pub oldest: Duration,
}

/// For each worker, the reason if it is a straggler. `stage_p99` is the 99th percentile of the time that batches spend at a
/// worker, over all workers.
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
    fn an_outlier_is_found_with_the_reason() {
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
    fn of_two_workers_none_is_an_outlier() {
        assert_eq!(find(&[pace(1.0, 1, 0), pace(100.0, 99, 0)], MS), [None, None]);
        assert_eq!(find(&[], MS), []);
    }

    #[test]
    fn idle_workers_are_not_stragglers() {
        assert_eq!(find(&[pace(0.0, 0, 0); 4], Duration::ZERO), [None, None, None, None]);
        let nothing_to_do = Pace { rate: None, ..pace(0.0, 20, 0) };
        assert_eq!(
            find(&[pace(100.0, 20, 0), nothing_to_do, pace(100.0, 20, 0)], 40 * MS),
            [None, None, None]
        );
        assert_eq!(find(&[nothing_to_do; 3], 40 * MS), [None, None, None]);
    }
}
