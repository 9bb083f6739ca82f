//! Sets the results of an earlier job aside until the next job replaces them.
//!
//! Whether a stream is a CSV is known only when it is read, while the job's programs already run. So the earlier results are
//! removed only when the job takes its first row; if it fails before that, they are put back.

use std::path::{Path, PathBuf};

use anyhow::Context;
use files::remove_if_there;
use protocol::result_files::{ARCHIVE, PARTIAL_ARCHIVE, REPORT, RESULTS, ResultFiles, TYPED_RESULTS};

/// The folder for them, in the output folder.
const ASIDE: &str = ".earlier";
/// The folder's name while it is removed, since removing a folder is not atomic.
const GONE: &str = ".gone";

/// Earlier results that are set aside.
#[derive(Debug)]
pub struct Earlier {
    output: PathBuf,
    /// All paths at which a job writes.
    files: Vec<PathBuf>,
}

impl Earlier {
    /// Moves earlier results away to make room for a job's.
    ///
    /// # Errors
    /// A file cannot be moved.
    pub fn set_aside(files: &ResultFiles, output: &Path) -> anyhow::Result<Self> {
        let others = [RESULTS, TYPED_RESULTS, ARCHIVE, PARTIAL_ARCHIVE, REPORT[0], REPORT[1]];
        let mut files: Vec<_> = files.all().into_iter().map(Path::to_owned).collect();
        // The earlier job's results may have the other name.
        files.extend(others.map(|name| output.join(name)));
        files.sort_unstable();
        files.dedup();
        let earlier = Self { output: output.to_owned(), files };
        earlier.clear().context("making room for the job's results")?;
        Ok(earlier)
    }

    fn clear(&self) -> anyhow::Result<()> {
        remove_folder(&self.output.join(GONE))?;
        // A command that was killed before its job took a row left them.
        self.restore()?;
        let aside = self.output.join(ASIDE);
        let there: Vec<_> = self.files.iter().filter(|file| file.symlink_metadata().is_ok()).collect();
        if there.is_empty() {
            return Ok(());
        }
        std::fs::create_dir_all(&aside).with_context(|| format!("making {}", aside.display()))?;
        there.into_iter().try_for_each(|file| rename(file, &in_folder(&aside, file)))
    }

    /// Removes the earlier results; called when the job takes its first row.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub fn discard(&self) -> anyhow::Result<()> {
        let (aside, gone) = (self.output.join(ASIDE), self.output.join(GONE));
        if aside.is_dir() {
            // Renamed at once, so that a command that is killed now puts none of them back.
            rename(&aside, &gone)?;
        }
        remove_folder(&gone)
    }

    /// Removes the files of a job that took no row, and puts the earlier results back.
    ///
    /// # Errors
    /// A file cannot be removed or moved.
    pub fn put_back(&self) -> anyhow::Result<()> {
        let aside = self.output.join(ASIDE);
        let mut own = self.files.iter().filter(|file| in_folder(&aside, file).symlink_metadata().is_err());
        own.try_for_each(|file| remove_if_there(file))?;
        self.restore().context("putting the results of the job before back")
    }

    /// Moves the files that are set aside back to their places.
    fn restore(&self) -> anyhow::Result<()> {
        let aside = self.output.join(ASIDE);
        let there = |file: &&PathBuf| in_folder(&aside, file).symlink_metadata().is_ok();
        self.files.iter().filter(there).try_for_each(|file| rename(&in_folder(&aside, file), file))?;
        remove_folder(&aside)
    }
}

/// The path of a file's name in another folder.
fn in_folder(folder: &Path, file: &Path) -> PathBuf {
    folder.join(file.file_name().unwrap_or_default())
}

fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::rename(from, to).with_context(|| format!("moving {} to {}", from.display(), to.display()))
}

fn remove_folder(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a file of each kind that a job leaves.
    fn folder() -> (tempfile::TempDir, ResultFiles) {
        let folder = tempfile::tempdir().unwrap();
        let files = ResultFiles::beside(&folder.path().join(RESULTS)).unwrap();
        for file in files.all().into_iter().chain([folder.path().join(ARCHIVE).as_path()]) {
            std::fs::write(file, "earlier").unwrap();
        }
        std::fs::write(folder.path().join("other"), "other").unwrap();
        (folder, files)
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_job_that_takes_no_row_leaves_the_earlier_results_as_they_were() {
        let (folder, files) = folder();
        let before = names(folder.path());
        let earlier = Earlier::set_aside(&files, folder.path()).unwrap();
        assert_eq!(names(folder.path()), [ASIDE, "other"]);
        for file in [&files.results, &folder.path().join(REPORT[0])] {
            std::fs::write(file, "new").unwrap();
        }
        earlier.put_back().unwrap();
        assert_eq!(names(folder.path()), before);
        assert_eq!(std::fs::read_to_string(&files.results).unwrap(), "earlier");
    }

    #[test]
    fn a_job_that_takes_rows_replaces_the_earlier_results() {
        let (folder, files) = folder();
        let earlier = Earlier::set_aside(&files, folder.path()).unwrap();
        earlier.discard().unwrap();
        std::fs::write(&files.results, "new").unwrap();
        assert_eq!(names(folder.path()), ["other", RESULTS]);
        // Those of a model with typed columns.
        let typed = ResultFiles::beside(&folder.path().join(TYPED_RESULTS)).unwrap();
        Earlier::set_aside(&typed, folder.path()).unwrap().discard().unwrap();
        assert_eq!(names(folder.path()), ["other"]);
        // With nothing to set aside, nothing comes back.
        let folder = tempfile::tempdir().unwrap();
        let files = ResultFiles::beside(&folder.path().join(RESULTS)).unwrap();
        let earlier = Earlier::set_aside(&files, folder.path()).unwrap();
        std::fs::write(&files.results, "new").unwrap();
        earlier.put_back().unwrap();
        assert_eq!(names(folder.path()), [""; 0]);
    }

    #[test]
    fn a_killed_command_loses_no_earlier_results() {
        let (folder, files) = folder();
        Earlier::set_aside(&files, folder.path()).unwrap();
        std::fs::write(&files.results, "of the killed one").unwrap();
        let earlier = Earlier::set_aside(&files, folder.path()).unwrap();
        earlier.put_back().unwrap();
        assert_eq!(std::fs::read_to_string(&files.results).unwrap(), "earlier");
        // Killed while it removed them.
        let earlier = Earlier::set_aside(&files, folder.path()).unwrap();
        std::fs::write(&files.results, "new").unwrap();
        rename(&folder.path().join(ASIDE), &folder.path().join(GONE)).unwrap();
        drop(earlier);
        let earlier = Earlier::set_aside(&files, folder.path()).unwrap();
        earlier.put_back().unwrap();
        assert_eq!(std::fs::read_to_string(&files.results).unwrap(), "new");
    }
}
