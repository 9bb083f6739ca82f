//! A job's id: a hash of all that decides its results. The same command goes on with the job of its id, or finds that it is done.
//!
//! That is the input's identity, the options that decide results, the programs, and for a Python model its files, the
//! interpreter and the packages. What else a model uses, such as its environment or another service, is not covered.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use duct::cmd;
use walkdir::DirEntry;

use crate::interrupt;
use crate::python_module::{self, Module, is_same, module_of};

/// Of longer files, size and time count instead of the content; also once so many bytes have been read.
const LONGEST_READ: u64 = 4 << 20;
const MOST_READ: u64 = 256 << 20;
/// In a folder with more files than this, not all belong to a model; but its code does.
const MOST_FILES: usize = 10_000;
/// Names of parts.
const OPTIONS: &str = "the options or the input";
const INTERPRETER: &str = "the interpreter or its packages";
/// The hub only watches.
const DECIDING_PROGRAMS: [&str; 3] = ["sender", "classifier", "receiver"];
/// How long the interpreter may take to describe itself.
const PROBE_TIME: Duration = Duration::from_secs(60);
/// Prints where an interpreter finds a module, or an empty line; its version and path; and its packages.
const PROBE: &str = "\
import importlib.machinery, os, sys
spec = importlib.machinery.PathFinder.find_spec(sys.argv[1])
print(spec.origin if spec and spec.origin else '')
names = (name for entry in sys.path if os.path.isdir(entry) for name in os.listdir(entry))
print(sys.version, sys.executable, *sorted(name for name in set(names) if name.endswith(('.dist-info', '.egg-info', '.egg-link'))))
";

/// What decides a job's results.
pub(crate) struct Parts<'a> {
    /// Its input and options, in any form that differs when they do.
    pub(crate) options: String,
    /// The folder of the programs.
    pub(crate) programs: &'a Path,
    /// The program that reads the input's format, if it is no plain CSV.
    pub(crate) formats: Option<&'a Path>,
    /// As in `--model`.
    pub(crate) model: &'a str,
    pub(crate) python: &'a Path,
    /// Where a Python model's module may be, besides the current folder.
    pub(crate) python_path: OsString,
    /// Files and folders that do not belong to a model, even beside it.
    pub(crate) own: Vec<PathBuf>,
}

/// The parts of a job that decide its results: a name of each, and a hash of it.
pub(crate) type Deciding = BTreeMap<String, String>;

/// The id that follows from the parts: 16 hexadecimal digits.
pub(crate) fn id_of(parts: &Deciding) -> String {
    let lines: String = parts.iter().map(|(name, hash)| format!("{name}\n{hash}\n")).collect();
    protocol::hash::short_hex(lines.as_bytes())
}

/// The names of the parts that differ.
pub(crate) fn differences(one: &Deciding, other: &Deciding) -> Vec<String> {
    let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    names.into_iter().filter(|name| one.get(*name) != other.get(*name)).cloned().collect()
}

impl Parts<'_> {
    /// The options alone.
    pub(crate) fn only_options(&self) -> Deciding {
        Deciding::from([(OPTIONS.to_owned(), protocol::hash::short_hex(self.options.as_bytes()))])
    }

    /// With the parts from `before` the job, its interpreter is not asked again.
    ///
    /// # Errors
    /// A program cannot be read, or the interpreter does not answer.
    pub(crate) fn deciding(&self, before: Option<&Deciding>) -> anyhow::Result<Deciding> {
        let mut parts = self.only_options();
        let mut add = |name: &str, text: &[u8]| {
            parts.insert(name.to_owned(), protocol::hash::short_hex(text));
        };
        let usual = DECIDING_PROGRAMS.iter().map(|program| self.programs.join(program));
        for path in usual.chain(self.formats.map(Path::to_owned)) {
            let program = path.file_name().unwrap_or_default().display();
            let found = path.metadata().with_context(|| format!("reading {}", path.display()))?;
            // They are long, and change only as a whole.
            add(&format!("the program {program}"), &described(&path, &found, &mut 0));
        }
        let Some(name) = module_of(self.model) else { return Ok(parts) };
        let mut module = Module::find(name, &self.python_path).ok();
        match before {
            None => {
                let probed = self.probe(name)?;
                add(INTERPRETER, probed.as_bytes());
                let origin = probed.lines().next().unwrap_or_default();
                module = module.or_else(|| module_at(Path::new(origin)));
            }
            Some(before) => {
                let known = before.get(INTERPRETER).map(|hash| (INTERPRETER.to_owned(), hash.clone()));
                parts.extend(known);
                if module.is_none() {
                    // Only the interpreter knows where it is, and has said so before.
                    let known = before.keys().map(PathBuf::from).filter(|path| path.is_absolute());
                    describe_all(known, &mut parts)?;
                    return Ok(parts);
                }
            }
        }
        // Without a module, the job will say so.
        let files = module.map(|module| self.files(&module)).unwrap_or_default();
        describe_all(files.into_iter(), &mut parts)?;
        Ok(parts)
    }

    /// The interpreter's description; empty if it cannot be started, which the job will report.
    fn probe(&self, module: &str) -> anyhow::Result<String> {
        let top = module.split('.').next().unwrap_or_default();
        // As a word, since a path would be relative to the current folder.
        let probe = cmd!(self.python.as_os_str(), "-c", PROBE, top).env("PYTHONPATH", &self.python_path);
        let started = probe.stdin_null().stdout_capture().stderr_null().unchecked().start();
        let Ok(running) = started else { return Ok(String::new()) };
        let asking = || format!("asking {} for its packages", self.python.display());
        let Some(output) = running.wait_timeout(PROBE_TIME).with_context(asking)? else {
            // It may have ended by now.
            let _ = running.kill();
            return Err(anyhow!("no answer within {PROBE_TIME:?}")).with_context(asking);
        };
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The files that a module may need: its code first, and then others, up to a number.
    fn files(&self, module: &Module) -> Vec<PathBuf> {
        let start = module.surroundings();
        let is_own = |entry: &DirEntry| {
            let name = Some(entry.file_name());
            self.own.iter().any(|own| own.file_name() == name && is_same(own, entry.path()))
        };
        let is_code = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "py");
        let mut files = vec![module.path.clone()];
        if python_module::is_shared(start) {
            let beside = std::fs::read_dir(start).into_iter().flatten().flatten();
            files.extend(beside.map(|entry| entry.path()).filter(is_code));
        } else {
            let entries = python_module::walk(start, &module.folder, is_own).filter_map(Result::ok);
            let found = entries.filter(|entry| entry.file_type().is_file()).map(DirEntry::into_path);
            let (code, others): (Vec<_>, Vec<_>) = found.partition(is_code);
            files.extend(code);
            files.extend(others.into_iter().take(MOST_FILES));
        }
        files.retain(|path| path.is_file());
        files
    }
}

/// The module whose file an interpreter has found; `None` for an installed package, whose version counts.
fn module_at(origin: &Path) -> Option<Module> {
    let is_installed = origin.components().any(|part| part.as_os_str() == "site-packages");
    let folder = origin.parent().filter(|_| origin.is_file() && !is_installed)?;
    Some(match origin.file_name().is_some_and(|name| name == "__init__.py") {
        true => Module { folder: folder.parent()?.to_owned(), path: folder.to_owned() },
        false => Module { folder: folder.to_owned(), path: origin.to_owned() },
    })
}

/// Adds files to the parts.
fn describe_all(files: impl Iterator<Item = PathBuf>, parts: &mut Deciding) -> anyhow::Result<()> {
    let mut left = MOST_READ;
    for path in files {
        interrupt::check()?;
        // What cannot be read is not read by the model, either.
        if let Ok(metadata) = path.metadata() {
            let described = described(&path, &metadata, &mut left);
            parts.insert(path.display().to_string(), protocol::hash::short_hex(&described));
        }
    }
    Ok(())
}

/// A file's content, or what changes with a long content.
fn described(path: &Path, metadata: &Metadata, left: &mut u64) -> Vec<u8> {
    let (size, inode) = (metadata.len(), metadata.ino());
    let content = if size <= LONGEST_READ.min(*left) { std::fs::read(path).ok() } else { None };
    *left = left.saturating_sub(size);
    content.unwrap_or_else(|| {
        format!("{size}:{inode}:{}.{}", metadata.mtime(), metadata.mtime_nsec()).into_bytes()
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn an_id_changes_with_all_that_decides_results_and_with_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in DECIDING_PROGRAMS.into_iter().chain(["model.py", "model.bin", "in.csv"]) {
            std::fs::write(path(name), name).unwrap();
        }
        std::fs::create_dir(path("output")).unwrap();
        let id = |model: &str, options: &str| {
            let parts = Parts {
                options: options.to_owned(),
                programs: folder.path(),
                formats: None,
                model,
                python: Path::new("no such interpreter"),
                python_path: folder.path().as_os_str().to_owned(),
                own: vec![path("output"), path("in.csv")],
            };
            parts.deciding(None).unwrap()
        };
        let python = || id_of(&id("python:model:f", "a"));
        let first = python();
        assert_eq!(first.len(), 16);
        std::fs::write(path("in.csv"), "other").unwrap();
        std::fs::write(path("output/results.csv"), "").unwrap();
        assert_eq!(python(), first);
        let mut seen = vec![first, id_of(&id("native", "a")), id_of(&id("native", "b"))];
        let before = id("python:model:f", "a");
        for (name, content) in
            [("model.py", "new"), ("model.bin", "longer"), ("data", ""), ("sender", "another length")]
        {
            std::fs::write(path(name), content).unwrap();
            seen.push(python());
        }
        File::options().write(true).open(path("model.bin")).unwrap().set_len(LONGEST_READ + 1).unwrap();
        seen.push(python());
        let data = path("data").display().to_string();
        let changed = differences(&before, &id("python:model:f", "a"));
        assert!(changed.contains(&data) && changed.contains(&"the program sender".to_owned()), "{changed:?}");
        let all = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), all);
    }

    #[test]
    fn an_interpreter_on_the_path_describes_itself_and_finds_modules() {
        let folder = tempfile::tempdir().unwrap();
        let parts = |python_path: &Path| Parts {
            options: String::new(),
            programs: Path::new("/"),
            formats: None,
            model: "python:json",
            python: Path::new("python3"),
            python_path: python_path.as_os_str().to_owned(),
            own: Vec::new(),
        };
        let probed = parts(folder.path()).probe("json").unwrap();
        let (origin, rest) = probed.split_once('\n').unwrap();
        assert!(origin.ends_with("json/__init__.py") && rest.starts_with("3."), "{probed}");
        let module = module_at(Path::new(origin)).unwrap();
        assert!(parts(folder.path()).files(&module).iter().any(|path| path.ends_with("json/decoder.py")));
        std::fs::create_dir(folder.path().join("other.dist-info")).unwrap();
        assert_ne!(parts(folder.path()).probe("json").unwrap(), probed);
        assert_eq!(module_at(Path::new("/usr/lib/site-packages/x.py")).map(|module| module.path), None);
    }
}
