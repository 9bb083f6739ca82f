//! Unpacks an archive to a folder named after its hash, and points a link to it. The link is switched atomically, so an
//! application is never half replaced.

use std::fs::File;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use files::remove_if_there;
use zip::ZipArchive;

/// Checks and unpacks an archive, and points the link to the result. Then removes the archive and the link's earlier target.
///
/// # Errors
/// The archive has another hash or a path that leads out of it, or a file cannot be written.
pub fn unpack(folder: &Path, archive: &str, sha256: &str, link: &str) -> anyhow::Result<()> {
    let archive = folder.join(archive);
    let versions = folder.join("versions");
    let target = versions.join(format!("{link}-{sha256}"));
    if !target.exists() {
        let new = versions.join(format!("{link}.new"));
        if new.exists() {
            std::fs::remove_dir_all(&new).with_context(|| format!("removing {}", new.display()))?;
        }
        if let Err(error) = extract(&archive, sha256, &new) {
            // Both are useless now, and may fill the disk. If they cannot be removed, the next try reports that.
            let _ = std::fs::remove_dir_all(&new);
            let _ = std::fs::remove_file(&archive);
            return Err(error.context(format!("unpacking {}", archive.display())));
        }
        std::fs::rename(&new, &target).with_context(|| format!("renaming {}", new.display()))?;
    }
    let new_link = folder.join(format!("{link}.new"));
    remove_if_there(&new_link)?;
    symlink(Path::new("versions").join(format!("{link}-{sha256}")), &new_link)
        .and_then(|()| std::fs::rename(&new_link, folder.join(link)))
        .with_context(|| format!("linking {link} to {}", target.display()))?;
    remove_if_there(&archive)?;
    remove_others(&versions, link, &target)
}

/// The hash in the name of a link's target; `None` if there is no link.
pub fn installed(folder: &Path, link: &str) -> Option<String> {
    let target = std::fs::read_link(folder.join(link)).ok()?;
    let name = target.file_name()?.to_str()?;
    name.strip_prefix(link)?.strip_prefix('-').map(str::to_owned)
}

fn extract(archive: &Path, sha256: &str, into: &Path) -> anyhow::Result<()> {
    let mut file = File::open(archive).context("opening it")?;
    let found = hash(&mut file).context("reading it")?;
    ensure!(
        found == sha256,
        "its SHA-256 is {found}, and {sha256} was expected; it is incomplete: run cargo xtask up again"
    );
    let mut zip = ZipArchive::new(file).context("parsing it")?;
    // An archive may be empty.
    std::fs::create_dir_all(into).with_context(|| format!("creating the folder {}", into.display()))?;
    for i in 0..zip.len() {
        let mut entry = zip.by_index(i).context("parsing it")?;
        let name: PathBuf = entry.enclosed_name().context("it has a file whose path leads out of it")?;
        let path = into.join(&name);
        let context = || format!("writing {}", path.display());
        let parent = path.parent().with_context(context)?;
        std::fs::create_dir_all(parent)
            .with_context(|| format!("creating the folder {}", parent.display()))?;
        if entry.is_dir() {
            std::fs::create_dir_all(&path).with_context(context)?;
            continue;
        }
        let mut out = File::create(&path).with_context(context)?;
        io::copy(&mut entry, &mut out).with_context(context)?;
        if let Some(mode) = entry.unix_mode() {
            out.set_permissions(std::fs::Permissions::from_mode(mode & 0o777)).with_context(context)?;
        }
    }
    Ok(())
}

fn hash(file: &mut File) -> io::Result<String> {
    protocol::hash::of_all(file).map(|(hash, _)| protocol::hash::finish(hash))
}

fn remove_others(versions: &Path, link: &str, target: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(versions).with_context(|| format!("reading {}", versions.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("reading {}", versions.display()))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path != target && name.starts_with(&format!("{link}-")) {
            std::fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    fn archive(folder: &Path, files: &[(&str, &str)]) -> String {
        let mut zip = ZipWriter::new(File::create(folder.join("app.zip")).unwrap());
        for (name, text) in files {
            zip.start_file(*name, SimpleFileOptions::default().unix_permissions(0o755)).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
        hash(&mut File::open(folder.join("app.zip")).unwrap()).unwrap()
    }

    #[test]
    fn unpacking_switches_the_link_and_removes_the_older_version() {
        let dir = tempfile::tempdir().unwrap();
        let first = archive(dir.path(), &[("tool", "one"), ("deep/er/file", "x")]);
        unpack(dir.path(), "app.zip", &first, "app").unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("app/tool")).unwrap(), "one");
        assert_eq!(std::fs::read_to_string(dir.path().join("app/deep/er/file")).unwrap(), "x");
        let mode = std::fs::metadata(dir.path().join("app/tool")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        let second = archive(dir.path(), &[("tool", "two")]);
        unpack(dir.path(), "app.zip", &second, "app").unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("app/tool")).unwrap(), "two");
        assert_eq!(installed(dir.path(), "app"), Some(second));
        assert_eq!(std::fs::read_dir(dir.path().join("versions")).unwrap().count(), 1);
        assert!(!dir.path().join("app.zip").exists());
        let empty = archive(dir.path(), &[]);
        unpack(dir.path(), "app.zip", &empty, "app").unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("app")).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_archive_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let first = archive(dir.path(), &[("tool", "one")]);
        unpack(dir.path(), "app.zip", &first, "app").unwrap();
        std::fs::write(dir.path().join("app.zip"), "half of").unwrap();
        let error = format!("{:#}", unpack(dir.path(), "app.zip", "00ff", "app").unwrap_err());
        assert!(error.contains("00ff was expected; it is incomplete"), "{error}");
        assert_eq!(installed(dir.path(), "app"), Some(first));
        let outside = archive(dir.path(), &[("../evil", "x")]);
        assert!(unpack(dir.path(), "app.zip", &outside, "app").is_err());
        assert!(!dir.path().join("versions/evil").exists() && !dir.path().join("evil").exists());
    }
}
