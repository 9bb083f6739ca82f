//! Packs the programs, the model and Python packages for hosts, and finds which of these a host lacks.

mod archive;
mod glibc;
mod python;
mod requirements;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use deploy::project;
use deploy::request::Up;

use crate::inventory::Inventory;
use crate::probe::{Platform, Probed};
use crate::scratch;
pub(crate) use archive::Archive;
pub(crate) use python::module_of;

/// The model that hosts run.
#[derive(Debug, Clone)]
pub struct Model {
    /// As in `--model`.
    pub(crate) name: String,
    /// Whether the user named it, now or in an earlier `up`.
    pub(crate) is_named: bool,
    pub(crate) requirements: Option<PathBuf>,
}

impl Model {
    /// The requested model, or that of the earlier `up`, or native.
    ///
    /// # Errors
    /// Requirements for a model that is not Python.
    pub fn new(args: &Up, before: Option<&Inventory>) -> anyhow::Result<Self> {
        let before_name = before.map(|before| before.model.clone());
        let name = args.model.clone().or(before_name).unwrap_or_else(|| "native".into());
        let is_named = args.model.is_some() || before.is_some_and(Inventory::has_named_model);
        let is_python = module_of(&name).is_some();
        let requirements = match &args.requirements {
            Some(file) => {
                ensure!(is_python, "--requirements is for a Python model, and --model is {name}");
                Some(std::path::absolute(file).context("resolving the path of the requirements")?)
            }
            None => before.and_then(|before| before.requirements.clone()).filter(|_| is_python),
        };
        Ok(Self { name, is_named, requirements })
    }
}

/// The packed programs, with the user's module. Python packages depend on the hosts and are packed later.
pub struct Programs {
    pub(crate) agent: Archive,
    pub(crate) app: Archive,
    /// The minor version of glibc 2.x; `None` for static programs.
    required_glibc: Option<u32>,
    /// The folder of the Python module.
    module_folder: Option<PathBuf>,
}

impl Programs {
    /// Builds the programs if they are out of date, and packs them with the model.
    ///
    /// # Errors
    /// The programs do not compile, or the module does not exist.
    pub fn build(model: &Model) -> anyhow::Result<Self> {
        Self::pack(model, &project::build_programs()?)
    }

    pub(crate) fn pack(model: &Model, folder: &Path) -> anyhow::Result<Self> {
        let mut files: BTreeMap<_, _> =
            project::PROGRAMS.iter().map(|name| ((*name).to_owned(), folder.join(name))).collect();
        let programs: Vec<_> = files.values().cloned().collect();
        let module_folder = match module_of(&model.name) {
            Some(module) => Some(python::add_module(&mut files, module)?),
            None => None,
        };
        Ok(Self {
            agent: archive::describe(&folder.join("agent"))?,
            app: archive::pack(&files, &scratch::new_folder("app")?.join("app.zip"))?,
            required_glibc: glibc::required_by(&programs)?,
            module_folder,
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
        let Some(folder) = &self.module_folder else { return Ok(None) };
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
        requirements::packages(model.requirements.as_deref(), folder, &platform).map(Some)
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
