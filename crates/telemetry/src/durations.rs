//! A histogram of durations.

use std::ops::RangeInclusive;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize, Serializer};

/// The range of durations, in nanoseconds. Durations outside of it count at its ends.
const SHORTEST: u64 = 1_000;
const LONGEST: u64 = 3_600_000_000_000;
/// The significant decimal digits of a duration.
const DIGITS: u8 = 2;

/// A histogram of durations with a logarithmic axis, from a microsecond to an hour, with a precision of one in a hundred.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "Sparse")]
pub struct Durations {
    counts: Histogram<u64>,
    sum: u64,
}

/// The serialized form: the recorded durations and their counts, in nanoseconds.
#[derive(Serialize, Deserialize)]
struct Sparse {
    sum: u64,
    counts: Vec<(u64, u64)>,
}

impl Default for Durations {
    fn default() -> Self {
        let counts = Histogram::new_with_bounds(SHORTEST, LONGEST, DIGITS);
        Self { counts: counts.expect("the bounds are constant, and in order"), sum: 0 }
    }
}

impl Serialize for Durations {
    // Serde's `into` would copy the whole histogram.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Sparse { sum: self.sum, counts: self.recorded().collect() }.serialize(serializer)
    }
}

impl From<Sparse> for Durations {
    fn from(sparse: Sparse) -> Self {
        let mut durations = Self { sum: sparse.sum, ..Self::default() };
        for (nanoseconds, count) in sparse.counts {
            durations.counts.saturating_record_n(nanoseconds, count);
        }
        durations
    }
}

impl Durations {
    pub fn record(&mut self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum = self.sum.saturating_add(nanoseconds);
        self.counts.saturating_record(nanoseconds);
    }

    /// Adds all durations of another histogram.
    pub fn add(&mut self, other: &Self) {
        self.sum = self.sum.saturating_add(other.sum);
        self.counts.add(&other.counts).expect("all have the same bounds");
    }

    /// The number of recorded durations.
    pub fn count(&self) -> u64 {
        self.counts.len()
    }

    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum)
    }

    /// The longest duration; zero if there is none.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.counts.max())
    }

    /// The duration that a share (0 to 1) of the durations does not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_nanos(self.counts.value_at_quantile(share))
    }

    /// For each of the limits, which must be in order, the number of durations up to it.
    pub fn counts_up_to(
        &self,
        limits: impl Iterator<Item = Duration>,
    ) -> impl Iterator<Item = (Duration, u64)> {
        let mut recorded = self.recorded().peekable();
        let mut count = 0;
        limits.map(move |limit| {
            let nanoseconds = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
            while let Some((_, more)) = recorded.next_if(|(took, _)| *took <= nanoseconds) {
                count += more;
            }
            (limit, count)
        })
    }

    /// The shortest duration, rounded down; zero if there is none.
    pub fn min(&self) -> Duration {
        if self.counts.is_empty() { Duration::ZERO } else { Duration::from_nanos(self.counts.min()) }
    }

    /// The histogram's non-empty bins in order, as ranges of nanoseconds, and the number of durations in each.
    pub fn buckets(&self) -> impl Iterator<Item = (RangeInclusive<u64>, u64)> {
        self.recorded().map(|(most, count)| (self.counts.lowest_equivalent(most)..=most, count))
    }

    /// Each recorded duration, in nanoseconds, rounded up and in order, and how often it was recorded.
    fn recorded(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_histogram_has_zeros() {
        let none = Durations::default();
        assert_eq!((none.count(), none.sum(), none.max()), (0, Duration::ZERO, Duration::ZERO));
        assert_eq!(none.quantile(0.99), Duration::ZERO);
    }

    #[test]
    fn durations_out_of_range_count_at_its_ends() {
        let mut durations = Durations::default();
        durations.record(Duration::ZERO);
        durations.record(Duration::from_secs(1 << 40));
        assert_eq!(durations.count(), 2);
        let limits = [Duration::from_micros(1), Duration::from_secs(60), Duration::MAX];
        let counts: Vec<_> = durations.counts_up_to(limits.into_iter()).map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 1, 2]);
        assert!(durations.max() >= Duration::from_secs(3600), "{:?}", durations.max());
    }

    proptest! {
        #[test]
        fn quantiles_have_a_precision_of_one_in_a_hundred(
            mut nanoseconds in prop::collection::vec(2_000..LONGEST, 1..200),
            share in 0.0..1.0f64,
        ) {
            let mut durations = Durations::default();
            nanoseconds.iter().for_each(|n| durations.record(Duration::from_nanos(*n)));
            nanoseconds.sort_unstable();
            let rank = ((share * nanoseconds.len() as f64).ceil() as usize).clamp(1, nanoseconds.len());
            let exact = nanoseconds[rank - 1] as f64;
            let found = durations.quantile(share).as_nanos() as f64;
            // Short durations have a resolution of about a microsecond.
            prop_assert!((found - exact).abs() <= exact / 100.0 + 1024.0, "{found} for {exact}");
            let counts: Vec<_> = durations.counts_up_to([durations.max()].into_iter()).collect();
            prop_assert_eq!(counts, [(durations.max(), nanoseconds.len() as u64)]);
        }

        #[test]
        fn serialized_histograms_add_up_to_the_same(
            one in prop::collection::vec(0..LONGEST, 0..50),
            other in prop::collection::vec(0..LONGEST, 0..50),
        ) {
            let of = |nanoseconds: &[u64]| {
                let mut durations = Durations::default();
                nanoseconds.iter().for_each(|n| durations.record(Duration::from_nanos(*n)));
                durations
            };
            let round_trip = |durations: &Durations| -> Durations {
                serde_json::from_slice(&serde_json::to_vec(durations).unwrap()).unwrap()
            };
            let mut sum = round_trip(&of(&one));
            sum.add(&round_trip(&of(&other)));
            let whole = of(&[&one[..], &other[..]].concat());
            prop_assert_eq!(sum.recorded().collect::<Vec<_>>(), whole.recorded().collect::<Vec<_>>());
            prop_assert_eq!((sum.count(), sum.sum()), (whole.count(), whole.sum()));
        }
    }
}
