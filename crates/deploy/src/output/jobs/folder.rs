//! A job's folder: what is recorded of the job, how far it is, and where its results are.

use std::path::{Path, PathBuf};

use anyhow::Context;
use files::{read_if_there, replace_file};
use protocol::checkpoint::slots;
use protocol::result_files::{Form, ResultFiles};
use protocol::results::Summary;
use serde::{Deserialize, Serialize};

use super::RECORD;
use crate::job_id::Deciding;
use crate::options::Prefix;

/// What is known of a job from its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    /// When its first command began, in UTC as RFC 3339, with milliseconds.
    pub began: String,
    pub model: String,
    pub input: String,
    /// The file name of its results.
    pub results: String,
    /// Hosts have done it, and its results were fetched.
    #[serde(default)]
    pub of_hosts: bool,
    /// What these hosts cost while the job ran, in US dollars, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<String>,
    /// The form of its results and rejects, if they are no plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<Form>,
    /// The bytes of the results in that form, once they are complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exported: Option<u64>,
    /// Where its results, rejects and summary are uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<Prefix>,
    /// What decides its results.
    pub deciding: Deciding,
    /// What decides only whether rows are rejected for taking too much.
    #[serde(default)]
    pub limits: String,
    /// What has changed while the job ran; which state has made which results is unknown.
    #[serde(default)]
    pub changed: Vec<String>,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    Done(Summary),
    /// For this reason, which may last.
    Failed(String),
    /// It can go on.
    Unfinished {
        /// Durable ones, rejects included.
        rows: u64,
        rejects: u64,
    },
}

/// A job's folder.
#[derive(Debug, Clone)]
pub struct JobFolder {
    pub path: PathBuf,
    pub record: Record,
    /// The number of the attempt, from 1.
    pub(super) attempt: u32,
}

impl JobFolder {
    /// # Errors
    /// The results have the name of another file of the job.
    pub fn files(&self) -> anyhow::Result<ResultFiles> {
        ResultFiles::beside(&self.path.join(&self.record.results))
    }

    /// # Errors
    /// A file cannot be read.
    pub fn state(&self) -> anyhow::Result<State> {
        let files = self.files()?;
        // The checkpoint may be there still, if the receiver was killed just then.
        if let Some(json) = read_if_there(&files.summary)? {
            let summary = serde_json::from_slice(&json);
            let summary: Summary = summary.with_context(|| format!("parsing {}", files.summary.display()))?;
            // If the results were removed or changed, they are made again.
            let length = |path: &Path| std::fs::metadata(path).map(|found| found.len()).ok();
            let is_whole = match self.record.exported {
                Some(bytes) => length(&self.results()) == Some(bytes),
                None => length(&files.results) == Some(summary.bytes),
            };
            // The checkpoint says that the receiver has not yet exported all.
            let is_exported = self.is_exported()? || files.checkpoint.exists();
            return Ok(match is_whole && is_exported {
                true => State::Done(summary),
                false => State::Failed("its results were changed or removed".to_owned()),
            });
        }
        if let Some(reason) = read_if_there(&files.failure)? {
            return Ok(State::Failed(String::from_utf8_lossy(&reason).into_owned()));
        }
        let checkpoint = read_if_there(&files.checkpoint)?.unwrap_or_default();
        let position = slots(&checkpoint).first().map(|slot| slot.position).unwrap_or_default();
        Ok(State::Unfinished { rows: position.next_row, rejects: position.rejects })
    }

    /// The results in their form.
    pub fn results(&self) -> PathBuf {
        let plain = self.path.join(&self.record.results);
        self.record.form.map_or(plain.clone(), |form| form.path(&plain))
    }

    /// The rejects in their form.
    ///
    /// # Errors
    /// Those of [`files`](Self::files).
    pub fn rejects(&self) -> anyhow::Result<PathBuf> {
        let plain = self.files()?.rejects;
        Ok(self.record.form.map_or(plain.clone(), |form| form.path(&plain)))
    }

    /// Whether its results are in their form.
    ///
    /// # Errors
    /// Those of [`files`](Self::files).
    pub fn is_exported(&self) -> anyhow::Result<bool> {
        Ok(self.record.form.is_none() || self.results().exists() && self.rejects()?.exists())
    }

    /// Records that results and rejects are in their form, so that the plain files can be removed.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn note_export(&mut self) -> anyhow::Result<()> {
        if self.record.form.is_none() || self.record.exported.is_some() || !self.is_exported()? {
            return Ok(());
        }
        let results = self.results();
        let found = std::fs::metadata(&results).with_context(|| format!("reading {}", results.display()))?;
        self.record.exported = Some(found.len());
        self.save()
    }

    /// When its results were written last.
    pub fn written(&self) -> Option<std::time::SystemTime> {
        let plain = self.path.join(&self.record.results);
        let found = std::fs::metadata(plain).or_else(|_| std::fs::metadata(self.results()));
        found.and_then(|found| found.modified()).ok()
    }

    /// Writes the record.
    pub(super) fn save(&self) -> anyhow::Result<()> {
        let json = serde_json::to_vec(&self.record).context("encoding a job's record")?;
        replace_file(&self.path.join(RECORD), &json)
    }

    /// Records what has changed while the job ran.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn note_changes(&mut self, changed: Vec<String>) -> anyhow::Result<()> {
        self.record.changed = changed;
        self.save()
    }

    pub(super) fn name(&self) -> &Path {
        Path::new(self.path.file_name().unwrap_or_default())
    }
}

/// The number of an attempt, from the name of its folder.
pub(super) fn attempt(path: &Path) -> u32 {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit_once('-').and_then(|(_, attempt)| attempt.parse().ok()).unwrap_or(1)
}
