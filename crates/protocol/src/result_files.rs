//! The files that a job writes. For `results.log` (or `results.csv`), these are `results.rejects.csv` beside it, `results.json` when the job is
//! done, and until then `results.checkpoint` and `results.schema`. `results.failure` says why a job has failed.

use std::path::{Path, PathBuf};

use anyhow::ensure;

/// The first line of the rejects file.
pub const REJECTS_HEADER: &[u8] = b"row,reason,record\n";

/// The results.
pub const RESULTS: &str = "results.log";

/// The results of a model with typed columns; they begin with a header.
pub const TYPED_RESULTS: &str = "results.csv";

/// The name of the results.
pub fn results_name(is_typed: bool) -> &'static str {
    if is_typed { TYPED_RESULTS } else { RESULTS }
}

/// The archive of results, rejects and summary.
pub const ARCHIVE: &str = "results.tgz";

/// The archive of the complete batches of an unfinished job.
pub const PARTIAL_ARCHIVE: &str = "results.partial.tgz";

/// The Monitoring Hub's report, beside the results: its page, and the figures of that page.
pub const REPORT: [&str; 2] = ["report.html", "report.json"];

/// The names of all files that a job on the user's machine may publish.
pub fn published() -> impl Iterator<Item = &'static str> {
    let results = [RESULTS, TYPED_RESULTS, "results.rejects.csv", "results.json"];
    results.into_iter().chain([ARCHIVE, PARTIAL_ARCHIVE]).chain(REPORT)
}

/// The paths of a job's files.
#[derive(Debug, Clone)]
pub struct ResultFiles {
    pub results: PathBuf,
    pub rejects: PathBuf,
    pub checkpoint: PathBuf,
    /// The columns of the results; exists as long as the checkpoint does.
    pub schema: PathBuf,
    /// Exists when the job is done.
    pub summary: PathBuf,
    /// The reason, if the job itself has failed, and not only a program.
    pub failure: PathBuf,
}

impl ResultFiles {
    /// The files of the job with these results.
    ///
    /// # Errors
    /// The results have the name of one of the other files.
    pub fn beside(results: &Path) -> anyhow::Result<Self> {
        let files = Self {
            results: results.to_owned(),
            rejects: results.with_extension("rejects.csv"),
            checkpoint: results.with_extension("checkpoint"),
            schema: results.with_extension("schema"),
            summary: results.with_extension("json"),
            failure: results.with_extension("failure"),
        };
        let others = [&files.rejects, &files.checkpoint, &files.schema, &files.summary, &files.failure];
        ensure!(
            others.iter().all(|other| **other != files.results),
            "the results cannot be named {}, since another file of the job has that name; results.log is a \
             good name",
            results.display()
        );
        Ok(files)
    }

    pub fn all(&self) -> [&Path; 6] {
        [&self.results, &self.rejects, &self.checkpoint, &self.schema, &self.summary, &self.failure]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_cannot_have_the_name_of_another_file() {
        for name in ["results.json", "results.checkpoint", "results.schema"] {
            assert!(
                ResultFiles::beside(Path::new(name)).unwrap_err().to_string().contains("cannot be named")
            );
        }
        assert!(ResultFiles::beside(Path::new("dir.json/results")).is_ok());
    }
}
