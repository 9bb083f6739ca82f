//! The files that are shipped with a Python module: what is beside it, or what the user names.
//!
//! A model often needs data, such as a fitted pipeline. So a module takes its whole folder along, and a package its top folder.
//! Left out are environments, caches, hidden files and private keys, which may be secret, and our own files, which differ after
//! each job.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail, ensure};
use deploy::console;
use deploy::python_module::{self, Module, is_same};
use walkdir::DirEntry;

use crate::inventory::read_hosts;

/// More than this is probably not for the model, such as the input.
const MOST_BYTES: u64 = 200 << 20;
/// How many of the largest files an error names.
const NAMED: usize = 3;
/// How much of a file is searched for a private key, in bytes.
const KEY_BYTES: u64 = 64 << 10;
const ADVICE: &str = "name what the model needs with --include, such as --include model.joblib, and nothing else beside it is shipped";

/// What to ship with a module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// Only these files and folders beside the module, by absolute paths; empty for everything.
    pub(crate) include: Vec<PathBuf>,
    /// Files and folders that are never shipped, by absolute paths.
    pub(crate) own: Vec<PathBuf>,
}

/// The files that belong to a module.
pub(super) struct Found {
    /// The folder in Python's path. Names are relative to it.
    folder: PathBuf,
    files: Vec<FoundFile>,
}

struct FoundFile {
    name: String,
    path: PathBuf,
    bytes: u64,
}

impl Selection {
    /// What is shipped with a module.
    ///
    /// # Errors
    /// The files that the user has not named have more than [`MOST_BYTES`]; a file cannot be read; or a named file is not in
    /// the folder.
    pub(super) fn find(&self, Module { folder, path }: &Module) -> anyhow::Result<Found> {
        let mut found = Found { folder: folder.to_owned(), files: Vec::new() };
        if path.is_dir() {
            self.add(&mut found, path)?;
            found.ensure_moderate(path, "move what the model does not need out of the package")?;
        } else if self.include.is_empty() {
            ensure_own_folder(folder)?;
            self.add(&mut found, folder)?;
            found.ensure_moderate(folder, ADVICE)?;
        } else {
            self.add(&mut found, path)?;
        }
        found.remove_private_keys()?;
        for path in &self.include {
            self.add(&mut found, &inside(path, folder)?)?;
        }
        Ok(found)
    }

    /// Adds the files in `start`.
    fn add(&self, found: &mut Found, start: &Path) -> anyhow::Result<()> {
        let folder = found.folder.clone();
        for entry in python_module::walk(start, &folder, |entry| self.is_own(entry)) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if is_absent(&error) => continue,
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("reading the folder {}; {ADVICE}", start.display()));
                }
            };
            if !entry.file_type().is_file() {
                continue;
            }
            let name = entry.path().strip_prefix(&folder).unwrap_or(entry.path());
            let Some(name) = name.to_str() else {
                bail!("{} has a name that is not UTF-8; rename it", entry.path().display());
            };
            let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
            found.files.push(FoundFile { name: name.to_owned(), path: entry.path().to_owned(), bytes });
        }
        Ok(())
    }

    /// Whether this is a file of ours.
    fn is_own(&self, entry: &DirEntry) -> bool {
        let (path, name) = (entry.path(), entry.file_name());
        let is_toml = || path.extension().is_some_and(|extension| extension == "toml");
        self.own.iter().any(|own| own.file_name() == Some(name) && is_same(own, path))
            || entry.file_type().is_file() && is_toml() && read_hosts(path).is_ok()
    }
}

impl Found {
    /// Adds them to the application's files, by their names in the archive.
    pub(super) fn add_to(self, files: &mut BTreeMap<String, PathBuf>) {
        files.extend(self.files.into_iter().map(|file| (format!("python/{}", file.name), file.path)));
    }

    /// Tells the user what is shipped, if it is more than the module's file.
    pub(super) fn announce(&self) {
        if self.files.len() > 1 {
            console::note(&format!(
                "{} files of {} are shipped with the model: {}",
                self.files.len(),
                self.folder.display(),
                console::bytes(self.bytes())
            ));
        }
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Checks that the files in `folder` are not too large.
    fn ensure_moderate(&mut self, folder: &Path, advice: &str) -> anyhow::Result<()> {
        if self.bytes() <= MOST_BYTES {
            return Ok(());
        }
        self.files.sort_by_key(|file| std::cmp::Reverse(file.bytes));
        let largest = self.files.iter().take(NAMED);
        let largest = largest.map(|file| format!("{} ({})", file.name, console::bytes(file.bytes)));
        bail!(
            "the files in {} would be shipped with the model, and take {}, while {} are allowed; the largest are {}; {advice}",
            folder.display(),
            console::bytes(self.bytes()),
            console::bytes(MOST_BYTES),
            largest.collect::<Vec<_>>().join(", ")
        )
    }

    fn remove_private_keys(&mut self) -> anyhow::Result<()> {
        let mut kept = Vec::new();
        for file in std::mem::take(&mut self.files) {
            match is_private_key(&file.path) {
                Ok(true) => {}
                Ok(false) => kept.push(file),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("reading {}; {ADVICE}", file.path.display()));
                }
            }
        }
        self.files = kept;
        Ok(())
    }
}

/// Refuses a module in the home folder, the root, or the folder for temporary files: all of it would be shipped.
fn ensure_own_folder(folder: &Path) -> anyhow::Result<()> {
    ensure!(
        !python_module::is_shared(folder),
        "the model is in {}, and everything there would be shipped; move the model to a folder of its own, or {ADVICE}",
        folder.display()
    );
    Ok(())
}

/// A named path as one in `folder`, even if the folder is reached through a link.
fn inside(path: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let named = cleaned(path);
    ensure!(named.exists(), "{} is to be shipped, and does not exist", path.display());
    if named.starts_with(folder) {
        return Ok(named);
    }
    let real = |path: &Path| path.canonicalize().with_context(|| format!("finding {}", path.display()));
    // Its own name stays, even if it is a link.
    let (parent, name) = (named.parent().unwrap_or(&named), named.file_name().unwrap_or_default());
    match real(parent)?.join(name).strip_prefix(real(folder)?) {
        Ok(name) => Ok(folder.join(name)),
        Err(_) => bail!(
            "{} is to be shipped, but is not in the model's folder {}, so the model would not find it on the hosts; move it there",
            path.display(),
            folder.display()
        ),
    }
}

/// An absolute path without `.` and `..`.
fn cleaned(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(cleaned.pop()),
            component => cleaned.push(component),
        }
    }
    cleaned
}

/// Whether a link leads nowhere, or to a folder above it, whose files are found anyway.
fn is_absent(error: &walkdir::Error) -> bool {
    let kind = error.io_error().map(std::io::Error::kind);
    error.loop_ancestor().is_some() || kind == Some(ErrorKind::NotFound)
}

fn is_private_key(path: &Path) -> std::io::Result<bool> {
    let mut text = Vec::new();
    File::open(path)?.take(KEY_BYTES).read_to_end(&mut text)?;
    Ok(text.split(|&byte| byte == b'\n').any(|line| {
        line.starts_with(b"-----BEGIN ") && String::from_utf8_lossy(line).contains("PRIVATE KEY")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A folder with these files; the text of each is its name.
    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        folder
    }

    fn shipped(selection: &Selection, folder: &Path, module: &str) -> anyhow::Result<Vec<String>> {
        let mut files = BTreeMap::new();
        let module = Module { folder: folder.to_owned(), path: folder.join(module) };
        selection.find(&module)?.add_to(&mut files);
        Ok(files.into_keys().map(|name| name.strip_prefix("python/").unwrap().to_owned()).collect())
    }

    fn include(folder: &Path, names: &[&str]) -> Selection {
        Selection { include: names.iter().map(|name| folder.join(name)).collect(), ..Selection::default() }
    }

    #[test]
    fn everything_that_a_model_may_need_is_shipped_and_nothing_else() {
        let folder = folder(&[
            "model.py",
            "model.joblib",
            "model/weights.bin",
            "helpers/a.py",
            "helpers/__pycache__/a.pyc",
            "native/__init__.py",
            "native/Cargo.toml",
            "crate/Cargo.toml",
            "data/words.txt",
            "config.toml",
            ".env",
            ".git/config",
            "venv/pyvenv.cfg",
            "venv/lib/b.py",
            "conda/conda-meta/history",
            "target/CACHEDIR.TAG",
            "target/program",
            "results/.lock",
            "results/jobs/1/results.csv",
            "logs/.lock",
            "logs/run/token",
            "data/.lock",
            "data/latest",
            "data/receiver.log",
            "data/results.csv",
            "inventory.toml",
        ]);
        let path = folder.path();
        std::fs::write(path.join("hosts.toml"), "[[host]]\nname = \"a\"\naddress = \"192.0.2.1\"\n").unwrap();
        let key = "-----BEGIN EC PARAMETERS-----\nx\n-----BEGIN EC PRIVATE KEY-----\nsecret\n";
        std::fs::write(path.join("key"), key).unwrap();
        std::fs::write(path.join("ca.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        symlink(path, path.join("data/loop")).unwrap();
        symlink("../..", path.join("data/above")).unwrap();
        symlink("nowhere", path.join("data/broken")).unwrap();
        symlink("../model.py", path.join("data/link.py")).unwrap();
        let selection = Selection { own: vec![path.join("inventory.toml")], ..Selection::default() };
        assert_eq!(
            shipped(&selection, path, "model.py").unwrap(),
            [
                "ca.pem",
                "config.toml",
                "data/link.py",
                "data/words.txt",
                "helpers/a.py",
                "model.joblib",
                "model.py",
                "model/weights.bin",
                "native/Cargo.toml",
                "native/__init__.py",
            ]
        );
    }

    #[test]
    fn a_package_takes_its_top_folder_along_and_what_is_named() {
        let folder =
            folder(&["package/__init__.py", "package/data.bin", "model.joblib", "data/.hidden", "in.csv"]);
        let path = folder.path();
        let of_package = ["package/__init__.py", "package/data.bin"];
        assert_eq!(shipped(&Selection::default(), path, "package").unwrap(), of_package);
        let named = include(path, &["./data/../model.joblib", "data/.hidden"]);
        assert_eq!(
            shipped(&named, path, "package").unwrap(),
            [&["data/.hidden", "model.joblib"], &of_package[..]].concat()
        );
        let error = |names: &[&str]| shipped(&include(path, names), path, "package").unwrap_err().to_string();
        assert!(error(&["no-such"]).contains("no-such is to be shipped, and does not exist"));
        assert!(
            error(&["/etc/passwd"])
                .contains("/etc/passwd is to be shipped, but is not in the model's folder")
        );
    }

    #[test]
    fn named_files_keep_their_names_and_may_be_secret() {
        let folder = folder(&["v3.joblib", "model.py"]);
        let (path, link) = (folder.path(), tempfile::tempdir().unwrap());
        symlink("v3.joblib", path.join("latest.joblib")).unwrap();
        std::fs::write(path.join("client.key"), "-----BEGIN PRIVATE KEY-----\n").unwrap();
        let link = link.path().join("link");
        symlink(path, &link).unwrap();
        for folder in [path, &link] {
            assert_eq!(
                shipped(&include(folder, &["latest.joblib", "client.key"]), path, "model.py").unwrap(),
                ["client.key", "latest.joblib", "model.py"]
            );
        }
    }

    #[test]
    fn too_much_is_refused_with_the_largest_files() {
        let folder = folder(&["model.py", "small", "middle", "large", "huge"]);
        for (name, mebibytes) in [("small", 1), ("middle", 20), ("large", 80), ("huge", 150)] {
            let file = File::options().write(true).open(folder.path().join(name)).unwrap();
            file.set_len(mebibytes << 20).unwrap();
        }
        let error = shipped(&Selection::default(), folder.path(), "model.py").unwrap_err().to_string();
        let largest = "the largest are huge (150.00 MiB), large (80.00 MiB), middle (20.00 MiB); name what";
        assert!(error.contains(largest), "{error}");
        assert_eq!(
            shipped(&include(folder.path(), &["huge"]), folder.path(), "model.py").unwrap(),
            ["huge", "model.py"]
        );
        let error = ensure_own_folder(&std::env::temp_dir()).unwrap_err().to_string();
        assert!(error.contains("move the model to a folder of its own"), "{error}");
    }
}
