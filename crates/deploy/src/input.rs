//! The files of an input, and their checks before a job starts.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use records::format::{Format, is_address, shown};
use records::identity::Guard;

use crate::options::Reading;
use crate::{console, objects};

/// Checks that inputs exist, before anything is built or started. Does not open them, since a pipe must not be opened twice.
///
/// # Errors
/// One does not exist, or is a folder; or there are several, and one is a stream.
pub fn check_inputs(paths: &[PathBuf]) -> anyhow::Result<()> {
    let (mut seen, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for path in paths {
        if is_address(path) {
            ensure!(addresses.insert(path), "the input has {} twice", shown(path));
            continue;
        }
        let found =
            std::fs::metadata(path).with_context(|| format!("opening the input {}", path.display()))?;
        ensure!(!found.is_dir(), "the input {} is a folder; give a CSV file", path.display());
        ensure!(
            paths.len() == 1 || found.is_file(),
            "the input {} is a stream, which can only be read alone; give files, or one stream",
            path.display()
        );
        ensure!(seen.insert((found.dev(), found.ino())), "the input has {} twice", path.display());
    }
    Ok(())
}

/// Whether the sender needs the program `formats` for these files, or for this stream.
///
/// # Errors
/// A file cannot be read.
pub fn needs_formats(paths: &[PathBuf], reading: &Reading) -> anyhow::Result<bool> {
    if reading.encoding.is_some() || paths.iter().any(|path| is_address(path)) {
        return Ok(true);
    }
    // A stream must not be opened twice.
    for path in paths.iter().filter(|path| path.is_file()) {
        if matches!(format_of(path)?, Some(Format::Zstd | Format::Parquet)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The format of a file that is no plain text.
///
/// # Errors
/// It cannot be read.
pub fn format_of(path: &Path) -> anyhow::Result<Option<Format>> {
    let file = File::open(path).with_context(|| format!("opening the input {}", path.display()))?;
    let first = Format::read_first(file).with_context(|| format!("reading the input {}", path.display()))?;
    Ok(Format::of(&first))
}

/// Watches an input file for changes.
pub fn guard(path: &Path) -> anyhow::Result<Guard> {
    let opening = || format!("opening the input {}", path.display());
    let file = File::open(path).with_context(opening)?;
    Guard::new(&file, Some(path), None).with_context(opening)
}

/// The identity of files.
///
/// # Errors
/// One cannot be opened.
pub fn identity(paths: &[PathBuf]) -> anyhow::Result<String> {
    let identities = paths.iter().map(|path| Ok(guard(path)?.identity().to_string()));
    let identities: Vec<_> = identities.collect::<anyhow::Result<_>>()?;
    Ok(records::identity::of_all(&identities, protocol::hash::short_hex))
}

/// The files that are meant by what the user gave: a file or stream, a folder of files (also of objects), or a pattern such as
/// `data/*.csv`. Those of a folder or pattern are in natural order, in which `2.csv` is before `10.csv`.
///
/// # Errors
/// A folder or pattern has no file, or cannot be read.
pub fn expand(given: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in given {
        let text = path.to_string_lossy();
        let mut found: Vec<PathBuf> = if objects::is_folder(path) {
            objects::list(path)?
        } else if is_address(path) {
            all.push(path.clone());
            continue;
        } else if path.is_dir() {
            let reading = || format!("reading the folder {text}");
            let entries = std::fs::read_dir(path).with_context(reading)?;
            let paths = entries.map(|entry| entry.map(|entry| entry.path()));
            paths.collect::<Result<_, _>>().with_context(reading)?
        } else if !path.exists() && text.contains(['*', '?', '[']) {
            let matching = glob::glob(&text).with_context(|| format!("reading the pattern {text}"))?;
            matching.collect::<Result<_, _>>().with_context(|| format!("looking for {text}"))?
        } else {
            all.push(path.clone());
            continue;
        };
        // Other tools' hidden files, and markers such as _SUCCESS, are not rows.
        let is_hidden = |path: &Path| {
            path.file_name().is_some_and(|name| [b'.', b'_'].contains(&name.as_encoded_bytes()[0]))
        };
        found.retain(|path| (is_address(path) || path.is_file()) && !is_hidden(path));
        ensure!(!found.is_empty(), "the input {text} has no files");
        found.sort_by_key(|path| natural(path));
        let mut plain = BTreeSet::new();
        if let Some(twice) =
            found.iter().map(|path| without_compression(path)).find(|path| !plain.insert(path.clone()))
        {
            bail!("the input {text} has {} twice: plain or compressed in two forms", twice.display());
        }
        all.extend(found);
    }
    Ok(all)
}

/// The name of a file before it was compressed.
fn without_compression(path: &Path) -> PathBuf {
    let is_compressed = path.extension().is_some_and(|extension| extension == "gz" || extension == "zst");
    if is_compressed { path.with_extension("") } else { path.to_owned() }
}

/// What to sort a path by: its parts that are digits by their value, and the others as they are.
fn natural(path: &Path) -> Vec<(String, usize, String)> {
    let text = path.to_string_lossy();
    let mut parts = Vec::new();
    let mut rest = &*text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (words, after) = rest.split_at(digits);
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let (number, after) = after.split_at(end);
        let value = number.trim_start_matches('0');
        // Numbers of more digits are larger.
        parts.push((words.to_owned(), value.len(), value.to_owned()));
        rest = after;
    }
    parts
}

/// The identity in the output of a sender's check.
pub fn checked_identity(output: &str) -> Option<String> {
    output.lines().find_map(|line| line.strip_prefix("identity ")).map(|identity| identity.trim().to_owned())
}

/// Prints the hints in the output of a sender's check.
pub fn show_hints(output: &str) {
    output
        .lines()
        .filter_map(|line| line.strip_prefix("hint "))
        .for_each(|hint| console::note(&format!("note: {hint}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_patterns_stand_for_their_files_in_natural_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in
            ["10.csv", "9.csv", "a2b1.csv", "a2b01.csv", "a10.csv", ".hidden", "_SUCCESS", "other.txt"]
        {
            std::fs::write(path(name), "").unwrap();
        }
        std::fs::create_dir(path("sub")).unwrap();
        let names = |given: &[PathBuf]| -> Vec<String> {
            let all = expand(given).unwrap();
            all.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
        };
        let all = ["9.csv", "10.csv", "a2b01.csv", "a2b1.csv", "a10.csv", "other.txt"];
        let mut found = names(&[folder.path().to_owned()]);
        // Equal numbers are in any order.
        found[2..4].sort_unstable();
        assert_eq!(found, all);
        assert_eq!(names(&[path("a*.csv")]).len(), 3);
        assert_eq!(names(&[path("10.csv"), path("[9]*.csv")]), ["10.csv", "9.csv"]);
        for name in ["9.csv.gz", "9.csv.zst"] {
            std::fs::write(path(name), "").unwrap();
            assert!(expand(&[folder.path().to_owned()]).unwrap_err().to_string().contains("9.csv twice"));
            std::fs::remove_file(path(name)).unwrap();
        }
        // A file with such a name is that file.
        std::fs::write(path("x[1].csv"), "").unwrap();
        assert_eq!(names(&[path("x[1].csv")]), ["x[1].csv"]);
        for nothing in [path("sub"), path("*.parquet")] {
            assert!(expand(&[nothing]).unwrap_err().to_string().contains("has no files"));
        }
        let stream = check_inputs(&["/dev/null".into(), path("9.csv")]).unwrap_err().to_string();
        assert!(stream.contains("can only be read alone"), "{stream}");
        check_inputs(&["/dev/null".into()]).unwrap();
    }
}
