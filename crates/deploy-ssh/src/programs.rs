//! What hosts are given: the programs, with the model; and what of that a host does not have yet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::package::{self, Archive};
use super::probe::Probed;
use super::python::{self, Platform};
use crate::hosts::Inventory;
use crate::scratch;
use deploy::project;
use deploy::request::Up;

/// The model that hosts are to have.
#[derive(Debug, Clone)]
pub struct Model {
    /// As `--model` names it.
    pub(super) name: String,
    /// Whether the user has named it, now or before.
    pub(super) is_named: bool,
    pub(super) requirements: Option<PathBuf>,
}

impl Model {
    /// The one that is asked for, or the one before.
    ///
    /// # Errors
    /// Requirements for a model that has none.
    pub fn new(args: &Up, before: Option<&Inventory>) -> anyhow::Result<Self> {
        let before_name = before.map(|before| before.model.clone());
        let name = args.model.clone().or(before_name).unwrap_or_else(|| "native".into());
        let is_named = args.model.is_some() || before.is_some_and(Inventory::has_named_model);
        let is_python = python::module_of(&name).is_some();
        let requirements = match &args.requirements {
            Some(file) => {
                ensure!(is_python, "--requirements is for a Python model, and --model is {name}");
                Some(std::path::absolute(file).context("finding the requirements")?)
            }
            None => before.and_then(|before| before.requirements.clone()).filter(|_| is_python),
        };
        Ok(Self { name, is_named, requirements })
    }
}

/// What is shipped, but for Python packages.
pub struct Programs {
    pub(super) agent: Archive,
    pub(super) app: Archive,
    needed_glibc: Option<u32>,
    /// Where the Python module lies.
    module_folder: Option<PathBuf>,
}

impl Programs {
    /// Builds the programs, if they are not up to date, and packs them with the box.
    ///
    /// # Errors
    /// What does not compile, or is not there.
    pub fn build(model: &Model) -> anyhow::Result<Self> {
        Self::pack(model, &project::build_programs()?)
    }

    pub(super) fn pack(model: &Model, folder: &Path) -> anyhow::Result<Self> {
        let mut files: BTreeMap<_, _> =
            project::PROGRAMS.iter().map(|name| ((*name).to_owned(), folder.join(name))).collect();
        let programs: Vec<_> = files.values().cloned().collect();
        let module_folder = match python::module_of(&model.name) {
            Some(module) => Some(python::add_module(&mut files, module)?),
            None => None,
        };
        Ok(Self {
            agent: package::describe(&folder.join("agent"))?,
            app: package::pack(&files, &scratch::new_folder("app")?.join("app.zip"))?,
            needed_glibc: package::needed_glibc(&programs)?,
            module_folder,
        })
    }

    /// Whether a host has the C library that they need.
    pub(super) fn fit(&self, host: &Probed) -> anyhow::Result<()> {
        package::check_glibc(self.needed_glibc, host.value("libc").unwrap_or_default())
            .with_context(|| format!("{} cannot run the programs", host.ssh.entry().name))
    }

    pub(super) fn agent_name(&self) -> String {
        self.agent.sha256[..16].to_owned()
    }

    pub(super) fn packages(&self, model: &Model, probed: &[Probed]) -> anyhow::Result<Option<Archive>> {
        let Some(folder) = &self.module_folder else { return Ok(None) };
        let mut platform: Option<(Platform, &str)> = None;
        for probed in probed {
            let here = probed.platform()?;
            let name = &probed.ssh.entry().name;
            match &platform {
                Some((first, other)) => ensure!(
                    *first == here,
                    "{other} and {name} differ in Python or C library ({first:?}, {here:?}), so they might give different \
                     results"
                ),
                None => platform = Some((here, name)),
            }
        }
        let (platform, _) = platform.context("there are no hosts")?;
        python::packages(model.requirements.as_deref(), folder, &platform).map(Some)
    }
}

/// What a host does not have.
pub(super) struct Missing<'a> {
    pub(super) agent: bool,
    /// Archives, by the links that should lead to them.
    pub(super) archives: Vec<(&'static str, &'a Archive)>,
}

impl<'a> Missing<'a> {
    pub(super) fn of(host: &Probed, programs: &'a Programs, packages: Option<&'a Archive>) -> Self {
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

    /// Bytes to be shipped.
    fn length(&self, programs: &Programs) -> u64 {
        let agent = if self.agent { programs.agent.length } else { 0 };
        agent + self.archives.iter().map(|(_, archive)| archive.length).sum::<u64>()
    }
}

/// Bytes to be shipped to hosts.
pub(super) fn total(hosts: &[Probed], programs: &Programs, packages: Option<&Archive>) -> u64 {
    hosts.iter().map(|host| Missing::of(host, programs, packages).length(programs)).sum()
}
