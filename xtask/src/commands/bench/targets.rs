//! Targets for the figures.

use super::Results;
use super::cases::ROW_TIME;
use super::measure::Measured;

/// A figure, and the lower or upper bound that it should meet.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    pub(super) what: &'static str,
    pub(super) found: f64,
    pub(super) wanted: f64,
    /// `wanted` is an upper bound.
    pub(super) is_limit: bool,
    /// How many decimals are printed.
    pub(super) decimals: usize,
}

impl Target {
    pub(super) fn is_met(&self) -> bool {
        if self.is_limit { self.found <= self.wanted } else { self.found >= self.wanted }
    }
}

/// The median of a figure over the runs of the case `name`.
pub(super) fn median(results: &Results, name: &str, of: impl Fn(&Measured) -> f64) -> Option<f64> {
    let mut all: Vec<_> = results.get(name)?.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    let middle = all.len() / 2;
    Some(if all.len() % 2 == 1 { *all.get(middle)? } else { (all.get(middle)? + all.get(middle - 1)?) / 2.0 })
}

/// The targets whose figures were measured.
pub(super) fn all(results: &Results) -> Vec<Target> {
    let rate = |name| median(results, name, Measured::rate);
    let steady = |name| median(results, name, Measured::steady_rate);
    let seconds = |name| median(results, name, |measured| measured.seconds);
    let cpu = |name| median(results, name, Measured::cpu_per_row);
    let ratio = |over: Option<f64>, under: Option<f64>| Some(over? / under?);
    let floor = || steady("floor-2");
    // The share of the ideal rate: what the workers would reach if they did nothing but sleep.
    let ideal = |name, workers: f64| Some(steady(name)? * ROW_TIME / workers);
    let most = |name, of: fn(&Measured) -> Option<f64>| {
        median(results, name, |measured| of(measured).unwrap_or(f64::NAN))
    };
    // How many times as fast as multiprocessing.Pool with the best of its chunk sizes.
    let over_pool = |model: &'static str| {
        let pools = results
            .keys()
            .filter(|name| name.strip_prefix(model).is_some_and(|rest| rest.starts_with("-pool-")));
        ratio(pools.filter_map(|pool| seconds(pool)).reduce(f64::min), seconds(model))
    };
    let at_least = |what, wanted, decimals, found: Option<f64>| {
        found.map(|found| Target { what, found, wanted, is_limit: false, decimals })
    };
    let at_most = |what, wanted, decimals, found: Option<f64>| {
        found.map(|found| Target { what, found, wanted, is_limit: true, decimals })
    };
    let all = [
        // A row's hash takes 1.2 µs in both, and its way through the job a further 0.5 µs.
        at_least("native, from a file, over the hash floor", 0.55, 3, ratio(rate("file-2"), floor())),
        at_least("native, fake rows, over the hash floor", 0.55, 3, ratio(rate("fake-2"), floor())),
        at_least("slowness 0, from a file, rows/s", 3e6, 0, rate("quick-file")),
        at_least("slowness 0, from a file, over polars", 1.0, 2, ratio(rate("quick-file"), rate("polars"))),
        at_least(
            "pandas model over Pool(2), without the start",
            0.98,
            3,
            ratio(steady("pandas"), steady("pandas-pool")),
        ),
        at_least(
            "model that does nothing over Pool(2)",
            1.4,
            2,
            ratio(steady("nothing"), steady("nothing-pool")),
        ),
        at_least("scikit-learn pipeline over the best Pool(2)", 1.3, 2, over_pool("boosted")),
        at_least("LightGBM over the best Pool(2)", 1.2, 2, over_pool("lightgbm")),
        at_least("random forest over the best Pool(2)", 1.2, 2, over_pool("forest")),
        at_least("TF-IDF over the best Pool(2)", 1.2, 2, over_pool("texts")),
        at_most(
            "time of the scikit-learn pipeline, over polars",
            1.05,
            2,
            ratio(seconds("boosted"), seconds("boosted-polars")),
        ),
        at_least("7 workers at 3.5 ms a row, of ideal", 0.98, 3, ideal("sleep-7", 7.0)),
        at_least("28 workers at 3.5 ms a row, of ideal", 0.98, 3, ideal("sleep-28", 28.0)),
        at_least("56 workers at 3.5 ms a row, of ideal", 0.98, 3, ideal("sleep-56", 56.0)),
        at_least("112 workers at 3.5 ms a row, of ideal", 0.98, 3, ideal("sleep-112", 112.0)),
        at_most("processor time of a row, 112 workers over 7", 1.5, 2, ratio(cpu("wide"), cpu("narrow"))),
        at_most(
            "processor time of a row, with the hub over without",
            1.02,
            3,
            ratio(cpu("file-2"), cpu("file-2-no-hub")),
        ),
        at_most(
            "time of a job, with the hub over without",
            1.02,
            3,
            ratio(seconds("file-2"), seconds("file-2-no-hub")),
        ),
        at_most("a job of 1,000 rows, seconds", 0.4, 3, seconds("start")),
        at_most("memory of all programs, MB", 150.0, 0, most("memory", |m| Some(m.memory? as f64 / 1e6))),
        at_most(
            "packing after the last row, over the job's time",
            0.05,
            4,
            most("packed", |m| Some(m.packing_seconds? / m.steady.1)),
        ),
    ];
    all.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(seconds: f64) -> Measured {
        Measured { rows: 100, seconds, steady: (100, seconds), ..Measured::default() }
    }

    #[test]
    fn the_median_of_an_even_number_is_the_mean_of_the_middle_two() {
        let results = Results::from([
            ("odd", [3.0, 1.0, 2.0].map(measured).to_vec()),
            ("even", [4.0, 1.0, 2.0, 3.0].map(measured).to_vec()),
        ]);
        let of = |name| median(&results, name, |measured| measured.seconds);
        assert_eq!((of("odd"), of("even"), of("none")), (Some(2.0), Some(2.5), None));
    }

    #[test]
    fn only_measured_figures_have_targets() {
        let results = Results::from([
            ("floor-2", [1.0].map(measured).to_vec()),
            ("file-2", [1.25].map(measured).to_vec()),
            ("start", [0.5].map(measured).to_vec()),
        ]);
        let targets = all(&results);
        let found: Vec<_> =
            targets.iter().map(|target| (target.what, target.found, target.is_met())).collect();
        assert_eq!(
            found,
            [
                ("native, from a file, over the hash floor", 0.8, true),
                ("a job of 1,000 rows, seconds", 0.5, false),
            ]
        );
    }
}
