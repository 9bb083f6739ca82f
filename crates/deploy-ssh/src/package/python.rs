//! The Python module of the user's model.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::beside::{Found, Selection};

/// The module in `python:MODULE[:OBJECT]`; `None` for other models.
pub(crate) fn module_of(model: &str) -> Option<&str> {
    model.strip_prefix("python:")?.split(':').next()
}

/// The user's module on this machine.
pub(crate) struct Module {
    /// The folder in Python's path.
    folder: PathBuf,
    /// Its file, or the top folder of its package.
    path: PathBuf,
}

impl Module {
    /// # Errors
    /// No such module in this folder or in PYTHONPATH.
    pub(crate) fn find(name: &str) -> anyhow::Result<Self> {
        let parts: Vec<&str> = name.split('.').collect();
        let is_identifier =
            |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_');
        ensure!(
            parts.iter().all(is_identifier),
            "{name:?} is not a valid name of a Python module; it should be like model or package.model"
        );
        let path = std::env::var_os("PYTHONPATH").unwrap_or_default();
        let here = std::env::current_dir().context("finding the current folder")?;
        let others = std::env::split_paths(&path).map(|folder| here.join(folder));
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

    /// The module, and what is shipped with it.
    ///
    /// # Errors
    /// Those of [`Selection::find`].
    pub(super) fn files(&self, selection: &Selection) -> anyhow::Result<Found> {
        selection.find(&self.folder, &self.path)
    }

    /// The file that lists the packages which it needs: `requirements.txt` in its package or beside it.
    pub(crate) fn requirements(&self) -> Option<PathBuf> {
        let folders = [&self.path, &self.folder];
        folders.map(|folder| folder.join("requirements.txt")).into_iter().find(|file| file.exists())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_name_their_module() {
        assert_eq!(module_of("python:a.b:f"), Some("a.b"));
        assert_eq!(module_of("python:a"), Some("a"));
        assert_eq!(module_of("native"), None);
        let error = |name: &str| Module::find(name).err().unwrap().to_string();
        assert!(error("../a").contains("is not a valid name of a Python module"));
        let error = error("no_such_module_anywhere");
        assert!(error.contains("set PYTHONPATH"), "{error}");
    }
}
