//! What a Python box needs on a host: the user's module, and packages.
//!
//! Packages are chosen here, once, for the Python and the C library of the hosts, and are shipped. So hosts need no way to
//! a package index, no pip and no venv; and all have the very same versions, without which the same rows might give
//! different results on different hosts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::package::{self, Archive};
use crate::scratch;
use deploy::{console, project};

/// The oldest C library that there are packages for.
const OLDEST_GLIBC: u32 = 17;
/// A module's folder that is larger than this is hardly meant.
const MOST_MODULE_BYTES: u64 = 200 << 20;

/// The module of `python:MODULE[:FUNCTION]`; `None` for another box.
pub(super) fn module_of(classifier: &str) -> Option<&str> {
    classifier.strip_prefix("python:")?.split(':').next()
}

/// Adds the user's module to the application, and gives the folder that it lies in.
pub(super) fn add_module(files: &mut BTreeMap<String, PathBuf>, module: &str) -> anyhow::Result<PathBuf> {
    let parts: Vec<&str> = module.split('.').collect();
    let good = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_');
    ensure!(parts.iter().all(good), "{module:?} is no name of a Python module");
    let path = std::env::var_os("PYTHONPATH").unwrap_or_default();
    let here = std::env::current_dir().context("asking for the current folder")?;
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
    // A package may import its other modules, so all of it goes along.
    let top = root.join(parts[0]);
    if top.is_dir() {
        package::add_folder(files, &top, &format!("python/{}", parts[0]))?;
    } else {
        files.insert(format!("python/{}.py", parts[0]), file(root));
    }
    let sizes = files.values().filter(|path| path.starts_with(&top)).filter_map(|path| path.metadata().ok());
    let size: u64 = sizes.map(|metadata| metadata.len()).sum();
    ensure!(
        size <= MOST_MODULE_BYTES,
        "the package {} has {}, which is too much to ship; put the module into a folder of its own",
        top.display(),
        console::bytes(size)
    );
    let beside = if top.is_dir() { top } else { root.clone() };
    Ok(beside)
}

/// What a host has, as far as packages depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Platform {
    /// Python's version, such as 3.11.
    pub(super) python: String,
    /// The processor, as `uname -m` tells it.
    pub(super) processor: String,
    /// The minor version of the C library 2.x.
    pub(super) glibc: u32,
}

/// The archive of the packages that the requirements ask for; made anew only when something differs.
pub(super) fn packages(
    requirements: Option<&Path>,
    beside: &Path,
    platform: &Platform,
) -> anyhow::Result<Archive> {
    let found = beside.join("requirements.txt");
    let file = requirements.map(Path::to_owned).or_else(|| found.exists().then_some(found));
    let text = match &file {
        Some(file) => std::fs::read_to_string(file)
            .with_context(|| format!("reading the requirements {}", file.display()))?,
        None => "pandas\n".to_owned(),
    };
    let Platform { python, processor, glibc } = platform;
    let key = protocol::hash::short_hex(format!("{text}\0{python}\0{processor}\0{glibc}").as_bytes());
    let cache = project::root()?.join("target/packages");
    project::make_folder(&cache)?;
    let archive = cache.join(format!("{key}.zip"));
    if archive.exists() {
        return package::describe(&archive);
    }
    let temporary = scratch::new_folder("packages")?;
    let folder = temporary.join("packages");
    let named = file.as_ref().map_or_else(|| "pandas".to_owned(), |file| file.display().to_string());
    console::note(&format!("choosing Python packages for Python {python} on {processor}: {named}"));
    let list = match file {
        // Where it lies, since it may name others beside it.
        Some(file) => file,
        None => {
            let list = temporary.join("requirements.txt");
            std::fs::write(&list, &text).with_context(|| format!("writing {}", list.display()))?;
            list
        }
    };
    let mut args: Vec<String> =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
            .map(str::to_owned)
            .to_vec();
    args.extend(
        ["--only-binary=:all:", "--implementation", "cp", "--python-version", python].map(str::to_owned),
    );
    for minor in (OLDEST_GLIBC..=*glibc).rev() {
        args.extend(["--platform".to_owned(), format!("manylinux_2_{minor}_{processor}")]);
    }
    args.extend(["--platform".to_owned(), format!("manylinux2014_{processor}")]);
    args.extend(["--target".to_owned(), folder.display().to_string()]);
    args.extend(["--requirement".to_owned(), list.display().to_string()]);
    let pip = duct::cmd("python3", args).stderr_to_stdout().stdout_capture().unchecked().run();
    let pip = pip.context(
        "starting python3; to choose packages for a Python box, this machine needs Python 3 with pip (on Debian and \
         Ubuntu: apt-get install python3-pip)",
    )?;
    ensure!(
        pip.status.success(),
        "pip, which should choose packages for Python {python} on {processor} with C library 2.{glibc}, says:\n{}",
        String::from_utf8_lossy(&pip.stdout).trim()
    );
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry.with_context(|| format!("reading {}", folder.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            package::add_folder(&mut files, &entry.path(), &name)?;
        } else {
            files.insert(name, entry.path());
        }
    }
    let packed = package::pack(&files, &temporary.join("packages.zip"))?;
    // Under a name of its own at first: another `up` may be making the same.
    let new = tempfile::NamedTempFile::new_in(&cache).context("making a file for packages")?;
    std::fs::copy(&packed.path, new.path()).with_context(|| format!("writing {}", new.path().display()))?;
    new.persist(&archive).with_context(|| format!("renaming a file to {}", archive.display()))?;
    Ok(Archive { path: archive, ..packed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_named_in_boxes() {
        assert_eq!(module_of("python:a.b:f"), Some("a.b"));
        assert_eq!(module_of("python:a"), Some("a"));
        assert_eq!(module_of("native"), None);
        let mut files = BTreeMap::new();
        assert!(
            add_module(&mut files, "../a").unwrap_err().to_string().contains("is no name of a Python module")
        );
        let error = add_module(&mut files, "no_such_module_anywhere").unwrap_err().to_string();
        assert!(error.contains("set PYTHONPATH"), "{error}");
    }
}
