//! The benchmark cases and their files.

use std::path::{Path, PathBuf};

use anyhow::Context;

use deploy::host::arg;
use deploy::project;

/// Rows for fast jobs, for the slow Python model, and for the Python model that does nothing.
const ROWS: u64 = 5_000_000;
const SLOW_ROWS: u64 = 10_000;
const NOTHING_ROWS: u64 = 300_000;
/// Rows for fitted models.
const FITTED_ROWS: u64 = 1_000_000;
/// Rows of the job whose results are packed.
const PACKED_ROWS: u64 = 10_000_000;
/// Length of a run with sleeping workers, and how long they sleep for each row, in seconds.
const SLEEP_TIME: f64 = 30.0;
pub(super) const ROW_TIME: f64 = 0.0035;

#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    /// Its name in results.json.
    pub(super) name: &'static str,
    /// Its description in tables.
    pub(super) what: &'static str,
    /// `run-locally` with its options, or another program that prints its number of rows and their time. [`Files::fill`]
    /// fills in the names in braces.
    pub(super) command: &'static str,
    /// Cases with the same group name here must have the same results.
    pub(super) results: Option<&'static str>,
    /// Run only once, because it takes long and varies little.
    pub(super) once: bool,
    /// Sample the memory of its processes. Sampling takes time itself.
    pub(super) watches_memory: bool,
}

/// All cases, in the order in which they are measured.
pub(super) const ALL: [Case; 44] = [
    case("floor-1", "SHA-256 alone, one thread", "{hash-floor} {file} 1 10"),
    case("floor-2", "SHA-256 alone, two threads", "{hash-floor} {file} 2 10"),
    native("file-1", "rows from a file, 1 worker", "run-locally --input {file} --model native --workers 1"),
    native("file-2", "rows from a file, 2 workers", "run-locally --input {file} --model native --workers 2"),
    native(
        "file-2-no-hub",
        "the same without the hub",
        "run-locally --input {file} --model native --workers 2 --no-hub",
    ),
    native(
        "file-2-processes",
        "the same in 2 processes",
        "run-locally --input {file} --model native --workers 2 --processes 2",
    ),
    native("fake-1", "fake rows, 1 worker", "run-locally --input-lines {rows} --workers 1"),
    native("fake-2", "fake rows, 2 workers", "run-locally --input-lines {rows} --workers 2"),
    quick(
        "quick-file",
        "from a file, without a hash",
        "run-locally --input {file} --model native --workers 2 --slowness 0",
    ),
    quick(
        "quick-fake",
        "fake rows, without a hash",
        "run-locally --input-lines {rows} --workers 2 --slowness 0",
    ),
    case("polars", "polars: read, add a column, write", "{python} bench/peers.py polars {file} {out}"),
    native("narrow", "7 workers in one process", "run-locally --input {file} --model native --workers 7"),
    native(
        "wide",
        "112 workers in 16 processes",
        "run-locally --input {file} --model native --workers 112 --processes 16",
    ),
    case("pandas", "pandas model of 2018, 2 workers", "run-locally --input {slow-file} {models:slow}"),
    case("pandas-pool", "the same, Pool(2)", "{python} bench/peers.py pool 2 slow {slow-file} {out}"),
    case("pandas-process", "the same, one process", "{python} bench/peers.py process slow {slow-file} {out}"),
    case(
        "nothing",
        "model that does nothing, 2 workers",
        "run-locally --input {nothing-file} {models:nothing}",
    ),
    case("nothing-pool", "the same, Pool(2)", "{python} bench/peers.py pool 2 nothing {nothing-file} {out}"),
    case(
        "boosted",
        "scikit-learn pipeline, gradient boosting",
        "run-locally --input {customers} {fitted:Boosted}",
    ),
    case(
        "boosted-pool-5000",
        "the same, Pool(2), 5,000 rows",
        "{python} bench/peers.py fitted-pool 5000 Boosted {customers} {out}",
    ),
    case(
        "boosted-pool-20000",
        "the same, Pool(2), 20,000 rows",
        "{python} bench/peers.py fitted-pool 20000 Boosted {customers} {out}",
    ),
    case(
        "boosted-pool-50000",
        "the same, Pool(2), 50,000 rows",
        "{python} bench/peers.py fitted-pool 50000 Boosted {customers} {out}",
    ),
    case(
        "boosted-polars",
        "the same, polars",
        "{python} bench/peers.py fitted-polars Boosted {customers} {out}",
    ),
    case(
        "boosted-whole",
        "the same, pandas, whole file",
        "{python} bench/peers.py fitted-whole Boosted {customers} {out}",
    ),
    case(
        "boosted-dask",
        "the same, Dask, 2 workers",
        "{python} bench/peers.py fitted-dask Boosted {customers} {out}",
    ),
    case("lightgbm", "LightGBM", "run-locally --input {customers} {fitted:LightGbm}"),
    case(
        "lightgbm-pool-5000",
        "the same, Pool(2), 5,000 rows",
        "{python} bench/peers.py fitted-pool 5000 LightGbm {customers} {out}",
    ),
    case(
        "lightgbm-pool-20000",
        "the same, Pool(2), 20,000 rows",
        "{python} bench/peers.py fitted-pool 20000 LightGbm {customers} {out}",
    ),
    case(
        "lightgbm-pool-50000",
        "the same, Pool(2), 50,000 rows",
        "{python} bench/peers.py fitted-pool 50000 LightGbm {customers} {out}",
    ),
    case("forest", "random forest", "run-locally --input {customers} {fitted:Forest}"),
    case(
        "forest-pool-5000",
        "the same, Pool(2), 5,000 rows",
        "{python} bench/peers.py fitted-pool 5000 Forest {customers} {out}",
    ),
    case(
        "forest-pool-20000",
        "the same, Pool(2), 20,000 rows",
        "{python} bench/peers.py fitted-pool 20000 Forest {customers} {out}",
    ),
    case(
        "forest-pool-50000",
        "the same, Pool(2), 50,000 rows",
        "{python} bench/peers.py fitted-pool 50000 Forest {customers} {out}",
    ),
    case("texts", "TF-IDF and a linear model", "run-locally --input {texts} {fitted:Texts}"),
    case(
        "texts-pool-5000",
        "the same, Pool(2), 5,000 rows",
        "{python} bench/peers.py fitted-pool 5000 Texts {texts} {out}",
    ),
    case(
        "texts-pool-20000",
        "the same, Pool(2), 20,000 rows",
        "{python} bench/peers.py fitted-pool 20000 Texts {texts} {out}",
    ),
    case(
        "texts-pool-50000",
        "the same, Pool(2), 50,000 rows",
        "{python} bench/peers.py fitted-pool 50000 Texts {texts} {out}",
    ),
    case("sleep-7", "3.5 ms a row, 7 workers", "run-locally {sleeping:7} --processes 1"),
    case("sleep-28", "3.5 ms a row, 28 workers", "run-locally {sleeping:28} --processes 4"),
    case("sleep-56", "3.5 ms a row, 56 workers", "run-locally {sleeping:56} --processes 8"),
    case("sleep-112", "3.5 ms a row, 112 workers", "run-locally {sleeping:112} --processes 16"),
    case("start", "a job of 1,000 rows", "run-locally --input-lines 1000"),
    watched("memory", "a job whose memory is watched", "run-locally --input {file} --model native"),
    once("packed", "a job that is packed", "run-locally --input-lines {packed-rows} --pack"),
];

const fn case(name: &'static str, what: &'static str, command: &'static str) -> Case {
    Case { name, what, command, results: None, once: false, watches_memory: false }
}

const fn native(name: &'static str, what: &'static str, command: &'static str) -> Case {
    Case { results: Some("native"), ..case(name, what, command) }
}

const fn quick(name: &'static str, what: &'static str, command: &'static str) -> Case {
    Case { results: Some("quick"), ..case(name, what, command) }
}

const fn watched(name: &'static str, what: &'static str, command: &'static str) -> Case {
    Case { watches_memory: true, ..once(name, what, command) }
}

const fn once(name: &'static str, what: &'static str, command: &'static str) -> Case {
    Case { once: true, ..case(name, what, command) }
}

/// Paths of the programs and files that cases use, and the scale of the inputs.
pub(super) struct Files {
    /// A Python interpreter with the packages for models and peers.
    pub(super) python: PathBuf,
    /// The folder that jobs and peers write to.
    pub(super) output: PathBuf,
    floor: PathBuf,
    folder: PathBuf,
    scale: f64,
}

impl Files {
    /// Puts everything in `folder`, with `scale` times the usual number of rows.
    ///
    /// # Errors
    /// If the folder cannot be created.
    pub(super) fn at(folder: &Path, python: &Path, scale: f64) -> anyhow::Result<Self> {
        let absolute = |path: &Path| std::path::absolute(path).context("looking for the current folder");
        let (python, folder) = (absolute(python)?, absolute(folder)?);
        let output = folder.join("output");
        project::make_folder(&output)?;
        let floor = project::release_folder()?.join("hash-floor");
        Ok(Self { python, output, floor, folder, scale })
    }

    /// The files of fake rows, and the number of rows of each.
    pub(super) fn of_fake_rows(&self) -> [(PathBuf, u64); 3] {
        self.inputs([("file", ROWS), ("slow-file", SLOW_ROWS), ("nothing-file", NOTHING_ROWS)])
    }

    /// The files for fitted models, and the number of rows of each.
    pub(super) fn of_fitted_models(&self) -> [(PathBuf, u64); 2] {
        self.inputs([("customers", FITTED_ROWS), ("texts", FITTED_ROWS)])
    }

    fn inputs<const N: usize>(&self, inputs: [(&str, u64); N]) -> [(PathBuf, u64); N] {
        inputs.map(|(name, rows)| (self.input(name), self.scaled(rows)))
    }

    fn input(&self, name: &str) -> PathBuf {
        self.folder.join(name).with_extension("csv")
    }

    fn scaled(&self, rows: u64) -> u64 {
        ((rows as f64 * self.scale) as u64).max(1000)
    }

    /// Splits a command into words, and replaces each name in braces by its file or number.
    pub(super) fn fill(&self, command: &str) -> Vec<String> {
        command.split(' ').flat_map(|word| self.fill_word(word)).collect()
    }

    fn fill_word(&self, word: &str) -> Vec<String> {
        let name = word.strip_prefix('{').and_then(|word| word.strip_suffix('}'));
        let Some(name) = name else { return vec![word.to_owned()] };
        let python = arg(&self.python);
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        match name.split_once(':') {
            Some(("sleeping", workers)) => {
                let rows = (SLEEP_TIME * self.scale / ROW_TIME) as u64 * workers.parse::<u64>().unwrap_or(1);
                let sleep = format!("sleep:{:.0}", ROW_TIME * 1e6);
                words(&["--model", &sleep, "--workers", workers, "--input-lines", &rows.to_string()])
            }
            Some(("models", function)) => {
                let function = format!("python:bench.models:{function}");
                words(&["--model", &function, "--contract", "2018", "--workers", "2", "--python", &python])
            }
            Some(("fitted", model)) => {
                words(&["--model", &format!("bench/fitted.py:{model}"), "--python", &python])
            }
            _ => vec![match name {
                "rows" => self.scaled(ROWS).to_string(),
                "packed-rows" => self.scaled(PACKED_ROWS).to_string(),
                "python" => python,
                "hash-floor" => arg(&self.floor),
                "out" => arg(&self.output.join("peer.csv")),
                file => arg(&self.input(file)),
            }],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_in_braces_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::at(folder.path(), Path::new("python"), 0.1).unwrap();
        let inputs = [&files.of_fake_rows()[..], &files.of_fitted_models()].concat();
        let inputs: Vec<_> = inputs.iter().map(|(path, _)| arg(path)).collect();
        for case in ALL {
            let words = files.fill(case.command);
            assert!(!words.iter().any(|word| word.contains(['{', '}'])), "{words:?}");
            let mut csvs = words.iter().filter(|word| word.ends_with(".csv") && !word.ends_with("peer.csv"));
            assert!(csvs.all(|csv| inputs.contains(csv)), "{words:?}");
        }
        assert_eq!(
            files.fill("run-locally {sleeping:7} --processes 1").join(" "),
            "run-locally --model sleep:3500 --workers 7 --input-lines 5999 --processes 1"
        );
    }

    #[test]
    fn case_names_are_unique() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
