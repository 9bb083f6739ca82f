//! Packs results, rejects and summary into one `.tgz` while results arrive.
//!
//! A gzip file is a sequence of members. Each piece of the results becomes a member; several threads compress pieces, and
//! write the members in order. The tar's first header has the length of the results, which is known only at the end. So the
//! file starts with room for a member of known size, and that member is written last.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::SystemTime;

use anyhow::{Context, anyhow};
use files::sync_folder;
use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::{Condvar, Mutex};
use protocol::result_files::ResultFiles;
use tar::{EntryType, Header};

use crate::job::{Job, Reach};

/// Bytes of results in a member.
const PIECE: u64 = 1 << 20;
/// The block size of a tar: files begin at multiples of it, and two blocks of zeros end it.
const BLOCK: usize = 512;
/// The size of a gzip member with an uncompressed block: gzip's header and trailer, the stored block's header, and the block.
const HEAD_MEMBER: usize = 10 + 5 + BLOCK + 8;
/// The archive is synced each time it has grown by this many bytes.
const SYNC_SPAN: u64 = 16 << 20;
/// The most threads that compress; the machine has other work.
const MOST_THREADS: usize = 8;

/// An archive in progress.
pub struct Archive {
    path: PathBuf,
    part: PathBuf,
    files: ResultFiles,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
}

struct Shared {
    job: Arc<Job>,
    file: File,
    state: Mutex<State>,
    turned: Condvar,
}

#[derive(Default)]
struct State {
    /// The next piece to compress.
    next: u64,
    /// The next piece to write.
    turn: u64,
    /// Where in the archive that piece begins.
    at: u64,
    /// How many times [`SYNC_SPAN`] bytes were written at the last sync.
    spans: u64,
    failed: bool,
}

impl Archive {
    /// Begins an archive of the results of `job`, from their first byte. Replaces the unfinished archive of an earlier
    /// receiver.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn start(path: &Path, files: &ResultFiles, job: &Arc<Job>) -> anyhow::Result<Self> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).with_context(|| format!("creating {}", part.display()))?;
        let state = Mutex::new(State { at: HEAD_MEMBER as u64, ..State::default() });
        let shared = Arc::new(Shared { job: Arc::clone(job), file, state, turned: Condvar::new() });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Twice as many threads as cores, since the job's own threads compete with them, and the user waits for the archive
        // after the job is done.
        let threads = (0..(2 * cores).clamp(1, MOST_THREADS)).map(|_| {
            let (shared, results) = (Arc::clone(&shared), files.results.clone());
            std::thread::Builder::new()
                .name("archive".into())
                .spawn(move || shared.compress(&results))
                .context("starting a thread")
        });
        let threads = threads.collect::<anyhow::Result<_>>()?;
        Ok(Self { path: path.to_owned(), part, files: files.clone(), shared, threads })
    }

    /// Completes the archive of a job that is done. Returns its size in bytes.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn finish(self) -> anyhow::Result<u64> {
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a thread of the archive panicked"))??;
        }
        let Shared { file, state, .. } = &*self.shared;
        let mut at = state.lock().at;
        let context = || format!("writing {}", self.part.display());
        let length = |path: &Path| -> anyhow::Result<u64> {
            Ok(std::fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.len())
        };
        let results_length = length(&self.files.results)?;
        let mut rest = Rest { out: gzip(), length: results_length };
        rest.pad()?;
        for path in [&self.files.rejects, &self.files.summary] {
            rest.append(path, length(path)?).with_context(|| format!("packing {}", path.display()))?;
        }
        rest.out.write_all(&[0; 2 * BLOCK])?;
        let rest = rest.out.finish()?;
        file.write_all_at(&rest, at).with_context(context)?;
        at += rest.len() as u64;
        file.write_all_at(&stored_member(&head(&self.files.results, results_length)?)?, 0)
            .with_context(context)?;
        file.sync_all().with_context(context)?;
        std::fs::rename(&self.part, &self.path)
            .with_context(|| format!("renaming {} to {}", self.part.display(), self.path.display()))?;
        sync_folder(&self.path).context("syncing the folder of the archive")?;
        Ok(at)
    }
}

impl Shared {
    /// Compresses pieces until there are no more.
    fn compress(&self, results: &Path) -> anyhow::Result<()> {
        let compressed = self.compress_pieces(results);
        if compressed.is_err() {
            self.state.lock().failed = true;
            self.turned.notify_all();
        }
        compressed
    }

    fn compress_pieces(&self, results: &Path) -> anyhow::Result<()> {
        let mut file = None;
        loop {
            let piece = {
                let mut state = self.state.lock();
                state.next += 1;
                state.next - 1
            };
            let begin = piece * PIECE;
            let length = match self.job.await_results(begin + PIECE) {
                Reach::Durable => PIECE,
                Reach::Last(all) if all > begin => all - begin,
                Reach::Last(_) | Reach::Never => return Ok(()),
            };
            let context = || format!("reading {}", results.display());
            let file = match &mut file {
                Some(file) => file,
                // Opened only now, since the file does not exist before the job begins.
                none => none.insert(File::open(results).with_context(context)?),
            };
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, begin).with_context(context)?;
            let mut member = gzip();
            member.write_all(&bytes).context("compressing results")?;
            if !self.write(piece, &member.finish().context("compressing results")?)? {
                return Ok(());
            }
        }
    }

    /// Writes a piece when its turn comes. Returns `false` if another thread has failed.
    fn write(&self, piece: u64, member: &[u8]) -> anyhow::Result<bool> {
        let mut state = self.state.lock();
        let not_yet = |state: &mut State| state.turn != piece && !state.failed;
        self.turned.wait_while(&mut state, not_yet);
        if state.failed {
            return Ok(false);
        }
        self.file.write_all_at(member, state.at).context("writing the archive")?;
        state.at += member.len() as u64;
        state.turn += 1;
        let span = state.at / SYNC_SPAN;
        let is_due = span > state.spans;
        state.spans = span;
        drop(state);
        self.turned.notify_all();
        if is_due {
            // Otherwise the last sync, for which the user waits, would have to write the whole archive.
            self.file.sync_data().context("syncing the archive")?;
        }
        Ok(true)
    }
}

/// The part of the tar after the results.
struct Rest {
    out: GzEncoder<Vec<u8>>,
    /// The length of the last file.
    length: u64,
}

impl Rest {
    /// Appends zeros up to the next multiple of [`BLOCK`].
    fn pad(&mut self) -> io::Result<()> {
        let used = (self.length % BLOCK as u64) as usize;
        if used > 0 { self.out.write_all(&[0; BLOCK][used..]) } else { Ok(()) }
    }

    fn append(&mut self, path: &Path, length: u64) -> anyhow::Result<()> {
        self.out.write_all(&head(path, length)?)?;
        let copied = io::copy(&mut File::open(path)?.take(length), &mut self.out)?;
        anyhow::ensure!(copied == length, "the file was truncated meanwhile");
        self.length = length;
        Ok(self.pad()?)
    }
}

/// A file's header in a tar.
fn head(path: &Path, length: u64) -> anyhow::Result<[u8; BLOCK]> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_path(path.file_name().context("a file without a name")?)?;
    header.set_size(length);
    header.set_mode(0o644);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    header.set_mtime(now);
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// Level 1, so that the archive does not become the bottleneck.
fn gzip() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), Compression::fast())
}

/// A gzip member of exactly [`HEAD_MEMBER`] bytes.
fn stored_member(block: &[u8; BLOCK]) -> io::Result<Vec<u8>> {
    let mut member = GzEncoder::new(Vec::new(), Compression::none());
    member.write_all(block)?;
    let member = member.finish()?;
    if member.len() == HEAD_MEMBER {
        Ok(member)
    } else {
        Err(io::Error::other(format!("a stored gzip member has {} bytes, not {HEAD_MEMBER}", member.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Position;
    use crate::job::End;
    use flate2::read::MultiGzDecoder;
    use proptest::prelude::*;
    use protocol::results::{Outcome, Summary};

    /// Archives results that become durable in steps. Returns the archive's files: their names and contents.
    fn archived(results: &[u8], steps: &[usize]) -> Vec<(String, Vec<u8>)> {
        let dir = tempfile::tempdir().unwrap();
        let files = ResultFiles::beside(&dir.path().join("results.log")).unwrap();
        let job = Arc::new(Job::default());
        // An earlier receiver was killed while writing an archive that was already longer than this one will be.
        std::fs::write(dir.path().join("results.tgz.part"), vec![b'x'; 2 * results.len() + (64 << 10)])
            .unwrap();
        let archive = Archive::start(&dir.path().join("results.tgz"), &files, &job).unwrap();
        std::fs::write(&files.rejects, "row,reason,record\n").unwrap();
        let mut file = File::create(&files.results).unwrap();
        let mut at = 0;
        for step in steps.iter().copied().chain([results.len()]) {
            let end = (at + step).min(results.len());
            file.write_all(&results[at..end]).unwrap();
            at = end;
            job.durable(Position { result_bytes: at as u64, ..Position::default() });
        }
        std::fs::write(&files.summary, "{}\n").unwrap();
        job.end(End::Job(Outcome::Done(Summary::default())));
        let size = archive.finish().unwrap();
        let bytes = std::fs::read(dir.path().join("results.tgz")).unwrap();
        assert_eq!(size, bytes.len() as u64);
        let mut tar = tar::Archive::new(MultiGzDecoder::new(&bytes[..]));
        let entries = tar.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            (entry.path().unwrap().display().to_string(), contents)
        });
        entries.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn an_archive_has_results_rejects_and_summary(
            length in 0usize..(4 << 20),
            steps in prop::collection::vec(0usize..(1 << 20), 0..6),
        ) {
            let results: Vec<u8> = (0..length).map(|i| (i * i / 7) as u8).collect();
            let found = archived(&results, &steps);
            prop_assert!(found[0] == ("results.log".to_owned(), results));
            prop_assert_eq!(&found[1..], &[
                ("results.rejects.csv".to_owned(), b"row,reason,record\n".to_vec()),
                ("results.json".to_owned(), b"{}\n".to_vec()),
            ]);
        }
    }

    #[test]
    fn results_that_end_with_a_whole_piece_are_complete() {
        let results = vec![7; 2 * PIECE as usize];
        assert!(archived(&results, &[PIECE as usize])[0].1 == results);
    }
}
