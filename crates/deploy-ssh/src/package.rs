//! The archives that are shipped. The same files give the same bytes, so that a host that has them is known by their hash.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// An archive on this machine.
#[derive(Debug, Clone)]
pub(super) struct Archive {
    /// The file.
    pub(super) path: PathBuf,
    /// Its SHA-256, in hexadecimal.
    pub(super) sha256: String,
    /// Its length in bytes.
    pub(super) length: u64,
}

/// Packs files, which are given by the names that they have in the archive.
pub(super) fn pack(files: &BTreeMap<String, PathBuf>, path: &Path) -> anyhow::Result<Archive> {
    let context = || format!("packing {}", path.display());
    let out = File::create(path).with_context(context)?;
    let mut zip = ZipWriter::new(BufWriter::new(out));
    for (name, source) in files {
        let context = || format!("packing {}", source.display());
        let mut file = File::open(source).with_context(context)?;
        let metadata = file.metadata().with_context(context)?;
        // Not the mode itself, which depends on the umask of whoever made the file.
        let mode = if metadata.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(6))
            .large_file(metadata.len() >= u64::from(u32::MAX))
            // The beginning of a zip's time.
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

/// A file as an archive.
pub(super) fn describe(path: &Path) -> anyhow::Result<Archive> {
    let context = || format!("reading {}", path.display());
    let mut file = File::open(path).with_context(context)?;
    let (hash, length) = protocol::hash::of_all(&mut file).with_context(context)?;
    Ok(Archive { path: path.to_owned(), sha256: protocol::hash::finish(hash), length })
}

/// Adds all files of a folder, and of those in it, under a name; without what Python makes for itself.
pub(super) fn add_folder(
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
            .with_context(|| format!("{} has a name that is not UTF-8", entry.path().display()))?;
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

/// The C library that programs need at least, as (2, minor); `None` if they need none.
pub(super) fn needed_glibc(programs: &[PathBuf]) -> anyhow::Result<Option<u32>> {
    const MARK: &[u8] = b"GLIBC_2.";
    let mut needed = None;
    for program in programs {
        let bytes = std::fs::read(program).with_context(|| format!("reading {}", program.display()))?;
        let mut rest = &bytes[..];
        while let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK) {
            rest = &rest[at + MARK.len()..];
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let minor = std::str::from_utf8(&rest[..digits]).ok().and_then(|digits| digits.parse().ok());
            needed = needed.max(minor);
        }
    }
    Ok(needed)
}

/// The minor version of the C library 2.x, as `getconf GNU_LIBC_VERSION` tells it; `None` for another C library.
pub(super) fn glibc_minor(version: &str) -> Option<u32> {
    version.trim().strip_prefix("glibc 2.").and_then(|minor| minor.parse().ok())
}

/// Whether a host with this C library, as `getconf GNU_LIBC_VERSION` tells it, can run them.
pub(super) fn check_glibc(needed: Option<u32>, there: &str) -> anyhow::Result<()> {
    let Some(needed) = needed else { return Ok(()) };
    let minor = glibc_minor(there);
    let minor = minor.with_context(|| {
        format!(
            "its C library ({:?}) is not the one that the programs are linked with; on this machine, rustup target add \
             {}-unknown-linux-musl lets cargo xtask up build programs that need none",
            there.trim(),
            std::env::consts::ARCH
        )
    })?;
    ensure!(
        minor >= needed,
        "its C library is version 2.{minor}, and the programs that are built here need 2.{needed}; on this machine, \
         rustup target add {}-unknown-linux-musl lets cargo xtask up build programs that need none",
        std::env::consts::ARCH
    );
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

    #[test]
    fn the_c_library_is_compared() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::write(&program, b"..GLIBC_2.17\0..GLIBC_2.34\0..GLIBC_2.4\0GLIBC_2.").unwrap();
        assert_eq!(needed_glibc(&[program]).unwrap(), Some(34));
        check_glibc(Some(34), "glibc 2.36\n").unwrap();
        check_glibc(None, "").unwrap();
        let error = check_glibc(Some(34), "glibc 2.31\n").unwrap_err().to_string();
        assert!(
            error
                .starts_with("its C library is version 2.31, and the programs that are built here need 2.34")
        );
        assert!(check_glibc(Some(34), "").is_err());
    }
}
