//! Whether programs are still what cargo made of their sources.
//!
//! Cargo knows that itself, but takes 0.15 s to say so: as long as a short job. So when it has built programs, the state of these
//! and of all that they were built from is noted, and cargo is asked again when anything of that is another.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Programs that cargo builds.
pub(super) struct Build<'a> {
    /// Its words.
    pub(super) words: &'a [&'a str],
    pub(super) programs: &'a [&'a str],
    /// The project's folder.
    pub(super) root: &'a Path,
    /// The folder that the programs lie in.
    pub(super) folder: &'a Path,
}

impl Build<'_> {
    /// Nothing has changed since [`note`](Build::note).
    pub(super) fn is_fresh(&self) -> bool {
        let noted = std::fs::read_to_string(self.note_path());
        noted.is_ok_and(|noted| self.state(None).is_some_and(|state| state == noted))
    }

    /// Notes how everything is, after cargo was started at `start` and has succeeded. If that is not to be known, cargo is
    /// simply asked again the next time.
    pub(super) fn note(&self, start: SystemTime) {
        let _ = match self.state(Some(start)) {
            Some(state) => std::fs::write(self.note_path(), state),
            None => std::fs::remove_file(self.note_path()),
        };
    }

    fn note_path(&self) -> PathBuf {
        self.folder.join(".xtask-built")
    }

    /// All that matters, in words; `None` when it cannot be told, or when a source was changed after `unchanged_since`.
    fn state(&self, unchanged_since: Option<SystemTime>) -> Option<String> {
        let mut state = format!("{:?}\n", self.words);
        for (name, value) in std::env::vars_os() {
            let says_how = |name: &str| {
                let (is_cargos, is_of_package) = (name.starts_with("CARGO_"), name.starts_with("CARGO_PKG_"));
                name.starts_with("RUST") || is_cargos && !is_of_package
            };
            if name.to_str().is_none_or(says_how) {
                writeln!(state, "{name:?}={value:?}").ok()?;
            }
        }
        // Cargo has built this program anew when the compiler is another one, or flags from outside the project.
        let me = std::fs::metadata(std::env::current_exe().ok()?).ok()?;
        writeln!(state, "{} {:?}", me.len(), me.modified().ok()?).ok()?;
        let mut sources: BTreeSet<_> =
            ["Cargo.toml", "Cargo.lock", ".cargo/config.toml", "rust-toolchain.toml"]
                .map(|name| self.root.join(name))
                .into();
        for program in self.programs {
            let path = self.folder.join(program);
            let found = std::fs::metadata(&path).ok()?;
            writeln!(state, "{path:?} {} {:?}", found.len(), found.modified().ok()?).ok()?;
            // For make: the program's path, a colon, and all files of the project that it was built from.
            let list = std::fs::read_to_string(path.with_extension("d")).ok()?;
            sources.extend(names(list.split_once(": ")?.1));
        }
        let manifests = sources.iter().filter_map(|source| {
            source.ancestors().map(|folder| folder.join("Cargo.toml")).find(|manifest| manifest.exists())
        });
        let manifests: Vec<_> = manifests.collect();
        // Found by cargo if it is there, so that it is listed nowhere before.
        sources.extend(manifests.iter().map(|manifest| manifest.with_file_name("build.rs")));
        sources.extend(manifests);
        for source in sources {
            let modified = std::fs::metadata(&source).and_then(|found| found.modified()).ok();
            if modified.zip(unchanged_since).is_some_and(|(modified, since)| modified >= since) {
                return None;
            }
            writeln!(state, "{source:?} {modified:?}").ok()?;
        }
        Some(state)
    }
}

/// The paths in a list for make, where a space in a path has a backslash before it.
fn names(list: &str) -> impl Iterator<Item = PathBuf> {
    let whole = list.trim_end().replace("\\ ", "\0");
    let names: Vec<_> = whole.split_whitespace().map(|name| PathBuf::from(name.replace('\0', " "))).collect();
    names.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn names_may_have_spaces() {
        let found: Vec<_> = names("/a/b.rs /a\\ folder/c.rs\n").collect();
        assert_eq!(found, [Path::new("/a/b.rs"), Path::new("/a folder/c.rs")]);
    }

    #[test]
    fn whatever_changes_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let path = |name: &str| root.join(name);
        let write = |name: &str, text: &str| {
            std::fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            std::fs::write(path(name), text).unwrap();
        };
        let list = format!("{}: {}\n", path("program").display(), path("crate/src/main.rs").display());
        for (name, text) in [
            ("Cargo.toml", ""),
            ("Cargo.lock", ""),
            ("crate/Cargo.toml", ""),
            ("crate/src/main.rs", ""),
            ("program", "1"),
            ("program.d", &list),
        ] {
            write(name, text);
        }
        let build = Build { words: &["build"], programs: &["program"], root, folder: root };
        assert!(!build.is_fresh(), "nothing is noted");
        let later = || SystemTime::now() + Duration::from_secs(10);
        build.note(SystemTime::UNIX_EPOCH);
        assert!(!build.is_fresh(), "sources may have changed while they were read");
        for change in ["Cargo.toml", "Cargo.lock", "crate/Cargo.toml", "crate/src/main.rs", "program"] {
            build.note(later());
            assert!(build.is_fresh());
            let file = std::fs::File::options().write(true).open(path(change)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            assert!(!build.is_fresh(), "{change} was changed");
        }
        build.note(later());
        assert!(!Build { words: &["build", "--other"], ..build }.is_fresh());
        std::fs::remove_file(path("crate/src/main.rs")).unwrap();
        assert!(!build.is_fresh());
    }
}
