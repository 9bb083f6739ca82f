//! Chooses histogram bins for any durations.

use std::time::Duration;

use telemetry::durations::Durations;
use telemetry::view::Histogram;

/// About this many bins of the same width, or at most this many of the same ratio.
const LINEAR_BINS: f64 = 24.0;
const MOST_BINS: f64 = 40.0;
/// Bins are logarithmic above this ratio of the longest to the shortest duration.
const WIDE: f64 = 8.0;
/// The axis extends at least this share of the median to both sides of it, so that similar durations are one narrow bar.
const MARGIN: f64 = 0.15;
/// Bins per power of ten.
const PER_DECADE: [f64; 3] = [20.0, 10.0, 5.0];
/// The shortest recorded duration, in nanoseconds.
const SHORTEST: f64 = 1_000.0;

/// The histogram of durations; it has no bins if there are no durations.
pub fn histogram(durations: &Durations) -> Histogram {
    if durations.count() == 0 {
        return Histogram::default();
    }
    let nanoseconds = |duration: Duration| (duration.as_nanos() as f64).max(SHORTEST);
    let median = nanoseconds(durations.quantile(0.5));
    let shortest = nanoseconds(durations.min()).min(median * (1.0 - MARGIN));
    let longest = nanoseconds(durations.max()).max(median * (1.0 + MARGIN));
    let logarithmic = longest / shortest > WIDE;
    let edges = if logarithmic { ratios(shortest, longest) } else { widths(shortest, longest) };
    Histogram {
        counts: counts(durations, &edges),
        edges_ms: edges.iter().map(|edge| (edge / 1e3).round() / 1e3).collect(),
        logarithmic,
    }
}

/// Edges at equal distances, which are a round number.
fn widths(shortest: f64, longest: f64) -> Vec<f64> {
    let least = (longest - shortest) / LINEAR_BINS;
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0].map(|first| first * power).into_iter().find(|step| *step >= least);
    let step = step.unwrap_or(10.0 * power);
    steps(shortest / step, longest / step).map(|i| i * step).collect()
}

/// Edges with equal ratios; powers of ten are among them.
fn ratios(shortest: f64, longest: f64) -> Vec<f64> {
    let decades = (longest / shortest).log10();
    let fits = |per_decade: &f64| decades * per_decade <= MOST_BINS;
    let per_decade = PER_DECADE.into_iter().find(fits).unwrap_or(3.0);
    let place = |value: f64| value.log10() * per_decade;
    steps(place(shortest), place(longest)).map(|i| 10f64.powf(i / per_decade)).collect()
}

/// The whole numbers from `from`, rounded down, to the first one above `to`.
fn steps(from: f64, to: f64) -> impl Iterator<Item = f64> {
    let first = from.floor();
    (0..=(to.floor() - first) as u32 + 1).map(move |i| first + f64::from(i))
}

/// The number of durations between each two edges. The durations of a recorded bucket count as spread evenly; otherwise a
/// bin with one bucket more than its neighbours would look like a peak.
fn counts(durations: &Durations, edges: &[f64]) -> Vec<u64> {
    let buckets: Vec<_> = durations.buckets().collect();
    let below = |edge: f64| {
        let of_bucket = |(range, count): &(std::ops::RangeInclusive<u64>, u64)| {
            let (start, end) = (*range.start() as f64, *range.end() as f64 + 1.0);
            *count as f64 * ((edge - start) / (end - start)).clamp(0.0, 1.0)
        };
        buckets.iter().map(of_bucket).sum::<f64>().round() as u64
    };
    let mut below: Vec<_> = edges.iter().map(|edge| below(*edge)).collect();
    // Durations out of the recorded range count at the ends.
    if let [first, .., last] = &mut below[..] {
        (*first, *last) = (0, durations.count());
    }
    below.windows(2).map(|two| two[1] - two[0]).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(nanoseconds: &[u64]) -> Durations {
        let mut durations = Durations::default();
        nanoseconds.iter().for_each(|n| durations.record(Duration::from_nanos(*n)));
        durations
    }

    #[test]
    fn similar_durations_are_a_narrow_bar_between_round_edges() {
        let histogram = histogram(&of(&[400_000_000; 50]));
        assert!(!histogram.logarithmic);
        let filled = histogram.counts.iter().filter(|count| **count > 0).count();
        assert!(filled <= 2 && histogram.counts.len() >= 10, "{histogram:?}");
        assert_eq!((histogram.edges_ms[0], histogram.edges_ms[1]), (340.0, 350.0));
    }

    #[test]
    fn widely_spread_durations_have_logarithmic_bins() {
        let histogram = histogram(&of(&[1_000_000, 2_000_000, 10_000_000_000]));
        assert!(histogram.logarithmic);
        assert_eq!((histogram.edges_ms[1], histogram.edges_ms[6]), (1.0, 10.0), "{histogram:?}");
    }

    #[test]
    fn without_durations_there_are_no_bins() {
        assert_eq!(histogram(&Durations::default()), Histogram::default());
    }

    proptest! {
        #[test]
        fn every_duration_is_in_a_bin(nanoseconds in prop::collection::vec(0..10_000_000_000_000u64, 1..200)) {
            let histogram = histogram(&of(&nanoseconds));
            prop_assert_eq!(histogram.counts.iter().sum::<u64>(), nanoseconds.len() as u64);
            prop_assert_eq!(histogram.edges_ms.len(), histogram.counts.len() + 1);
            prop_assert!(histogram.counts.len() <= 45, "{} bins", histogram.counts.len());
            prop_assert!(histogram.edges_ms.windows(2).all(|two| two[0] < two[1]), "{:?}", histogram.edges_ms);
        }
    }
}
