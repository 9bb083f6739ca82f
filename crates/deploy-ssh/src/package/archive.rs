//! Archives to ship. The same files give the same bytes, so that a hash tells whether a host already has them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// An archive on this machine, or a file that is shipped like one.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    pub(crate) path: PathBuf,
    /// In hexadecimal.
    pub(crate) sha256: String,
    /// In bytes.
    pub(crate) length: u64,
}

/// Packs files to a zip; `files` maps their names in the archive to their paths.
pub(crate) fn pack(files: &BTreeMap<String, PathBuf>, path: &Path) -> anyhow::Result<Archive> {
    let context = || format!("packing {}", path.display());
    let out = File::create(path).with_context(context)?;
    let mut zip = ZipWriter::new(BufWriter::new(out));
    for (name, source) in files {
        let context = || format!("packing {}", source.display());
        let mut file = File::open(source).with_context(context)?;
        let metadata = file.metadata().with_context(context)?;
        // Not the mode itself, which depends on the umask of the user who created the file.
        let mode = if metadata.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            // Half the time of level 6, for 4 % more bytes.
            .compression_level(Some(4))
            .large_file(metadata.len() >= u64::from(u32::MAX))
            // The earliest time that a zip can hold.
            .last_modified_time(zip::DateTime::default())
            .unix_permissions(mode);
        zip.start_file(name.as_str(), options).with_context(context)?;
        std::io::copy(&mut file, &mut zip).with_context(context)?;
    }
    let mut out = zip.finish().with_context(context)?;
    out.flush().with_context(context)?;
    drop(out);
    describe(path)
}

/// Hashes and measures a file.
pub(crate) fn describe(path: &Path) -> anyhow::Result<Archive> {
    let context = || format!("reading {}", path.display());
    let mut file = File::open(path).with_context(context)?;
    let (hash, length) = protocol::hash::of_all(&mut file).with_context(context)?;
    Ok(Archive { path: path.to_owned(), sha256: protocol::hash::finish(hash), length })
}

/// Adds all files below a folder, without Python's caches, under a name in the archive.
pub(crate) fn add_folder(
    files: &mut BTreeMap<String, PathBuf>,
    folder: &Path,
    name: &str,
) -> anyhow::Result<()> {
    let context = || format!("reading the folder {}", folder.display());
    for entry in std::fs::read_dir(folder).with_context(context)? {
        let entry = entry.with_context(context)?;
        let file = entry.file_name();
        let file = file
            .to_str()
            .with_context(|| format!("{} has a name that is not UTF-8; rename it", entry.path().display()))?;
        if ["__pycache__", ".git", ".venv"].contains(&file) {
            continue;
        }
        let name = format!("{name}/{file}");
        if entry.path().is_dir() {
            add_folder(files, &entry.path(), &name)?;
        } else {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, mode: u32| {
            let folder = dir.path().join(name);
            std::fs::create_dir_all(folder.join("sub/__pycache__")).unwrap();
            std::fs::write(folder.join("sub/module.py"), "x = 1\n").unwrap();
            std::fs::write(folder.join("sub/__pycache__/module.pyc"), name).unwrap();
            std::fs::write(folder.join("tool"), "tool").unwrap();
            std::fs::set_permissions(folder.join("tool"), std::fs::Permissions::from_mode(mode)).unwrap();
            let mut files = BTreeMap::from([("tool".to_owned(), folder.join("tool"))]);
            add_folder(&mut files, &folder.join("sub"), "python/sub").unwrap();
            assert_eq!(files.keys().collect::<Vec<_>>(), ["python/sub/module.py", "tool"]);
            pack(&files, &dir.path().join(format!("{name}.zip"))).unwrap()
        };
        let (one, other) = (make("one", 0o700), make("other", 0o755));
        assert_eq!((&one.sha256, one.length), (&other.sha256, other.length));
        assert_ne!(make("third", 0o644).sha256, one.sha256);
    }
}
