//! The Python module of the user's model, on this machine.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use protocol::result_files::published;
use walkdir::{DirEntry, WalkDir};

/// The module in `python:MODULE[:OBJECT]`; `None` for other models.
pub fn module_of(model: &str) -> Option<&str> {
    model.strip_prefix("python:")?.split(':').next()
}

/// A module that was found.
#[derive(Debug)]
pub struct Module {
    /// The folder in Python's path.
    pub folder: PathBuf,
    /// Its file, or the top folder of its package.
    pub path: PathBuf,
}

impl Module {
    /// Looks in the current folder, and in those of a PYTHONPATH.
    ///
    /// # Errors
    /// No such module.
    pub fn find(name: &str, python_path: &OsStr) -> anyhow::Result<Self> {
        let parts: Vec<&str> = name.split('.').collect();
        let is_identifier =
            |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_');
        ensure!(
            parts.iter().all(is_identifier),
            "{name:?} is not a valid name of a Python module; it should be like model or package.model"
        );
        let here = std::env::current_dir().context("finding the current folder")?;
        let others = std::env::split_paths(python_path).map(|folder| here.join(folder));
        let folders: Vec<PathBuf> = std::iter::once(here.clone()).chain(others).collect();
        let file = |folder: &Path| folder.join(parts.join("/")).with_extension("py");
        let package = |folder: &Path| folder.join(parts.join("/")).join("__init__.py");
        let Some(folder) = folders.iter().find(|folder| file(folder).exists() || package(folder).exists())
        else {
            let places: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            bail!(
                "there is no module {name} in {}; give the name of a module in this folder, or set PYTHONPATH",
                places.join(", ")
            );
        };
        // A package may import its other modules, so all of it belongs to the module.
        let is_file = parts.len() == 1 && !package(folder).exists();
        let path = if is_file { file(folder) } else { folder.join(parts[0]) };
        Ok(Self { folder: folder.clone(), path })
    }

    /// The file that lists the packages which it needs: `requirements.txt` in its package or beside it.
    pub fn requirements(&self) -> Option<PathBuf> {
        let folders = [&self.path, &self.folder];
        folders.map(|folder| folder.join("requirements.txt")).into_iter().find(|file| file.exists())
    }

    /// Where what it may need is: its package, or the folder of its file.
    pub fn surroundings(&self) -> &Path {
        if self.path.is_dir() { &self.path } else { &self.folder }
    }
}

/// What is in `start`, a folder of a module in `folder`, in the order of names. Leaves out environments, caches, hidden files,
/// results, and what `is_own` says is ours.
pub fn walk<'a>(
    start: &Path,
    folder: &'a Path,
    is_own: impl Fn(&DirEntry) -> bool + 'a,
) -> impl Iterator<Item = walkdir::Result<DirEntry>> + 'a {
    let entries = WalkDir::new(start).follow_links(true).sort_by_file_name().into_iter();
    entries.filter_entry(move |entry| entry.depth() == 0 || !is_unneeded(folder, entry) && !is_own(entry))
}

fn is_unneeded(folder: &Path, entry: &DirEntry) -> bool {
    let (path, name) = (entry.path(), entry.file_name());
    if name.as_encoded_bytes().starts_with(b".") || is_of_job(path) {
        return true;
    }
    if !entry.file_type().is_dir() {
        return false;
    }
    let has = |name: &str| path.join(name).exists();
    let is_cache = name == "__pycache__" || name == "node_modules" || has("CACHEDIR.TAG");
    let is_environment = has("pyvenv.cfg") || has("conda-meta");
    let is_crate = has("Cargo.toml") && !has("__init__.py");
    // With the results or logs of jobs.
    let is_ours = has(".lock") && (has("jobs") || has("run"));
    // The files above it are not for the model, and those of the model are found anyway.
    let is_above =
        || entry.path_is_symlink() && path.canonicalize().is_ok_and(|target| folder.starts_with(target));
    is_cache || is_environment || is_crate || is_ours || is_above()
}

/// Whether a job has made this, in a folder that has other files, too.
fn is_of_job(path: &Path) -> bool {
    let Some((name, folder)) = path.file_name().and_then(OsStr::to_str).zip(path.parent()) else {
        return false;
    };
    let is_ours = ["jobs", "run", "latest"].contains(&name)
        || name.ends_with(".log")
        || published().any(|published| published == name);
    is_ours && folder.join(".lock").exists()
}

/// Whether this is the home folder, the root, or the folder for temporary files, where not everything belongs to a model.
pub fn is_shared(folder: &Path) -> bool {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let shared = [home, Some(PathBuf::from("/")), Some(std::env::temp_dir())];
    shared.iter().flatten().any(|shared| is_same(shared, folder))
}

/// Whether two existing paths are of the same file or folder.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    one == other || real(one).is_some_and(|one| Some(one) == real(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_name_their_module() {
        assert_eq!(module_of("python:a.b:f"), Some("a.b"));
        assert_eq!(module_of("python:a"), Some("a"));
        assert_eq!(module_of("native"), None);
        let error = |name: &str| Module::find(name, OsStr::new("")).unwrap_err().to_string();
        assert!(error("../a").contains("is not a valid name of a Python module"));
        let error = error("no_such_module_anywhere");
        assert!(error.contains("set PYTHONPATH"), "{error}");
    }
}
