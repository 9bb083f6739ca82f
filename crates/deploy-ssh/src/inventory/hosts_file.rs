//! The hosts file: the user's machines, in TOML.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use super::rfc3339;

/// A host, as the user describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostEntry {
    /// Its name in messages, and on the command line.
    pub name: String,
    /// Where SSH reaches it: an address, a name, or a host of the user's SSH configuration.
    pub address: String,
    /// SSH's port; by default that of the SSH configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The user to log in as; by default that of the SSH configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The address at which the other hosts reach it, if that is not `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_address: Option<String>,
    /// The file with the private key; by default SSH's own choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// The fingerprint of its host key, as `ssh-keygen -l` shows it. Without one, the user's known_hosts must have the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Without one, the order in the file decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// When it terminates itself, in UTC as RFC 3339; `None` if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "rfc3339")]
    pub ends: Option<SystemTime>,
    /// What an hour of it costs, in US dollars; `None` if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_per_hour: Option<f64>,
}

impl HostEntry {
    /// The address at which the other hosts reach it.
    pub fn private_address(&self) -> &str {
        self.private_address.as_deref().unwrap_or(&self.address)
    }
}

/// What a host is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sender, receiver and hub.
    Metrics,
    /// The classifier that the others join.
    Initializer,
    /// Any other classifier.
    Worker,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Metrics, Self::Initializer, Self::Worker];

    /// The value of a role's tag in the cloud.
    pub fn word(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Initializer => "initializer",
            Self::Worker => "worker",
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostsFile {
    #[serde(default)]
    host: Vec<HostEntry>,
}

/// Reads a hosts file. Paths of keys become absolute.
///
/// # Errors
/// A file that is missing or has no hosts, a name or a machine that is listed twice, a key that does not exist.
pub(crate) fn read_hosts(path: &Path) -> anyhow::Result<Vec<HostEntry>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading the hosts file {}", path.display()))?;
    let file: HostsFile =
        toml::from_str(&text).with_context(|| format!("parsing the hosts file {}", path.display()))?;
    ensure!(!file.host.is_empty(), "the hosts file {} has no [[host]]", path.display());
    let mut hosts = file.host;
    for i in 0..hosts.len() {
        let (before, rest) = hosts.split_at_mut(i);
        let host = &mut rest[0];
        check_syntax(host, path)?;
        check_unique(host, before, path)?;
        if let Some(key) = &mut host.key {
            // The user wrote it relative to the hosts file; later commands run in any folder.
            let folder = path.parent().unwrap_or(Path::new(""));
            *key = std::path::absolute(folder.join(&*key)).context("resolving the path of a key")?;
            ensure!(key.exists(), "the key {} of {} does not exist", key.display(), host.name);
        }
    }
    Ok(hosts)
}

/// Checks that name and address can be neither options nor paths.
fn check_syntax(host: &HostEntry, path: &Path) -> anyhow::Result<()> {
    let is_usual = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    ensure!(
        !host.name.is_empty() && host.name.chars().all(is_usual) && !host.name.starts_with('-'),
        "{:?} in {} is not a valid host name; use letters, digits, - _ and .",
        host.name,
        path.display()
    );
    ensure!(
        !host.address.is_empty()
            && !host.address.starts_with('-')
            && !host.address.contains(|c: char| c.is_whitespace() || "[]/@".contains(c)),
        "{:?} is not a valid address for {} in {}; give a name or an address without brackets, and port and user in fields of \
         their own",
        host.address,
        host.name,
        path.display()
    );
    Ok(())
}

fn check_unique(host: &HostEntry, before: &[HostEntry], path: &Path) -> anyhow::Result<()> {
    let login = |host: &HostEntry| (host.address.clone(), host.port, host.user.clone());
    let is_same = |other: &&HostEntry| {
        login(other) == login(host) || (host.fingerprint.is_some() && other.fingerprint == host.fingerprint)
    };
    if let Some(other) = before.iter().find(is_same) {
        bail!(
            "{} and {} in {} are the same machine; remove one of them",
            other.name,
            host.name,
            path.display()
        );
    }
    ensure!(
        before.iter().all(|other| other.name != host.name),
        "two hosts in {} have the name {}; rename one of them",
        path.display(),
        host.name
    );
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<Vec<HostEntry>> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("hosts.toml"), text).unwrap();
        std::fs::write(dir.path().join("key"), "").unwrap();
        read_hosts(&dir.path().join("hosts.toml"))
    }

    /// Hosts with these names, which are also their addresses.
    pub(crate) fn hosts(names: &[(&str, Option<Role>)]) -> Vec<HostEntry> {
        let text: String = names
            .iter()
            .map(|(name, _)| format!("[[host]]\nname = {name:?}\naddress = {name:?}\n"))
            .collect();
        let mut hosts = read(&text).unwrap();
        hosts.iter_mut().zip(names).for_each(|(host, (_, role))| host.role = *role);
        hosts
    }

    #[test]
    fn a_hosts_file_is_read_and_its_mistakes_are_refused() {
        let text = "[[host]]\nname = \"a\"\naddress = \"10.0.0.1\"\nport = 2222\nuser = \"me\"\nkey = \"key\"\nrole = \"worker\"\n";
        let host = &read(text).unwrap()[0];
        assert_eq!(
            (host.port, host.role, host.private_address()),
            (Some(2222), Some(Role::Worker), "10.0.0.1")
        );
        assert!(host.key.as_ref().unwrap().is_absolute());
        let error = |text: &str| format!("{:#}", read(text).unwrap_err());
        assert!(error("").contains("has no [[host]]"));
        assert!(error("[[host]]\nname = \"a\"\n").contains("missing field `address`"));
        assert!(
            error("[[host]]\nname = \"a\"\naddress = \"x\"\nprot = 1\n").contains("unknown field `prot`")
        );
        let invalid = "is not a valid address";
        assert!(error("[[host]]\nname = \"-a\"\naddress = \"x\"\n").contains("is not a valid host name"));
        assert!(error("[[host]]\nname = \"a\"\naddress = \"-oProxyCommand=x\"\n").contains(invalid));
        assert!(error("[[host]]\nname = \"a\"\naddress = \"me@x\"\n").contains(invalid));
        assert!(error("[[host]]\nname = \"a\"\naddress = \"x\"\nkey = \"no\"\n").contains("does not exist"));
        let twice = "[[host]]\nname = \"a\"\naddress = \"x\"\n".repeat(2);
        assert!(error(&twice).contains("are the same machine"));
        assert!(error(&twice.replacen("\"x\"", "\"y\"", 1)).contains("have the name a"));
    }
}
