//! The jobs of an output folder. Each works in a folder of its own in `jobs`, named by its id. When a job is complete, its files
//! are published: the output folder has a link for each of them, and all of these lead through the link `latest`, which is
//! switched in one step. Until then, the files of the last complete job stay where they are.

mod folder;

use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use files::{read_if_there, remove_if_there, sync_folder};
use protocol::result_files::{ARCHIVE, Form, REPORT, ResultFiles, forms, published};

use crate::{console, objects};
use folder::attempt;
pub use folder::{JobFolder, Record, State};

/// The folder of all jobs.
const JOBS: &str = "jobs";
/// The link to the folder of the job whose files are published.
const LATEST: &str = "latest";
/// What is known of a job from its start.
const RECORD: &str = "job.json";
/// How the name of a folder begins while it is removed, since that is not atomic.
const GONE: &str = ".gone-";
/// For the files of the last results while they are no links.
const PLAIN: &str = ".plain";

/// The jobs of an output folder.
#[derive(Debug)]
pub struct Jobs {
    output: PathBuf,
}

impl Jobs {
    pub fn of(output: &Path) -> Self {
        Self { output: output.to_owned() }
    }

    fn folder(&self) -> PathBuf {
        self.output.join(JOBS)
    }

    /// All jobs, those that began last first.
    ///
    /// # Errors
    /// The folder or a job's record cannot be read.
    pub fn all(&self) -> anyhow::Result<Vec<JobFolder>> {
        let folder = self.folder();
        let reading = || format!("reading the folder {}", folder.display());
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(reading)?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.with_context(reading)?.path();
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                continue;
            }
            // A folder without a record is not a job's, or its command was killed before it wrote one.
            let Some(json) = read_if_there(&path.join(RECORD)).unwrap_or_default() else { continue };
            let record: Record = match serde_json::from_slice(&json) {
                Ok(record) => record,
                Err(error) => {
                    let path = path.join(RECORD);
                    console::note(&format!(
                        "{} is left alone, since it cannot be read: {error}",
                        path.display()
                    ));
                    continue;
                }
            };
            let attempt = attempt(&path);
            all.push(JobFolder { path, record, attempt });
        }
        all.sort_by(|one, other| (&other.record.began, other.attempt).cmp(&(&one.record.began, one.attempt)));
        Ok(all)
    }

    /// All attempts at the job with this id, the latest first.
    ///
    /// # Errors
    /// Those of [`all`](Self::all).
    pub fn attempts(&self, id: &str) -> anyhow::Result<Vec<JobFolder>> {
        let mut attempts = self.all()?;
        attempts.retain(|job| job.record.id == id);
        attempts.sort_by_key(|job| std::cmp::Reverse(job.attempt));
        Ok(attempts)
    }

    /// Makes the folder for another attempt at a job.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(&self, record: Record) -> anyhow::Result<JobFolder> {
        let folder = self.folder();
        let mut attempt = self.attempts(&record.id)?.first().map_or(1, |job| job.attempt + 1);
        let path = loop {
            let name = if attempt == 1 { record.id.clone() } else { format!("{}-{attempt}", record.id) };
            let path = folder.join(name);
            let making = || format!("making the folder {}", path.display());
            std::fs::create_dir_all(&folder).with_context(making)?;
            match std::fs::create_dir(&path) {
                Ok(()) => break path,
                // A command was killed before it wrote the record.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => attempt += 1,
                Err(error) => return Err(error).with_context(making),
            }
        };
        let job = JobFolder { path, record, attempt };
        job.save()?;
        sync_folder(&job.path).with_context(|| format!("syncing {}", folder.display()))?;
        Ok(job)
    }

    /// Publishes the files of a complete job, and of its report if there will be one. Earlier attempts at the same job are
    /// removed.
    ///
    /// # Errors
    /// A link or folder cannot be made.
    pub fn publish(&self, job: &JobFolder, has_report: bool) -> anyhow::Result<()> {
        let files = job.files()?;
        let (results, rejects) = (job.results(), job.rejects()?);
        let mut names: Vec<_> = [&results, &rejects, &files.summary]
            .into_iter()
            .filter_map(|path| path.file_name()?.to_str())
            .collect();
        names.extend(job.path.join(ARCHIVE).exists().then_some(ARCHIVE));
        names.extend(REPORT.into_iter().filter(|_| has_report));
        self.turn_to_links()?;
        // Links that are new lead nowhere until the switch.
        for name in names.iter().filter(|name| self.output.join(name).symlink_metadata().is_err()) {
            self.link(name, &Path::new(LATEST).join(name))?;
        }
        self.link(LATEST, &Path::new(JOBS).join(job.name()))?;
        for name in published().filter(|name| !names.contains(&name.as_str()) && !self.is_users(name)) {
            remove_if_there(&self.output.join(name))?;
        }
        // A receiver that has work left would miss them.
        if job.record.exported.is_some() && !files.checkpoint.exists() {
            remove_if_there(&files.results)?;
            remove_if_there(&files.rejects)?;
        }
        let latest = self.output.join(LATEST);
        sync_folder(&latest).with_context(|| format!("syncing {}", self.output.display()))?;
        remove_folder(&self.folder().join(PLAIN)).context("removing the earlier results")?;
        for earlier in self.attempts(&job.record.id)?.iter().filter(|other| other.attempt < job.attempt) {
            self.remove_or_say(earlier);
        }
        Ok(())
    }

    /// If published files are no links, as those of get-results, makes links of them that lead to the same files. So they are
    /// replaced in one step, too.
    fn turn_to_links(&self) -> anyhow::Result<()> {
        let there: Vec<_> = published()
            .map(|name| (name.clone(), self.output.join(name)))
            .filter(|(name, path)| path.exists() && !self.is_users(name))
            .collect();
        if there.iter().all(|(_, path)| path.is_symlink()) {
            return Ok(());
        }
        let plain = self.folder().join(PLAIN);
        let keeping = || format!("keeping the earlier results in {}", plain.display());
        remove_folder(&plain).with_context(keeping)?;
        std::fs::create_dir_all(&plain).with_context(keeping)?;
        for (name, path) in &there {
            let file = path.canonicalize().with_context(keeping)?;
            ensure!(
                file.is_file(),
                "{} is a folder; move it, or choose another one with --output",
                path.display()
            );
            std::fs::hard_link(file, plain.join(name)).with_context(keeping)?;
        }
        self.link(LATEST, &Path::new(JOBS).join(PLAIN))?;
        there.iter().try_for_each(|(name, _)| self.link(name, &Path::new(LATEST).join(name)))
    }

    /// Whether this is a file of the user's: only links of ours have the names of other forms than plain text.
    fn is_users(&self, name: &str) -> bool {
        forms().any(|form| form == name)
            && self.output.join(name).symlink_metadata().is_ok_and(|found| !found.is_symlink())
    }

    /// Checks that a job with these results replaces no file of the user's.
    ///
    /// # Errors
    /// There is one with the name of the results or rejects.
    pub fn check_room(&self, results: &str, form: Option<Form>) -> anyhow::Result<()> {
        let Some(form) = form else { return Ok(()) };
        let files = ResultFiles::beside(&self.output.join(results))?;
        for path in files.in_form(form) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            ensure!(
                !self.is_users(&name),
                "{} is there, and is no result of a job; move it, or choose another folder with --output",
                path.display()
            );
        }
        Ok(())
    }

    /// Aborts what other jobs have left open at S3. Those that go on begin it again.
    ///
    /// # Errors
    /// The folder of the jobs cannot be read.
    pub fn abort_others(&self, job: &JobFolder) -> anyhow::Result<()> {
        for other in self.all()?.iter().filter(|other| other.path != job.path) {
            // It costs little, and the next job tries again.
            if let Err(error) = objects::abort(&other.path) {
                console::note(&format!("{error:#}"));
            }
        }
        Ok(())
    }

    /// Whether the files of this job are the published ones.
    pub fn is_published(&self, job: &JobFolder) -> bool {
        let results = job.results();
        let published = self.output.join(results.file_name().unwrap_or_default());
        published
            .canonicalize()
            .is_ok_and(|published| results.canonicalize().is_ok_and(|own| own == published))
    }

    /// Removes all jobs but those that began last, this many, and the published one. Returns how many were removed.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn keep(&self, most: usize) -> anyhow::Result<usize> {
        let old = self.all()?.into_iter().skip(most).filter(|job| !self.is_published(job));
        Ok(old.filter(|job| self.remove_or_say(job)).count())
    }

    /// Removes a job's folder, or says why that is not possible. Returns whether it was.
    pub fn remove_or_say(&self, job: &JobFolder) -> bool {
        let removed = self.remove(job);
        if let Err(error) = &removed {
            console::note(&format!("{error:#}"));
        }
        removed.is_ok()
    }

    fn remove(&self, job: &JobFolder) -> anyhow::Result<()> {
        objects::abort(&job.path)?;
        let mut name = std::ffi::OsString::from(GONE);
        name.push(job.name());
        let gone = self.folder().join(name);
        let removing = || format!("removing {}", job.path.display());
        remove_folder(&gone).with_context(removing)?;
        std::fs::rename(&job.path, &gone).with_context(removing)?;
        remove_folder(&gone).with_context(removing)
    }

    /// Removes what killed commands have left: folders that were being removed, and those without a record.
    ///
    /// # Errors
    /// A folder cannot be removed.
    pub fn tidy(&self) -> anyhow::Result<()> {
        let Ok(entries) = std::fs::read_dir(self.folder()) else { return Ok(()) };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_owned();
            let is_gone = name.as_encoded_bytes().starts_with(GONE.as_bytes());
            let began = |entry: std::io::Result<std::fs::DirEntry>| {
                entry.is_ok_and(|entry| entry.file_name().as_encoded_bytes().starts_with(RECORD.as_bytes()))
            };
            // At most the beginning of a record.
            let has_nothing = || {
                !path.join(RECORD).exists()
                    && std::fs::read_dir(&path).is_ok_and(|mut files| files.all(began))
            };
            if is_gone || name != PLAIN && has_nothing() {
                remove_folder(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Makes or replaces a link in the output folder, in one step.
    fn link(&self, name: &str, target: &Path) -> anyhow::Result<()> {
        let (path, new) = (self.output.join(name), self.output.join(format!(".{name}.new")));
        let linking = || format!("linking {} to {}", path.display(), target.display());
        if path.is_dir() && !path.is_symlink() {
            return Err(anyhow!("it is a folder; move it, or choose another one with --output"))
                .with_context(linking);
        }
        remove_if_there(&new).with_context(linking)?;
        symlink(target, &new).with_context(linking)?;
        std::fs::rename(&new, &path).with_context(linking)
    }
}

fn remove_folder(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
