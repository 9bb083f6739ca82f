//! Identifies an input file, and detects changes to it.
//!
//! A file is identified by its device, its inode, its size and the time of its last modification, to the nanosecond. The
//! time of its last status change does not count: a backup that links the file, or a `chmod`, changes that time, but no row. So
//! a program is not noticed if it overwrites a file with as many bytes and resets the time of the last modification.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};

/// The interval between checks of a file while it is read.
pub const CHECK_PAUSE: Duration = Duration::from_secs(1);
/// File systems take times from a clock that ticks at least this often: a file that was just written could be written once more
/// with the same time.
const TICK: Duration = Duration::from_millis(20);

/// Identifies a file in one state. As text: inode, size, and seconds and nanoseconds of its modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// `None` if the identity was parsed from text.
    device: Option<u64>,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// How a file changed while it was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it has changed while it was read: {0}; run the job again when nothing writes to it")]
pub struct Changed(String);

impl Identity {
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: Some(metadata.dev()),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Checks that a file's identity `now` is still this one.
    ///
    /// # Errors
    /// The differences.
    pub fn check(&self, now: &Self) -> Result<(), Changed> {
        let is_another =
            self.inode != now.inode || self.device.zip(now.device).is_some_and(|(before, now)| before != now);
        if !is_another && (self.size, self.modified) == (now.size, now.modified) {
            return Ok(());
        }
        let place = if is_another { "another file is in its place; " } else { "" };
        Err(Changed(format!("{place}it had {}, and now has {}", self.words(), now.words())))
    }

    fn words(&self) -> String {
        format!("{} bytes, modified {}", self.size, utc(self.modified))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the device, whose number may change when the file system is mounted again.
        let Self { inode, size, modified: (seconds, nanoseconds), .. } = self;
        write!(f, "{inode}:{size}:{seconds}:{nanoseconds}")
    }
}

impl FromStr for Identity {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let context = || format!("{text:?} is not the identity of a file");
        let parts: Vec<&str> = text.split(':').collect();
        let [inode, size, seconds, nanoseconds] = parts[..] else { anyhow::bail!("{}", context()) };
        let number = |part: &str| part.parse().with_context(context);
        let time = |part: &str| part.parse().with_context(context);
        let modified = (time(seconds)?, time(nanoseconds)?);
        Ok(Self { device: None, inode: number(inode)?, size: number(size)?, modified })
    }
}

/// The identity of files in this order: of one file, its own, and of several, a `hash` of all.
pub fn of_all(identities: &[String], hash: impl Fn(&[u8]) -> String) -> String {
    if let [one] = identities { one.clone() } else { hash(identities.join(",").as_bytes()) }
}

/// Checks that the file at a path still has this identity. A removed file passes.
///
/// # Errors
/// [`Changed`], or those of the file system; they name the file.
pub fn check_at(path: &Path, identity: Identity) -> anyhow::Result<()> {
    let reading = || format!("reading {}", path.display());
    match std::fs::metadata(path) {
        Ok(there) => Ok(identity.check(&Identity::of(&there)).with_context(reading)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(reading),
    }
}

/// The date this many days after 1970-01-01: year, month and day.
pub fn date(days: i64) -> (i64, i64, i64) {
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March, eras of 400 years are alike.
    let from_march = days + 719_468;
    let (era, of_era) = (from_march.div_euclid(146_097), from_march.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// A time since 1970 as a date and a time of day, in UTC.
fn utc((seconds, nanoseconds): (i64, i64)) -> String {
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{nanoseconds:09} UTC")
}

/// Detects changes to a file that is being read. Clones guard the same file.
#[derive(Debug, Clone)]
pub struct Guard {
    file: Arc<File>,
    /// `None` for standard input.
    path: Option<PathBuf>,
    identity: Identity,
}

impl Guard {
    /// Guards an open file in its present state, or in the state that it had `before` a restart. A file without a path is
    /// standard input.
    ///
    /// # Errors
    /// The file differs from `before`, or its metadata cannot be read.
    pub fn new(file: &File, path: Option<&Path>, before: Option<Identity>) -> anyhow::Result<Self> {
        let file = file.try_clone().context("duplicating a file")?;
        settle(&file)?;
        let now = Identity::of(&file.metadata().context("reading a file's metadata")?);
        let guard =
            Self { file: Arc::new(file), path: path.map(Path::to_owned), identity: before.unwrap_or(now) };
        guard.check()?;
        Ok(guard)
    }

    /// The file's name in messages.
    pub fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| "standard input".to_owned(), |path| path.display().to_string())
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Checks that the file is unchanged and still at its path. A removed file passes, since it keeps its bytes until it is
    /// closed.
    ///
    /// # Errors
    /// [`Changed`], or those of the file system.
    pub fn check(&self) -> anyhow::Result<()> {
        let now = Identity::of(&self.file.metadata().context("reading a file's metadata")?);
        self.identity.check(&now)?;
        let Some(path) = &self.path else { return Ok(()) };
        match std::fs::metadata(path) {
            Ok(there) => Ok(self.identity.check(&Identity::of(&there))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(|| format!("reading the metadata of {}", path.display())),
        }
    }
}

/// Waits until any further write to the file would get a later time.
fn settle(file: &File) -> anyhow::Result<()> {
    let modified = file.metadata().and_then(|metadata| metadata.modified());
    let modified = modified.context("reading a file's modification time")?;
    // A file in the future, by another machine's clock, needs no wait.
    if let Ok(age) = SystemTime::now().duration_since(modified)
        && age < TICK
    {
        std::thread::sleep(TICK - age);
    }
    Ok(())
}

/// Reads a file to its end, and fails if the file changes meanwhile.
#[derive(Debug)]
pub struct Guarded {
    file: File,
    guard: Guard,
    position: u64,
    checked: Instant,
}

impl Guarded {
    /// Reads the file of this guard from its present position.
    ///
    /// # Errors
    /// The position cannot be read.
    pub fn new(mut file: File, guard: Guard) -> anyhow::Result<Self> {
        let position = file.stream_position().context("reading a file's position")?;
        Ok(Self { file, guard, position, checked: Instant::now() })
    }

    fn check(&mut self, read: usize) -> anyhow::Result<()> {
        let (position, size) = (self.position, self.guard.identity.size);
        ensure!(
            read == 0 || size > 0,
            "it says that it has 0 bytes, and has some: it is no ordinary file, or is being written; cat it to \
             standard input"
        );
        if read == 0 || position > size || self.checked.elapsed() >= CHECK_PAUSE {
            self.checked = Instant::now();
            self.guard.check()?;
        }
        let end = |words: String| Err(Changed(words).into());
        if read == 0 && position < size {
            return end(format!("it had {size} bytes, and ends after {position}"));
        }
        if position > size {
            return end(format!("it had {size} bytes, and now has more"));
        }
        Ok(())
    }
}

impl Read for Guarded {
    /// Also checks the file once a second, and at its end.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(out)?;
        self.position += read as u64;
        if !out.is_empty() {
            self.check(read).map_err(io::Error::other)?;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    use super::*;

    /// Reads ten of a file's hundred bytes, calls `act`, and reads the rest. Returns the number of bytes, or the error.
    fn after(act: impl FnOnce(&Path)) -> Result<usize, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.csv");
        fs::write(&path, [b'x'; 100]).unwrap();
        let file = File::open(&path).unwrap();
        let guard = Guard::new(&file, Some(&path), None).unwrap();
        let mut reader = Guarded::new(file, guard.clone()).unwrap();
        reader.read_exact(&mut [0; 10]).unwrap();
        act(&path);
        let read = reader.read_to_end(&mut Vec::new()).map_err(|error| error.to_string());
        // Opening it again with its old identity gives the same outcome.
        let again = File::open(&path).map(|file| Guard::new(&file, Some(&path), Some(guard.identity())));
        assert_eq!(read.is_err(), again.is_ok_and(|guard| guard.is_err()), "{read:?}");
        assert_eq!(read.is_err(), guard.check().is_err());
        read
    }

    fn write_over(path: &Path, bytes: &[u8]) {
        OpenOptions::new().write(true).truncate(true).open(path).unwrap().write_all(bytes).unwrap();
    }

    #[test]
    fn an_unchanged_file_is_read_to_its_end() {
        assert_eq!(after(|_| {}), Ok(90));
        assert_eq!(after(|path| fs::hard_link(path, path.with_extension("link")).unwrap()), Ok(90));
        assert_eq!(after(|path| fs::remove_file(path).unwrap()), Ok(90));
    }

    #[test]
    fn changes_of_content_size_time_and_place_are_detected() {
        let said = after(|path| write_over(path, &[b'y'; 100])).unwrap_err();
        assert!(said.starts_with("it has changed while it was read: it had 100 bytes, modified "), "{said}");
        assert!(said.ends_with("UTC; run the job again when nothing writes to it"), "{said}");
        let said = after(|path| write_over(path, &[b'y'; 50])).unwrap_err();
        assert!(said.contains("and now has 50 bytes"), "{said}");
        let said = after(|path| {
            OpenOptions::new().append(true).open(path).unwrap().write_all(b"more").unwrap();
        });
        assert!(said.unwrap_err().contains("and now has 104 bytes"));
        let said = after(|path| {
            fs::write(path.with_extension("new"), [b'x'; 100]).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        });
        assert!(said.unwrap_err().contains("another file is in its place; it had 100 bytes"));
        let said = after(|path| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_nanos(951_782_400_000_000_007))
                .unwrap();
        });
        assert!(
            said.unwrap_err().contains("and now has 100 bytes, modified 2000-02-29 00:00:00.000000007 UTC")
        );
    }

    #[test]
    fn a_link_to_a_different_file_is_detected() {
        let folder = tempfile::tempdir().unwrap();
        let [link, old, new] = ["link", "old", "new"].map(|name| folder.path().join(name));
        fs::write(&old, "A\n1\n").unwrap();
        fs::write(&new, "A\n2\n").unwrap();
        std::os::unix::fs::symlink(&old, &link).unwrap();
        let guard = Guard::new(&File::open(&link).unwrap(), Some(&link), None).unwrap();
        guard.check().unwrap();
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&new, &link).unwrap();
        assert!(guard.check().unwrap_err().to_string().contains("another file is in its place"));
    }

    #[test]
    fn a_file_with_bytes_and_no_size_is_refused() {
        let file = File::open("/proc/self/status").unwrap();
        let guard = Guard::new(&file, None, None).unwrap();
        let error = Guarded::new(file, guard).unwrap().read(&mut [0; 10]).unwrap_err().to_string();
        assert!(error.starts_with("it says that it has 0 bytes, and has some"), "{error}");
    }

    #[test]
    fn identities_parse_back_without_the_device() {
        let identity = Identity::of(&fs::metadata("/proc/self/exe").unwrap());
        let again: Identity = identity.to_string().parse().unwrap();
        assert_eq!(Identity { device: identity.device, ..again }, identity);
        // When the file system is mounted again, the device may differ.
        let mounted = Identity { device: identity.device.map(|device| device + 1), ..identity };
        assert_eq!((again.check(&mounted), again.check(&identity)), (Ok(()), Ok(())));
        assert!(identity.check(&mounted).is_err());
        assert!(again.check(&Identity { inode: identity.inode + 1, ..identity }).is_err());
        for wrong in ["", "1:2:3", "1:2:3:x", "1:2:3:4:5"] {
            assert!(wrong.parse::<Identity>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_printed_as_dates() {
        let date = |seconds| utc((seconds, 0)).replace(".000000000 UTC", "");
        assert_eq!(date(0), "1970-01-01 00:00:00");
        assert_eq!(date(-1), "1969-12-31 23:59:59");
        assert_eq!(date(1_709_210_096), "2024-02-29 12:34:56");
        assert_eq!(date(4_102_444_799), "2099-12-31 23:59:59");
    }
}
