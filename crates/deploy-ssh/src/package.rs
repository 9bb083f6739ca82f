//! Packs the programs, the model and Python packages for hosts, and finds which of these a host lacks.

mod archive;
mod beside;
mod glibc;
mod requirements;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use deploy::python_module::{Module, module_of};
use deploy::request::Up;
use deploy::{console, keys, project};

use crate::inventory::Inventory;
use crate::probe::{Platform, Probed};
use crate::scratch;
pub(crate) use archive::Archive;
use beside::Selection;

/// The model that hosts run.
#[derive(Debug, Clone)]
pub struct Model {
    /// As in `--model`.
    pub(crate) name: String,
    /// Whether the user named it, now or in an earlier `up`.
    pub(crate) is_named: bool,
    pub(crate) requirements: Option<PathBuf>,
    /// What is shipped with a Python module.
    pub(crate) selection: Selection,
}

impl Model {
    /// The requested model, or that of the earlier `up`, or native.
    ///
    /// # Errors
    /// Requirements or files for a model that is not Python.
    pub fn new(args: &Up, before: Option<&Inventory>) -> anyhow::Result<Self> {
        let before_name = before.map(|before| before.model.clone());
        let name = args.model.clone().or(before_name).unwrap_or_else(|| "native".into());
        let is_named = args.model.is_some() || before.is_some_and(Inventory::has_named_model);
        let is_python = module_of(&name).is_some();
        let requirements = match &args.requirements {
            Some(file) => {
                ensure!(is_python, "--requirements is for a Python model, and --model is {name}");
                Some(absolute(file)?)
            }
            None => before.and_then(|before| before.requirements.clone()).filter(|_| is_python),
        };
        ensure!(
            is_python || args.include.is_empty(),
            "--include is for a Python model, and --model is {name}"
        );
        let selection = Selection { include: included(args, before)?, own: own_files(args)? };
        Ok(Self { name, is_named, requirements, selection })
    }
}

/// The files that the user names to be shipped with the model; those of the last `up` if it takes its model from there.
fn included(args: &Up, before: Option<&Inventory>) -> anyhow::Result<Vec<PathBuf>> {
    let before = before.filter(|before| args.model.is_none() && !before.include.is_empty());
    if args.include.is_empty()
        && let Some(before) = before
    {
        let names: Vec<_> = before.include.iter().map(|path| path.display().to_string()).collect();
        console::note(&format!(
            "with the model, only these are shipped, as by the last up: {}",
            names.join(", ")
        ));
        return Ok(before.include.clone());
    }
    args.include.iter().map(|path| absolute(path)).collect()
}

/// Files and folders of ours that may be beside a module, by absolute paths.
fn own_files(args: &Up) -> anyhow::Result<Vec<PathBuf>> {
    let inventory = absolute(&args.inventory)?;
    let beside = |name: &str| inventory.with_file_name(name);
    let keys = keys::files(inventory.parent().unwrap_or(Path::new("/")));
    let mut own = vec![
        inventory.with_extension("known_hosts"),
        beside("urls.txt"),
        beside("stack.toml"),
        beside("ONCALL.json"),
        keys.private,
        keys.public,
        project::root()?.join("output"),
        project::root()?.join("log"),
        inventory,
    ];
    for file in [&args.hosts, &args.ssh_config, &args.stack.on_call].into_iter().flatten() {
        own.push(absolute(file)?);
    }
    Ok(own)
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("resolving the path {}", path.display()))
}

/// The packed programs, with the user's module. Python packages depend on the hosts and are packed later.
pub struct Programs {
    pub(crate) agent: Archive,
    pub(crate) app: Archive,
    /// The minor version of glibc 2.x; `None` for static programs.
    required_glibc: Option<u32>,
    module: Option<Module>,
}

impl Programs {
    /// Builds the programs if they are out of date, and packs them with the model.
    ///
    /// # Errors
    /// The programs do not compile, or the module does not exist.
    pub fn build(model: &Model) -> anyhow::Result<Self> {
        Self::pack(model, &project::build_programs_for_hosts()?)
    }

    pub(crate) fn pack(model: &Model, folder: &Path) -> anyhow::Result<Self> {
        let mut files: BTreeMap<_, _> =
            project::PROGRAMS.iter().map(|name| ((*name).to_owned(), folder.join(name))).collect();
        let programs: Vec<_> = files.values().cloned().collect();
        let module = match module_of(&model.name) {
            Some(name) => Some(Module::find(name, &std::env::var_os("PYTHONPATH").unwrap_or_default())?),
            None => None,
        };
        if let Some(module) = &module {
            let found = model.selection.find(module)?;
            found.announce();
            found.add_to(&mut files);
        }
        Ok(Self {
            agent: archive::describe(&folder.join("agent"))?,
            app: archive::pack(&files, &scratch::new_folder("app")?.join("app.zip"))?,
            required_glibc: glibc::required_by(&programs)?,
            module,
        })
    }

    /// Checks that a host has the C library that the programs need.
    pub(crate) fn check_glibc(&self, host: &Probed) -> anyhow::Result<()> {
        glibc::check(self.required_glibc, host.value("libc").unwrap_or_default())
            .with_context(|| format!("{} cannot run the programs", host.ssh.entry().name))
    }

    pub(crate) fn agent_name(&self) -> String {
        self.agent.sha256[..16].to_owned()
    }

    /// The archive of Python packages; `None` if the model needs none.
    ///
    /// # Errors
    /// Hosts with different platforms, or packages that pip cannot resolve.
    pub(crate) fn packages(&self, model: &Model, probed: &[Probed]) -> anyhow::Result<Option<Archive>> {
        let Some(module) = &self.module else { return Ok(None) };
        let mut platform: Option<(Platform, &str)> = None;
        for probed in probed {
            let here = probed.platform()?;
            let name = &probed.ssh.entry().name;
            match &platform {
                Some((first, other)) => ensure!(
                    *first == here,
                    "{other} and {name} differ in Python or C library ({first:?}, {here:?}) and might give different results; use \
                     hosts with the same versions"
                ),
                None => platform = Some((here, name)),
            }
        }
        let (platform, _) = platform.context("there are no hosts")?;
        requirements::packages(model.requirements.as_deref(), module, &platform).map(Some)
    }
}

/// What a host lacks.
pub(crate) struct Missing<'a> {
    pub(crate) agent: bool,
    /// Archives, each with the link that should point to it.
    pub(crate) archives: Vec<(&'static str, &'a Archive)>,
}

impl<'a> Missing<'a> {
    pub(crate) fn on(host: &Probed, programs: &'a Programs, packages: Option<&'a Archive>) -> Self {
        let agent = programs.agent_name();
        let has = |link: &str, archive: &Archive| {
            host.value(link) == Some(format!("versions/{link}-{}", archive.sha256).as_str())
        };
        let archives = [("app", Some(&programs.app)), ("packages", packages)];
        let archives = archives.into_iter().filter_map(|(link, archive)| Some((link, archive?)));
        Self {
            agent: host.agents().all(|known| known != agent),
            archives: archives.filter(|(link, archive)| !has(link, archive)).collect(),
        }
    }

    /// In bytes.
    fn length(&self, programs: &Programs) -> u64 {
        let agent = if self.agent { programs.agent.length } else { 0 };
        agent + self.archives.iter().map(|(_, archive)| archive.length).sum::<u64>()
    }
}

/// The number of bytes to ship to all hosts.
pub(crate) fn bytes_to_ship(hosts: &[Probed], programs: &Programs, packages: Option<&Archive>) -> u64 {
    hosts.iter().map(|host| Missing::on(host, programs, packages).length(programs)).sum()
}
