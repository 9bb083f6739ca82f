//! The Python module of the user's model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use deploy::console;

use super::archive;

/// A larger folder is probably a mistake, such as a home folder.
const MAX_MODULE_BYTES: u64 = 200 << 20;

/// The module in `python:MODULE[:FUNCTION]`; `None` for other models.
pub(crate) fn module_of(model: &str) -> Option<&str> {
    model.strip_prefix("python:")?.split(':').next()
}

/// Adds the user's module to the application's files; returns the folder that has it.
///
/// # Errors
/// No such module in this folder or in PYTHONPATH, or a package that is too large to ship.
pub(crate) fn add_module(files: &mut BTreeMap<String, PathBuf>, module: &str) -> anyhow::Result<PathBuf> {
    let parts: Vec<&str> = module.split('.').collect();
    let is_identifier =
        |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_');
    ensure!(
        parts.iter().all(is_identifier),
        "{module:?} is not a valid name of a Python module; it should be like model or package.model"
    );
    let path = std::env::var_os("PYTHONPATH").unwrap_or_default();
    let here = std::env::current_dir().context("finding the current folder")?;
    let roots = std::iter::once(here).chain(std::env::split_paths(&path));
    let file = |root: &Path| root.join(parts.join("/")).with_extension("py");
    let package = |root: &Path| root.join(parts.join("/")).join("__init__.py");
    let roots: Vec<PathBuf> = roots.collect();
    let Some(root) = roots.iter().find(|root| file(root).exists() || package(root).exists()) else {
        let places: Vec<_> = roots.iter().map(|root| root.display().to_string()).collect();
        bail!(
            "there is no module {module} in {}; give the name of a module in this folder, or set PYTHONPATH",
            places.join(", ")
        );
    };
    // A package may import its other modules, so all of it is shipped.
    let top = root.join(parts[0]);
    if top.is_dir() {
        archive::add_folder(files, &top, &format!("python/{}", parts[0]))?;
    } else {
        files.insert(format!("python/{}.py", parts[0]), file(root));
    }
    let sizes = files.values().filter(|path| path.starts_with(&top)).filter_map(|path| path.metadata().ok());
    let size: u64 = sizes.map(|metadata| metadata.len()).sum();
    ensure!(
        size <= MAX_MODULE_BYTES,
        "the package {} has {}, which is too much to ship; move the module to a folder of its own",
        top.display(),
        console::bytes(size)
    );
    Ok(if top.is_dir() { top } else { root.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_name_their_module() {
        assert_eq!(module_of("python:a.b:f"), Some("a.b"));
        assert_eq!(module_of("python:a"), Some("a"));
        assert_eq!(module_of("native"), None);
        let mut files = BTreeMap::new();
        assert!(
            add_module(&mut files, "../a")
                .unwrap_err()
                .to_string()
                .contains("is not a valid name of a Python module")
        );
        let error = add_module(&mut files, "no_such_module_anywhere").unwrap_err().to_string();
        assert!(error.contains("set PYTHONPATH"), "{error}");
    }
}
