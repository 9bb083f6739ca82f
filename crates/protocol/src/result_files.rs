//! The files that a job writes. For `results.log` (or `results.csv`), these are `results.rejects.csv` beside it, `results.json` when the job is
//! done, and until then `results.checkpoint` and `results.schema`. `results.failure` says why a job has failed. Results and
//! rejects may also be in another [`Form`], such as `results.csv.gz`.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

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

/// A form of results and rejects other than plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    Gzip,
    Zstd,
    Parquet,
}

impl Form {
    const ALL: [(Self, &str); 3] = [(Self::Gzip, "gz"), (Self::Zstd, "zst"), (Self::Parquet, "parquet")];

    /// The path of a plain file in this form: `results.csv.gz` or `results.parquet`.
    pub fn path(self, plain: &Path) -> PathBuf {
        match self {
            Self::Parquet => plain.with_extension(self.to_string()),
            Self::Gzip | Self::Zstd => plain.with_added_extension(self.to_string()),
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(form, _)| form == self).map_or("", |(_, name)| name))
    }
}

/// A name that is no form of results.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no form of results; there are gz, zst and parquet")]
pub struct UnknownForm(String);

impl FromStr for Form {
    type Err = UnknownForm;

    fn from_str(text: &str) -> Result<Self, UnknownForm> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found.map(|(form, _)| *form).ok_or_else(|| UnknownForm(text.to_owned()))
    }
}

/// The names of the plain files that a job on the user's machine may publish.
const PLAIN: [&str; 3] = [RESULTS, TYPED_RESULTS, "results.rejects.csv"];

/// The names of all files that a job on the user's machine may publish.
pub fn published() -> impl Iterator<Item = String> {
    let names = [&PLAIN[..], &["results.json", ARCHIVE, PARTIAL_ARCHIVE], &REPORT].concat();
    names.into_iter().map(str::to_owned).chain(forms())
}

/// The names among these of results and rejects in other forms.
pub fn forms() -> impl Iterator<Item = String> {
    let of = |(form, _): (Form, _)| PLAIN.map(|name| form.path(Path::new(name)).display().to_string());
    // Two plain files have the same Parquet file.
    Form::ALL.into_iter().flat_map(of).collect::<BTreeSet<_>>().into_iter()
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

    /// Results and rejects in this form.
    pub fn in_form(&self, form: Form) -> [PathBuf; 2] {
        [form.path(&self.results), form.path(&self.rejects)]
    }

    /// Results and rejects, in a form if there is one.
    pub fn exported(&self, form: Option<Form>) -> [PathBuf; 2] {
        form.map_or_else(|| [self.results.clone(), self.rejects.clone()], |form| self.in_form(form))
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

    #[test]
    fn forms_have_names_and_paths() {
        let files = ResultFiles::beside(Path::new("out/results.csv")).unwrap();
        for (form, names) in [
            ("gz", ["out/results.csv.gz", "out/results.rejects.csv.gz"]),
            ("zst", ["out/results.csv.zst", "out/results.rejects.csv.zst"]),
            ("parquet", ["out/results.parquet", "out/results.rejects.parquet"]),
        ] {
            let parsed: Form = form.parse().unwrap();
            assert_eq!(
                (parsed.to_string().as_str(), files.in_form(parsed)),
                (form, names.map(PathBuf::from))
            );
        }
        assert!("xz".parse::<Form>().is_err());
    }
}
