//! The hosts, roles and model that the user wants.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use deploy::request::Up;

use crate::inventory::{HostEntry, Inventory, RoleAssignment, assign_roles, read_hosts};
use crate::package::Model;
use crate::ssh;

pub struct Wanted {
    pub roles: RoleAssignment,
    /// All hosts, including unused ones.
    pub hosts: Vec<HostEntry>,
    /// The requested cluster size; `None` uses all hosts.
    pub cluster_size: Option<usize>,
    pub model: Model,
    /// An SSH configuration in place of the user's.
    pub ssh_config: Option<PathBuf>,
    /// The stack that the hosts belong to; `None` outside the cloud.
    pub stack: Option<String>,
    /// Further lines for urls.txt.
    pub urls: String,
}

impl Wanted {
    /// From the options, and where these say nothing, from the inventory of an earlier `up`.
    pub(super) fn new(args: &Up, before: Option<&Inventory>) -> anyhow::Result<Self> {
        let mut hosts = match (&args.hosts, before) {
            (Some(file), _) => read_hosts(file)?,
            (None, Some(before)) => before.hosts.clone(),
            (None, None) => bail!(
                "no hosts are named; give a file that lists them with --hosts FILE (cargo xtask lab up 3 makes some to try, and \
                 their file, on this machine)"
            ),
        };
        let ssh_config = match &args.ssh_config {
            Some(config) => {
                Some(std::path::absolute(config).context("resolving the path of the SSH configuration")?)
            }
            None => before.and_then(|before| before.ssh_config.clone()),
        };
        for host in &mut hosts {
            // The other hosts cannot resolve a name that only this machine's SSH configuration has.
            if host.private_address.is_none() && host.address.parse::<IpAddr>().is_err() {
                host.private_address = Some(ssh::resolved_hostname(host, ssh_config.as_deref())?);
            }
        }
        let cluster_size =
            args.cluster_size.map(usize::from).or(before.and_then(|before| before.cluster_size));
        let roles = assign_roles(&hosts, cluster_size)?;
        let model = Model::new(args, before)?;
        Ok(Self { roles, hosts, cluster_size, model, ssh_config, stack: None, urls: String::new() })
    }

    /// Hosts that are no longer used, including those that an earlier `up` could not clear.
    pub(super) fn left(&self, before: Option<&Inventory>) -> anyhow::Result<Vec<HostEntry>> {
        let Some(before) = before else { return Ok(Vec::new()) };
        if self.stack.is_some() {
            // A terminated instance has nothing to clear.
            return Ok(Vec::new());
        }
        let mut left = before.used_hosts()?;
        left.extend(before.left.iter().cloned());
        let used = self.used_hosts();
        left.retain(|host| !used.contains(host));
        Ok(left)
    }

    /// The hosts that a job uses, each once; the metrics host is the first.
    pub fn used_hosts(&self) -> Vec<HostEntry> {
        let RoleAssignment { metrics, machines } = &self.roles;
        let others = machines.iter().filter(|host| host.name != metrics.name);
        std::iter::once(metrics).chain(others).cloned().collect()
    }
}
