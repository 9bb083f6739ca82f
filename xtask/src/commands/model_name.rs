//! Parses the name of a model: a module, a file, or a built-in one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The model's name as programs expect it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelName {
    /// `native`, `sleep:MICROSECONDS` or `python:MODULE[:OBJECT]`.
    pub(crate) name: String,
    /// The module's folder, if the user named a file.
    pub(crate) folder: Option<PathBuf>,
}

impl FromStr for ModelName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (is_python, rest) = match text.strip_prefix("python:") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (module, function) = match rest.split_once(':') {
            Some((module, function)) => (module, Some(function)),
            None => (rest, None),
        };
        if module.ends_with(".py") || module.contains('/') {
            return Self::of_file(Path::new(module), function);
        }
        let is_builtin = text == "native" || text.starts_with("sleep:");
        if !is_python && !is_builtin {
            return Err(format!(
                "{text:?} is not a model; name yours as python:MODULE[:OBJECT] (perhaps python:{text}) or by its file, such as \
                 model.py[:OBJECT]; native and sleep:MICROSECONDS are built in"
            ));
        }
        Ok(Self { name: text.to_owned(), folder: None })
    }
}

impl ModelName {
    fn of_file(file: &Path, function: Option<&str>) -> Result<Self, String> {
        let shown = file.display();
        let path =
            file.canonicalize().map_err(|error| format!("finding the model's file {shown}: {error}"))?;
        let module = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let is_identifier = !module.is_empty() && module.chars().all(|c| c.is_alphanumeric() || c == '_');
        if !path.is_file() || path.extension().is_none_or(|extension| extension != "py") || !is_identifier {
            return Err(format!(
                "{shown} is not a Python module; it should be a file like model.py, named with letters, digits and _"
            ));
        }
        let function = function.map(|function| format!(":{function}")).unwrap_or_default();
        Ok(Self { name: format!("python:{module}{function}"), folder: path.parent().map(Path::to_owned) })
    }

    /// The `PYTHONPATH` to find the module with; `None` if the current one will do.
    pub(crate) fn python_path(&self) -> Option<OsString> {
        let folder = self.folder.clone()?;
        let usual = std::env::var_os("PYTHONPATH").unwrap_or_default();
        let folders = std::iter::once(folder).chain(std::env::split_paths(&usual));
        // This fails if the folder's name contains a colon.
        std::env::join_paths(folders).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_by_module_or_by_file() {
        for name in ["native", "sleep:100", "python:package.model", "python:model:predict"] {
            assert_eq!(name.parse(), Ok(ModelName { name: name.to_owned(), folder: None }));
        }
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let file = folder.join("my_model.py");
        std::fs::write(&file, "").unwrap();
        for (text, name) in [
            (format!("{}", file.display()), "python:my_model"),
            (format!("python:{}", file.display()), "python:my_model"),
            (format!("{}:predict", file.display()), "python:my_model:predict"),
            (format!("python:{}:predict", file.display()), "python:my_model:predict"),
        ] {
            let found = text.parse::<ModelName>().unwrap();
            assert_eq!(
                (found.name.as_str(), found.folder.as_deref()),
                (name, Some(folder.as_path())),
                "{text}"
            );
            assert!(found.python_path().unwrap().to_str().unwrap().starts_with(folder.to_str().unwrap()));
        }
    }

    #[test]
    fn the_error_for_an_unknown_model_says_how_to_name_one() {
        let error = |text: &str| text.parse::<ModelName>().unwrap_err();
        assert!(error("my_model").contains("perhaps python:my_model"));
        assert!(error("nothing.py").contains("finding the model's file nothing.py: "));
        assert!(error("/").contains("is not a Python module"));
    }
}
