//! Which parts of an object are uploaded, noted in a file of JSON lines.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use files::{read_if_there, replace_file};
use serde::{Deserialize, Serialize};

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Note {
    /// The upload that the next lines are of.
    Upload(String),
    Part {
        number: u16,
        /// The SHA-256 of its bytes.
        sha256: String,
        /// What S3 calls it.
        tag: String,
    },
    /// All parts are uploaded, so many.
    Whole(u16),
    Completed,
}

/// The notes of an upload.
#[derive(Debug)]
pub(super) struct Notes {
    path: PathBuf,
    file: File,
    /// The SHA-256 and the name of each part.
    parts: BTreeMap<u16, (String, String)>,
    whole: Option<u16>,
    is_completed: bool,
}

impl Notes {
    /// Opens the notes of this upload. Those of another one are removed.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(super) fn open(path: &Path, upload: &str) -> anyhow::Result<Self> {
        let old = read_if_there(path)?.unwrap_or_default();
        // After a crash, the last line may be cut off.
        let lines = old.split(|byte| *byte == b'\n').map_while(|line| serde_json::from_slice(line).ok());
        let mut notes: Vec<Note> = lines.collect();
        if notes.first() != Some(&Note::Upload(upload.to_owned())) {
            notes = vec![Note::Upload(upload.to_owned())];
        }
        let lines = notes.iter().map(line).collect::<anyhow::Result<Vec<_>>>()?;
        replace_file(path, &lines.concat())?;
        let writing = || format!("writing {}", path.display());
        let file = File::options().append(true).open(path).with_context(writing)?;
        let (parts, path) = (BTreeMap::new(), path.to_owned());
        let mut opened = Self { path, file, parts, whole: None, is_completed: false };
        notes.into_iter().for_each(|note| opened.apply(note));
        Ok(opened)
    }

    fn apply(&mut self, note: Note) {
        match note {
            Note::Upload(_) => {}
            Note::Part { number, sha256, tag } => {
                self.parts.insert(number, (sha256, tag));
                self.whole = None;
            }
            Note::Whole(parts) => self.whole = Some(parts),
            Note::Completed => self.is_completed = true,
        }
    }

    fn note(&mut self, note: Note) -> anyhow::Result<()> {
        let written = line(&note).and_then(|line| Ok(self.file.write_all(&line)?));
        written.with_context(|| format!("writing {}", self.path.display()))?;
        self.apply(note);
        Ok(())
    }

    /// Whether this part is uploaded with this SHA-256, or the object is complete.
    pub(super) fn has(&self, number: u16, sha256: &str) -> bool {
        self.is_completed || self.parts.get(&number).is_some_and(|(noted, _)| noted == sha256)
    }

    pub(super) fn note_part(&mut self, number: u16, sha256: String, tag: String) -> anyhow::Result<()> {
        self.note(Note::Part { number, sha256, tag })
    }

    /// Notes that the object has so many parts, and that all are uploaded.
    pub(super) fn note_whole(&mut self, parts: u16) -> anyhow::Result<()> {
        self.note(Note::Whole(parts))
    }

    pub(super) fn note_completed(&mut self) -> anyhow::Result<()> {
        self.note(Note::Completed)
    }

    pub(super) fn is_completed(&self) -> bool {
        self.is_completed
    }

    /// S3's names of all parts in order; `None` before all are uploaded.
    pub(super) fn tags(&self) -> Option<Vec<&str>> {
        (1..=self.whole?).map(|number| Some(self.parts.get(&number)?.1.as_str())).collect()
    }
}

fn line(note: &Note) -> anyhow::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(note).context("encoding a note")?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_back_up_to_a_line_that_is_cut_off_and_only_of_the_same_upload() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes");
        let mut notes = Notes::open(&path, "one").unwrap();
        assert!(!notes.has(1, "a") && notes.tags().is_none());
        notes.note_part(2, "b".to_owned(), "tag b".to_owned()).unwrap();
        notes.note_part(1, "a".to_owned(), "tag a".to_owned()).unwrap();
        notes.note_part(3, "c".to_owned(), "of a longer file".to_owned()).unwrap();
        notes.note_whole(2).unwrap();
        let all = std::fs::read(&path).unwrap();
        let again = Notes::open(&path, "one").unwrap();
        assert_eq!(again.tags(), Some(vec!["tag a", "tag b"]));
        assert!(again.has(1, "a") && !again.has(1, "b"));
        std::fs::write(&path, &all[..all.len() - 3]).unwrap();
        let mut cut = Notes::open(&path, "one").unwrap();
        assert!(cut.tags().is_none() && cut.has(2, "b"));
        cut.note_whole(2).unwrap();
        cut.note_completed().unwrap();
        assert!(Notes::open(&path, "one").unwrap().is_completed());
        let other = Notes::open(&path, "two").unwrap();
        assert!(!other.is_completed() && !other.has(1, "a"));
        assert!(!Notes::open(&path, "one").unwrap().has(1, "a"));
    }
}
