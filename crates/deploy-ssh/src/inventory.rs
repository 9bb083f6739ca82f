//! The inventory: which hosts `up` made ready, and with what. All later commands read it.

mod hosts_file;
mod rfc3339;
mod roles;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use serde::{Deserialize, Serialize};

pub(crate) use hosts_file::read_hosts;
pub use hosts_file::{HostEntry, Role};
pub use roles::RoleAssignment;
pub(crate) use roles::assign_roles;

/// The result of `up`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// The requested cluster size; `None` uses all hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<usize>,
    /// The name of the metrics host.
    pub metrics: String,
    /// The names of the hosts that classify; the initializer is the first.
    pub machines: Vec<String>,
    /// The model that was shipped.
    pub model: String,
    /// Whether the user named it. A job with the user's own rows must not fall back to the default model.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub model_is_named: bool,
    /// The requirements file that the user named for the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<PathBuf>,
    /// The files that the user named to be shipped with the model; empty for all beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<PathBuf>,
    /// The name of the agent's build: the first 16 hexadecimal digits of its SHA-256.
    pub agent: String,
    /// The SHA-256 of the application's archive.
    pub app: String,
    /// The SHA-256 of the archive of Python packages; `None` if the model needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packages: Option<String>,
    /// Whether `up` completed.
    pub ready: bool,
    /// An SSH configuration in place of the user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_config: Option<PathBuf>,
    /// The stack that the hosts belong to; `None` outside the cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// All hosts, including unused ones.
    #[serde(rename = "host")]
    pub hosts: Vec<HostEntry>,
    /// Hosts that are no longer used but not yet cleared.
    #[serde(rename = "left", default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<HostEntry>,
}

impl Inventory {
    /// Whether the user named the model. Only native is a default.
    pub fn has_named_model(&self) -> bool {
        self.model_is_named || self.model != "native"
    }

    /// Reads the inventory; `None` if the file does not exist.
    ///
    /// # Errors
    /// A file that cannot be read or parsed.
    pub fn load_if_there(path: &Path) -> anyhow::Result<Option<Self>> {
        let Some(text) = files::read_if_there(path)? else { return Ok(None) };
        let context = || format!("parsing the inventory {}", path.display());
        toml::from_slice(&text).map(Some).with_context(context)
    }

    /// Reads the inventory.
    ///
    /// # Errors
    /// As [`Self::load_if_there`]; also a file that does not exist.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        Self::load_if_there(path)?.with_context(|| {
            format!(
                "there are no hosts yet ({} does not exist); make them ready with: cargo xtask up",
                path.display()
            )
        })
    }

    /// # Errors
    /// The file cannot be written.
    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        let text = toml::to_string(self).context("encoding the inventory")?;
        let text = format!("# Made by cargo xtask up; read by all later commands.\n\n{text}");
        files::replace_file(path, text.as_bytes())
    }

    /// The names of the metrics host and of the hosts that classify.
    pub(crate) fn roles(&self) -> (&str, &[String]) {
        (&self.metrics, &self.machines)
    }

    /// The hosts that a job uses, each once; the metrics host is the first.
    ///
    /// # Errors
    /// A role names a host that the inventory does not have, because the file was edited.
    pub(crate) fn used_hosts(&self) -> anyhow::Result<Vec<HostEntry>> {
        let others = self.machines.iter().filter(|name| **name != self.metrics);
        std::iter::once(&self.metrics).chain(others).map(|name| self.host(name).cloned()).collect()
    }

    /// When the metrics host or the initializer, which a job cannot lose, terminates itself: the earlier of the two.
    pub fn ends(&self) -> Option<SystemTime> {
        let needed = [Some(&self.metrics), self.machines.first()];
        needed.into_iter().flatten().filter_map(|name| self.host(name).ok()?.ends).min()
    }

    /// What an hour of the hosts that a job uses costs, in US dollars; `None` if that is not known of all.
    pub(crate) fn usd_per_hour(&self) -> Option<f64> {
        self.used_hosts().ok()?.iter().map(|host| host.usd_per_hour).sum()
    }

    /// # Errors
    /// No host has this name; the message lists those that exist.
    pub(crate) fn host(&self, name: &str) -> anyhow::Result<&HostEntry> {
        self.hosts.iter().find(|host| host.name == name).with_context(|| {
            let names: Vec<_> = self.hosts.iter().map(|host| host.name.as_str()).collect();
            format!("there is no host {name:?}; there are {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::hosts_file::tests::hosts;
    use super::*;

    #[test]
    fn an_inventory_survives_saving_and_loading() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("inventory.toml");
        assert!(Inventory::load(&path).unwrap_err().to_string().contains("cargo xtask up"));
        let mut inventory = Inventory {
            cluster_size: Some(1),
            metrics: "a".into(),
            machines: vec!["b".into()],
            model: "native".into(),
            model_is_named: false,
            requirements: None,
            include: Vec::new(),
            agent: "00".into(),
            app: "11".into(),
            packages: None,
            ready: true,
            ssh_config: None,
            stack: None,
            left: hosts(&[("z", None)]),
            hosts: hosts(&[("a", None), ("b", Some(Role::Initializer))]),
        };
        inventory.hosts[0].ends = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        inventory.hosts[1].ends = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        inventory.save(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("ends = \"2027-01-15T08:00:00Z\""), "{text}");
        assert_eq!(inventory.ends(), inventory.hosts[1].ends);
        inventory.hosts[0].usd_per_hour = Some(0.5);
        assert_eq!(inventory.usd_per_hour(), None);
        inventory.hosts[1].usd_per_hour = Some(0.25);
        assert_eq!(inventory.usd_per_hour(), Some(0.75));
        inventory.save(&path).unwrap();
        assert_eq!(Inventory::load(&path).unwrap(), inventory);
        assert!(inventory.host("c").unwrap_err().to_string().ends_with("there are a, b"));
    }
}
