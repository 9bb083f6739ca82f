//! Assigns roles to hosts.

use std::net::IpAddr;

use anyhow::{bail, ensure};

use super::{HostEntry, Role};

/// The hosts of a job. A single host has all roles.
#[derive(Debug, PartialEq)]
pub struct RoleAssignment {
    pub metrics: HostEntry,
    /// The hosts that classify; the initializer is the first.
    pub machines: Vec<HostEntry>,
}

/// Assigns the roles that the hosts file names, then the remaining ones in the order of the file.
///
/// # Errors
/// There are too few hosts, two hosts have a role that only one can have, or other hosts cannot reach an address.
pub(crate) fn assign_roles(
    hosts: &[HostEntry],
    cluster_size: Option<usize>,
) -> anyhow::Result<RoleAssignment> {
    if let [only] = hosts
        && cluster_size.is_none_or(|size| size == 1)
    {
        return Ok(RoleAssignment { metrics: only.clone(), machines: vec![only.clone()] });
    }
    let mut free: Vec<&HostEntry> = hosts.iter().filter(|host| host.role.is_none()).collect();
    let mut take = |role: Role, what: &str| -> anyhow::Result<HostEntry> {
        let mut named = hosts.iter().filter(|host| host.role == Some(role));
        match (named.next(), named.next()) {
            (Some(one), Some(other)) => {
                bail!(
                    "{} and {} both have the role of the {what}; give it to one of them",
                    one.name,
                    other.name
                )
            }
            (Some(one), None) => Ok(one.clone()),
            (None, _) if free.is_empty() => {
                bail!("no host is left for the role of the {what}; add a host, or remove a role")
            }
            (None, _) => Ok(free.remove(0).clone()),
        }
    };
    let metrics = take(Role::Metrics, "metrics host")?;
    let initializer = take(Role::Initializer, "initializer")?;
    let mut machines = vec![initializer];
    machines.extend(hosts.iter().filter(|host| host.role == Some(Role::Worker)).cloned());
    machines.extend(free.into_iter().cloned());
    if hosts.len() > 1 {
        check_private_addresses(hosts)?;
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

fn check_private_addresses(hosts: &[HostEntry]) -> anyhow::Result<()> {
    for (i, host) in hosts.iter().enumerate() {
        let address = host.private_address();
        let is_loopback = address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        ensure!(
            !is_loopback && address != "localhost",
            "the other hosts cannot reach {} at {address}; give it a private_address in the hosts file",
            host.name
        );
        if let Some(other) = hosts[..i].iter().find(|other| other.private_address() == address) {
            bail!(
                "{} and {} have the same private address, {address}; correct one of them",
                other.name,
                host.name
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::hosts_file::tests::hosts;
    use super::*;

    #[test]
    fn named_roles_are_assigned_first_and_the_others_in_order() {
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
}
