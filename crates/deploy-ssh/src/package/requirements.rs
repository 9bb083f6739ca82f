//! The Python packages that a model needs.
//!
//! uv or pip resolves them once, on this machine, for the Python and the C library of the hosts; then they are shipped. So hosts
//! need no package index, pip or venv, and all have the same versions. With different versions, the same rows might give
//! different results.
//!
//! A package that is published only as source is built here, which works for the hosts if it has nothing to compile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use deploy::host::arg;
use deploy::{console, project};

use super::archive::{self, Archive};
use crate::probe::Platform;
use crate::scratch;
use deploy::python_module::Module;

/// The oldest C library for which wheels are built, as the minor version of glibc 2.x.
const OLDEST_GLIBC: u32 = 17;
/// The C libraries that uv knows as a platform, as minor versions.
const UV_GLIBCS: [u32; 12] = [17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40];
/// The requirements of a model without a requirements file.
const DEFAULT: &str = "pandas\n";

/// The packages that the user wants.
struct Requirements {
    /// `None` for [`DEFAULT`].
    file: Option<PathBuf>,
    text: String,
}

impl Requirements {
    /// Reads the file, or the module's own.
    fn load(file: Option<&Path>, module: &Module) -> anyhow::Result<Self> {
        let file = file.map(Path::to_owned).or_else(|| module.requirements());
        let text = match &file {
            Some(file) => std::fs::read_to_string(file)
                .with_context(|| format!("reading the requirements {}", file.display()))?,
            None => DEFAULT.to_owned(),
        };
        Ok(Self { file, text })
    }

    fn name(&self) -> String {
        self.file.as_ref().map_or_else(|| DEFAULT.trim().to_owned(), |file| file.display().to_string())
    }

    /// The file for pip. The user's own stays where it is, since it may refer to others beside it.
    fn file_for_pip(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let list = folder.join("requirements.txt");
        std::fs::write(&list, &self.text).with_context(|| format!("writing {}", list.display()))?;
        Ok(list)
    }
}

/// The archive of the required packages. It is kept in `target/packages`, by a hash of the requirements and the platform.
pub(crate) fn packages(
    requirements: Option<&Path>,
    module: &Module,
    platform: &Platform,
) -> anyhow::Result<Archive> {
    let requirements = Requirements::load(requirements, module)?;
    let Platform { python, processor, glibc } = platform;
    let key = format!("{}\0{python}\0{processor}\0{glibc}", requirements.text);
    let cache = project::root()?.join("target/packages");
    project::make_folder(&cache)?;
    let archive = cache.join(format!("{}.zip", protocol::hash::short_hex(key.as_bytes())));
    if archive.exists() {
        return archive::describe(&archive);
    }
    let temporary = scratch::new_folder("packages")?;
    let folder = temporary.join("packages");
    console::note(&format!(
        "resolving Python packages for Python {python} on {processor}: {}",
        requirements.name()
    ));
    install(&requirements.file_for_pip(&temporary)?, &folder, platform)?;
    let packed = archive::pack(&entries(&folder)?, &temporary.join("packages.zip"))?;
    // Renamed when it is complete: another `up` may be making the same.
    let new = tempfile::NamedTempFile::new_in(&cache).context("creating a file for packages")?;
    std::fs::copy(&packed.path, new.path()).with_context(|| format!("writing {}", new.path().display()))?;
    new.persist(&archive).with_context(|| format!("renaming a file to {}", archive.display()))?;
    Ok(Archive { path: archive, ..packed })
}

/// Installs packages for another platform into a folder.
fn install(list: &Path, folder: &Path, platform: &Platform) -> anyhow::Result<()> {
    let has_uv = duct::cmd!("uv", "--version").stdout_null().stderr_null().run().is_ok();
    if has_uv && !has_settings_of_pip() {
        return install_with_uv(list, folder, platform);
    }
    let wheels = |more: &[String]| pip(&[install_args(list, folder, platform), more.to_vec()].concat());
    let Err(reason) = wheels(&[])? else { return Ok(()) };
    // Maybe a package has only its source. Building it takes time, and what to build is not known.
    let built = folder.with_file_name("built");
    let build =
        ["wheel", "--quiet", "--wheel-dir", &arg(&built), "--requirement", &arg(list)].map(str::to_owned);
    let found = match pip(&build)? {
        Ok(()) => wheels(&["--find-links".to_owned(), arg(&built)])?,
        Err(_) => Err(reason),
    };
    found.map_err(|said| failed("pip", platform, &said))
}

/// Whether a file or the environment sets another index for pip. uv would not use it.
fn has_settings_of_pip() -> bool {
    let settings = duct::cmd!("python3", "-m", "pip", "config", "list").stderr_null().unchecked().read();
    settings.is_ok_and(|settings| settings.contains("index-url"))
}

/// uv builds packages that have only their source.
fn install_with_uv(list: &Path, folder: &Path, platform: &Platform) -> anyhow::Result<()> {
    let Platform { python, processor, glibc } = platform;
    let newest = UV_GLIBCS.into_iter().rfind(|minor| minor <= glibc).unwrap_or(OLDEST_GLIBC);
    let args = ["pip", "install", "--quiet", "--python-version", python].map(str::to_owned);
    let place = ["--python-platform".to_owned(), format!("{processor}-manylinux_2_{newest}")];
    let what = ["--target".to_owned(), arg(folder), "--requirement".to_owned(), arg(list)];
    let said = run("uv", &[&args[..], &place, &what].concat()).context("starting uv")?;
    said.map_err(|said| failed("uv", platform, &said))
}

fn install_args(list: &Path, folder: &Path, platform: &Platform) -> Vec<String> {
    let Platform { python, processor, glibc } = platform;
    let mut args = ["install", "--quiet", "--no-compile", "--only-binary=:all:", "--implementation", "cp"]
        .map(str::to_owned)
        .to_vec();
    args.extend(["--python-version".to_owned(), python.clone()]);
    for minor in (OLDEST_GLIBC..=*glibc).rev() {
        args.extend(["--platform".to_owned(), format!("manylinux_2_{minor}_{processor}")]);
    }
    args.extend(["--platform".to_owned(), format!("manylinux2014_{processor}")]);
    args.extend(["--target".to_owned(), arg(folder), "--requirement".to_owned(), arg(list)]);
    args
}

/// Runs pip; returns what it said if it failed.
fn pip(args: &[String]) -> anyhow::Result<Result<(), String>> {
    let pip = ["-m", "pip", "--disable-pip-version-check"].map(str::to_owned);
    run("python3", &[&pip[..], args].concat()).context(
        "starting python3, which resolves the packages of a Python model; install Python 3 with pip (on Debian and Ubuntu: \
         apt-get install python3-pip), or uv",
    )
}

/// Runs a program; returns what it said if it failed.
fn run(program: &str, args: &[String]) -> std::io::Result<Result<(), String>> {
    let output = duct::cmd(program, args).stderr_to_stdout().stdout_capture().unchecked().run()?;
    Ok(match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
    })
}

fn failed(program: &str, platform: &Platform, said: &str) -> anyhow::Error {
    let Platform { python, processor, glibc } = platform;
    anyhow!(
        "{program} failed to resolve packages for Python {python} on {processor} with C library 2.{glibc}:\n{said}"
    )
}

/// All files of a folder, by the names that they get in the archive.
fn entries(folder: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let context = || format!("reading the folder {}", folder.display());
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(context)? {
        let entry = entry.with_context(context)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            archive::add_folder(&mut files, &entry.path(), &name)?;
        } else {
            files.insert(name, entry.path());
        }
    }
    Ok(files)
}
