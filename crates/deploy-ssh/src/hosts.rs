//! The user's hosts file, and the inventory that `up` makes of it and all later commands read.

mod moment;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

/// A host, as the user describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostEntry {
    /// What it is called in messages.
    pub name: String,
    /// Where SSH reaches it: an address, a name, or a host of the user's SSH configuration.
    pub address: String,
    /// SSH's port, if not the usual one (or the one in the SSH configuration).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The user, if not the same as here (or the one in the SSH configuration).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The address at which the other hosts reach it, if that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_address: Option<String>,
    /// The file with the private key, if SSH does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// The fingerprint of its host key, as `ssh-keygen -l` shows it. Without it, the user's known_hosts must have the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// What it is to be; without it, the order in the file says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// When it ends by itself, if it does, in UTC as RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "moment")]
    pub ends: Option<SystemTime>,
}

/// What a host is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sender and receiver.
    Metrics,
    /// The classifier that the others join.
    Initializer,
    /// A classifier.
    Worker,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Metrics, Self::Initializer, Self::Worker];

    /// In one word, as tags have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Initializer => "initializer",
            Self::Worker => "worker",
        }
    }
}

impl HostEntry {
    /// The address at which the other hosts reach it.
    pub fn private_address(&self) -> &str {
        self.private_address.as_deref().unwrap_or(&self.address)
    }
}

/// The hosts file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostsFile {
    #[serde(default)]
    host: Vec<HostEntry>,
}

/// Reads a hosts file.
///
/// # Errors
/// A file that is not there or has no hosts, names that are there twice, a key that is not there.
pub fn read_hosts(path: &Path) -> anyhow::Result<Vec<HostEntry>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading the hosts file {}", path.display()))?;
    let file: HostsFile =
        toml::from_str(&text).with_context(|| format!("understanding the hosts file {}", path.display()))?;
    ensure!(!file.host.is_empty(), "the hosts file {} has no [[host]]", path.display());
    let mut hosts = file.host;
    for i in 0..hosts.len() {
        let (before, rest) = hosts.split_at_mut(i);
        let host = &mut rest[0];
        let usual = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        ensure!(
            !host.name.is_empty() && host.name.chars().all(usual) && !host.name.starts_with('-'),
            "{:?} in {} is no name for a host: letters, digits, - _ and . make one",
            host.name,
            path.display()
        );
        ensure!(
            !host.address.is_empty()
                && !host.address.starts_with('-')
                && !host.address.contains(|c: char| c.is_whitespace() || "[]/@".contains(c)),
            "{:?} is no address for {} in {}; it should be a name or an address alone, without brackets, and port and user \
             have fields of their own",
            host.address,
            host.name,
            path.display()
        );
        let place = |host: &HostEntry| (host.address.clone(), host.port, host.user.clone());
        if let Some(other) = before.iter().find(|other| {
            place(other) == place(host)
                || (host.fingerprint.is_some() && other.fingerprint == host.fingerprint)
        }) {
            bail!("{} and {} in {} are the same machine", other.name, host.name, path.display());
        }
        ensure!(
            before.iter().all(|other| other.name != host.name),
            "the name {} is there twice in {}",
            host.name,
            path.display()
        );
        if let Some(key) = &mut host.key {
            // Meant from where the hosts file is; and used from anywhere.
            let folder = path.parent().unwrap_or(Path::new(""));
            *key = std::path::absolute(folder.join(&*key)).context("finding a key")?;
            ensure!(key.exists(), "the key {} of {} is not there", key.display(), host.name);
        }
    }
    Ok(hosts)
}

/// What `up` has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The cluster size that was asked for; without one, all hosts are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<usize>,
    /// The name of the host for sender and receiver.
    pub metrics: String,
    /// The names of the hosts that classify, the initializer first.
    pub machines: Vec<String>,
    /// The black box that was shipped.
    pub model: String,
    /// Whether the user has named it: with rows of one's own, a job is not to take another one by default.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub model_is_named: bool,
    /// The file with the Python packages that it needs, if one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<PathBuf>,
    /// The hash of the agent that commands the hosts.
    pub agent: String,
    /// The hash of the application.
    pub app: String,
    /// The hash of the Python packages, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packages: Option<String>,
    /// Whether `up` came to its end.
    pub ready: bool,
    /// The SSH configuration, if not the user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_config: Option<PathBuf>,
    /// The stack that the hosts are of, if they are in the cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// All hosts.
    #[serde(rename = "host")]
    pub hosts: Vec<HostEntry>,
    /// Hosts that are not used any more, and still have something of ours.
    #[serde(rename = "left", default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<HostEntry>,
}

impl Inventory {
    /// Whether the user has named the model. Only native is ever taken by default.
    pub fn has_named_model(&self) -> bool {
        self.model_is_named || self.model != "native"
    }

    /// The inventory of an earlier `up`, if there was one.
    ///
    /// # Errors
    /// A file that cannot be understood.
    pub fn load_if_there(path: &Path) -> anyhow::Result<Option<Self>> {
        let Some(text) = files::read_if_there(path)? else { return Ok(None) };
        let context = || format!("understanding the inventory {}", path.display());
        toml::from_slice(&text).map(Some).with_context(context)
    }

    /// The inventory of an earlier `up`.
    ///
    /// # Errors
    /// There was none.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        Self::load_if_there(path)?.with_context(|| {
            format!(
                "there are no hosts yet ({} is not there); make them ready with: cargo xtask up",
                path.display()
            )
        })
    }

    /// Writes the inventory.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let text = toml::to_string(self).context("encoding the inventory")?;
        let text = format!("# Made by cargo xtask up; read by all later commands.\n\n{text}");
        files::replace_file(path, text.as_bytes())
    }

    /// Which host is what.
    pub fn roles(&self) -> (&str, &[String]) {
        (&self.metrics, &self.machines)
    }

    /// The hosts that are used, each once, the metrics host first.
    ///
    /// # Errors
    /// Names that are no host's, in an inventory that somebody has changed.
    pub fn used_hosts(&self) -> anyhow::Result<Vec<HostEntry>> {
        let others = self.machines.iter().filter(|name| **name != self.metrics);
        std::iter::once(&self.metrics).chain(others).map(|name| self.host(name).cloned()).collect()
    }

    /// When the first of the hosts ends by itself without which a job cannot go on, if they do.
    pub fn ends(&self) -> Option<SystemTime> {
        let needed = [Some(&self.metrics), self.machines.first()];
        needed.into_iter().flatten().filter_map(|name| self.host(name).ok()?.ends).min()
    }

    /// A host by its name.
    ///
    /// # Errors
    /// No such host; the message has those that there are.
    pub fn host(&self, name: &str) -> anyhow::Result<&HostEntry> {
        self.hosts.iter().find(|host| host.name == name).with_context(|| {
            let names: Vec<_> = self.hosts.iter().map(|host| host.name.as_str()).collect();
            format!("there is no host {name:?}; there are {}", names.join(", "))
        })
    }
}

/// Who is what, of these hosts.
#[derive(Debug, PartialEq, Eq)]
pub struct RoleAssignment {
    /// The host for sender and receiver.
    pub metrics: HostEntry,
    /// The hosts that classify, the initializer first.
    pub machines: Vec<HostEntry>,
}

/// Gives hosts their roles: those that the file says, and for the rest the order in the file. A single host is
/// everything.
///
/// # Errors
/// Not enough hosts, or a role that is there twice.
pub fn assign_roles(hosts: &[HostEntry], cluster_size: Option<usize>) -> anyhow::Result<RoleAssignment> {
    if let [only] = hosts
        && cluster_size.is_none_or(|size| size == 1)
    {
        return Ok(RoleAssignment { metrics: only.clone(), machines: vec![only.clone()] });
    }
    let mut free: Vec<&HostEntry> = hosts.iter().filter(|host| host.role.is_none()).collect();
    let mut one = |role: Role, what: &str| -> anyhow::Result<HostEntry> {
        let mut named = hosts.iter().filter(|host| host.role == Some(role));
        match (named.next(), named.next()) {
            (Some(one), Some(other)) => {
                bail!("{} and {} both have the role of the {what}", one.name, other.name)
            }
            (Some(one), None) => Ok(one.clone()),
            (None, _) if free.is_empty() => bail!("no host is left for the role of the {what}"),
            (None, _) => Ok(free.remove(0).clone()),
        }
    };
    let metrics = one(Role::Metrics, "metrics host")?;
    let initializer = one(Role::Initializer, "initializer")?;
    let mut machines = vec![initializer];
    machines.extend(hosts.iter().filter(|host| host.role == Some(Role::Worker)).cloned());
    machines.extend(free.into_iter().cloned());
    let several = hosts.len() > 1;
    for (i, host) in hosts.iter().enumerate().filter(|_| several) {
        let address = host.private_address();
        let is_loopback = address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        ensure!(
            !is_loopback && address != "localhost",
            "{} has the address {address}, at which the other hosts would not reach it",
            host.name
        );
        if let Some(other) = hosts[..i].iter().find(|other| other.private_address() == address) {
            bail!("{} and {} have the same private address, {address}", other.name, host.name);
        }
    }
    let size = cluster_size.unwrap_or(machines.len());
    ensure!(
        (1..=machines.len()).contains(&size),
        "CLUSTER_SIZE={size} needs {} hosts, since one is the metrics host; there are {}",
        size + 1,
        hosts.len()
    );
    machines.truncate(size);
    Ok(RoleAssignment { metrics, machines })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(text: &str) -> anyhow::Result<Vec<HostEntry>> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("hosts.toml"), text).unwrap();
        std::fs::write(dir.path().join("key"), "").unwrap();
        read_hosts(&dir.path().join("hosts.toml"))
    }

    fn hosts(names: &[(&str, Option<Role>)]) -> Vec<HostEntry> {
        let text: String = names
            .iter()
            .map(|(name, _)| format!("[[host]]\nname = {name:?}\naddress = {name:?}\n"))
            .collect();
        let mut hosts = read(&text).unwrap();
        hosts.iter_mut().zip(names).for_each(|(host, (_, role))| host.role = *role);
        hosts
    }

    #[test]
    fn a_hosts_file_is_read_and_mistakes_are_named() {
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
        assert!(error("[[host]]\nname = \"-a\"\naddress = \"x\"\n").contains("is no name for a host"));
        assert!(error("[[host]]\nname = \"a\"\naddress = \"-oProxyCommand=x\"\n").contains("is no address"));
        assert!(error("[[host]]\nname = \"a\"\naddress = \"x\"\nkey = \"no\"\n").contains("is not there"));
        let twice = "[[host]]\nname = \"a\"\naddress = \"x\"\n".repeat(2);
        assert!(error(&twice).contains("are the same machine"));
        assert!(error(&twice.replacen("\"x\"", "\"y\"", 1)).contains("is there twice"));
        assert!(error("[[host]]\nname = \"a\"\naddress = \"me@x\"\n").contains("is no address"));
    }

    #[test]
    fn roles_follow_the_file_and_then_the_order() {
        let names = |roles: &RoleAssignment| {
            let machines: Vec<_> = roles.machines.iter().map(|host| host.name.clone()).collect();
            format!("{}: {}", roles.metrics.name, machines.join(" "))
        };
        let plain = hosts(&[("a", None), ("b", None), ("c", None), ("d", None)]);
        assert_eq!(names(&assign_roles(&plain, None).unwrap()), "a: b c d");
        assert_eq!(names(&assign_roles(&plain, Some(2)).unwrap()), "a: b c");
        let error = assign_roles(&plain, Some(4)).unwrap_err().to_string();
        assert_eq!(error, "CLUSTER_SIZE=4 needs 5 hosts, since one is the metrics host; there are 4");
        assert!(assign_roles(&plain, Some(0)).is_err());
        let named =
            hosts(&[("a", Some(Role::Worker)), ("b", None), ("c", Some(Role::Initializer)), ("d", None)]);
        assert_eq!(names(&assign_roles(&named, None).unwrap()), "b: c a d");
        let twice = hosts(&[("a", Some(Role::Metrics)), ("b", Some(Role::Metrics))]);
        assert!(assign_roles(&twice, None).unwrap_err().to_string().contains("both have the role"));
        assert_eq!(names(&assign_roles(&hosts(&[("a", None)]), None).unwrap()), "a: a");
        assert!(assign_roles(&hosts(&[("a", None)]), Some(2)).is_err());
    }

    #[test]
    fn an_inventory_comes_back() {
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
        assert_eq!(Inventory::load(&path).unwrap(), inventory);
        assert!(inventory.host("c").unwrap_err().to_string().ends_with("there are a, b"));
    }
}
