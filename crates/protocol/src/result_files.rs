//! The files that a job leaves: for results in `results.log`, beside it `results.rejects.csv`, `results.json` when the
//! job is done and, until then, `results.checkpoint` and `results.schema`.

use std::path::{Path, PathBuf};

use anyhow::ensure;

/// The first line of the rejects.
pub const REJECTS_HEADER: &[u8] = b"row,reason,record\n";

/// The results.
pub const RESULTS: &str = "results.log";

/// Results, rejects and summary, packed.
pub const ARCHIVE: &str = "results.tgz";

/// What the Monitoring Hub leaves of a job, beside the results: its page, and the figures in it.
pub const REPORT: [&str; 2] = ["report.html", "report.json"];

/// Where a job's files are.
#[derive(Debug, Clone)]
pub struct ResultFiles {
    /// The results.
    pub results: PathBuf,
    /// The rejects.
    pub rejects: PathBuf,
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// What the columns of the results are, as long as the checkpoint is there.
    pub schema: PathBuf,
    /// The summary of a finished job.
    pub summary: PathBuf,
}

impl ResultFiles {
    /// The files that belong to these results.
    ///
    /// # Errors
    /// A name for the results that one of the other files has.
    pub fn beside(results: &Path) -> anyhow::Result<Self> {
        let files = Self {
            results: results.to_owned(),
            rejects: results.with_extension("rejects.csv"),
            checkpoint: results.with_extension("checkpoint"),
            schema: results.with_extension("schema"),
            summary: results.with_extension("json"),
        };
        let others = [&files.rejects, &files.checkpoint, &files.schema, &files.summary];
        ensure!(
            others.iter().all(|other| **other != files.results),
            "the results cannot be named {}, which is where something else about the job goes; results.log is a \
             good name",
            results.display()
        );
        Ok(files)
    }

    /// All of them.
    pub fn all(&self) -> [&Path; 5] {
        [&self.results, &self.rejects, &self.checkpoint, &self.schema, &self.summary]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_do_not_take_the_place_of_the_other_files() {
        for name in ["results.json", "results.checkpoint", "results.schema"] {
            assert!(
                ResultFiles::beside(Path::new(name)).unwrap_err().to_string().contains("cannot be named")
            );
        }
        assert!(ResultFiles::beside(Path::new("dir.json/results")).is_ok());
    }
}
