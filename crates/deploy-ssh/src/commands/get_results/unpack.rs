//! Unpacks a fetched archive, and checks on the way that it is complete and the job's.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use deploy::interrupt;
use flate2::read::MultiGzDecoder;
use protocol::result_files::{RESULTS, ResultFiles, TYPED_RESULTS};
use protocol::results::Summary;
use sha2::{Digest, Sha256};

/// Where the files are until all of them have been checked, in the output folder.
const FOLDER: &str = ".fetched";
const BLOCK: usize = 1 << 20;

/// Why the archive is not what the host has. Fetching it again may help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Damaged(String);

fn damaged(reason: &str) -> Damaged {
    Damaged(reason.to_owned())
}

/// The files of a job, unpacked and checked. Dropped, they are removed.
#[derive(Debug)]
pub(super) struct Unpacked {
    folder: PathBuf,
    /// The name of the results.
    results: &'static str,
}

impl Unpacked {
    pub(super) fn results_name(&self) -> &'static str {
        self.results
    }

    /// The files' places in this folder.
    fn places(&self, folder: &Path) -> anyhow::Result<ResultFiles> {
        ResultFiles::beside(&folder.join(self.results))
    }

    /// Moves the files to a folder.
    ///
    /// # Errors
    /// A file cannot be moved.
    pub(super) fn move_to(self, folder: &Path) -> anyhow::Result<()> {
        for to in members(&self.places(folder)?) {
            let from = self.folder.join(to.file_name().unwrap_or_default());
            std::fs::rename(&from, to)
                .with_context(|| format!("moving {} to {}", from.display(), to.display()))?;
        }
        Ok(())
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // A later get-results removes what stays.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What an archive holds, in its order.
fn members(files: &ResultFiles) -> [&Path; 3] {
    [&files.results, &files.rejects, &files.summary]
}

/// Unpacks an archive to a hidden folder in `output`.
///
/// # Errors
/// [`Damaged`], or those of writing.
pub(super) fn unpack(archive: &Path, output: &Path, summary: &Summary) -> anyhow::Result<Unpacked> {
    let folder = output.join(FOLDER);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    std::fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
    let mut unpacked = Unpacked { folder, results: RESULTS };
    let file = File::open(archive).with_context(|| format!("opening {}", archive.display()))?;
    let mut tar = tar::Archive::new(MultiGzDecoder::new(BufReader::with_capacity(BLOCK, file)));
    let reading = || damaged("reading the archive");
    let mut entries = tar.entries().with_context(reading)?;
    let mut first = None;
    if let Some(entry) = entries.next() {
        let entry = first.insert(entry.with_context(reading)?);
        if entry.path().with_context(reading)? == Path::new(TYPED_RESULTS) {
            unpacked.results = TYPED_RESULTS;
        }
    }
    let files = unpacked.places(&unpacked.folder)?;
    let mut entries = first.into_iter().map(Ok).chain(entries);
    for target in members(&files) {
        let mut entry =
            entries.next().with_context(|| damaged("a file is missing"))?.with_context(reading)?;
        let name = entry.path().with_context(reading)?.into_owned();
        ensure!(
            target.file_name() == Some(name.as_os_str()),
            Damaged(format!("it unexpectedly holds {}", name.display()))
        );
        let found = copy(&mut entry, target)?;
        ensure!(
            target != files.results || found == summary.sha256,
            Damaged(format!("its results have the SHA-256 {found}, and the job's have {}", summary.sha256))
        );
    }
    ensure!(entries.next().is_none(), damaged("it holds more files than it should"));
    Ok(unpacked)
}

/// Copies to a new file; returns the SHA-256.
fn copy(from: &mut impl Read, to: &Path) -> anyhow::Result<String> {
    let writing = || format!("writing {}", to.display());
    let mut file = File::create_new(to).with_context(writing)?;
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK];
    loop {
        interrupt::check()?;
        let read = from.read(&mut block).with_context(|| damaged("reading the archive"))?;
        if read == 0 {
            break;
        }
        hash.update(&block[..read]);
        file.write_all(&block[..read]).with_context(writing)?;
    }
    file.sync_all().with_context(writing)?;
    Ok(protocol::hash::finish(hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use deploy::exit;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    fn packed(files: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn a_whole_archive_is_published_and_a_damaged_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("archive");
        let sha256 = protocol::hash::hex(&Sha256::digest(b"a,b\n"));
        let summary = Summary { sha256, ..Summary::default() };
        let unpack = |bytes: &[u8]| {
            std::fs::write(&archive, bytes).unwrap();
            unpack(&archive, dir.path(), &summary)
        };
        let [results, rejects, json] =
            [("results.log", "a,b\n"), ("results.rejects.csv", "r"), ("results.json", "{}")];
        let whole = packed(&[results, rejects, json]);
        let damaged = [
            &whole[..whole.len() / 2],
            &packed(&[("results.log", "other"), rejects, json]),
            &packed(&[results, rejects]),
            &packed(&[rejects, results, json]),
            &packed(&[results, rejects, json, ("more", "")]),
            b"no archive",
        ];
        for bytes in damaged {
            let error = unpack(bytes).unwrap_err();
            assert!(exit::is::<Damaged>(&error), "{error:#}");
            assert!(!dir.path().join(FOLDER).exists());
        }
        let typed = packed(&[("results.csv", "a,b\n"), rejects, json]);
        for (archive, name) in [(whole, "results.log"), (typed, "results.csv")] {
            let unpacked = unpack(&archive).unwrap();
            let files = unpacked.places(dir.path()).unwrap();
            unpacked.move_to(dir.path()).unwrap();
            assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), b"a,b\n");
            assert!(files.rejects.exists() && files.summary.exists() && !dir.path().join(FOLDER).exists());
        }
    }
}
