//! Ships the programs to hosts, and writes the inventory.

use std::path::Path;
use std::time::Duration;

use agent::protocol::{FOLDER, Request};
use anyhow::{Context, anyhow, bail, ensure};
use deploy::console::{self, Transfer};
use deploy::project;
use deploy::python_module::module_of;
use protocol::ports;

use super::Wanted;
use crate::agents::{SHORT, access, ensure_idle, lock_all};
use crate::commands::down;
use crate::commands::run_cluster::check_model;
use crate::inventory::{HostEntry, Inventory, RoleAssignment};
use crate::package::{Archive, Missing, Programs, bytes_to_ship};
use crate::parallel::{all, each};
use crate::probe::{Probed, probe};
use crate::ssh::{Access, Ssh};

/// How long a host may take to unpack an archive.
const UNPACK_TIME: Duration = Duration::from_secs(300);

/// Hosts that can run the programs, and what to ship to them.
pub struct Rollout {
    wanted: Wanted,
    hosts: Vec<Probed>,
    programs: Programs,
    packages: Option<Archive>,
}

impl Rollout {
    /// Checks that the hosts can run the programs, and makes what they need. Nothing is changed on them.
    ///
    /// # Errors
    /// Some hosts cannot run the programs; the error lists them.
    pub fn check(wanted: Wanted, mut programs: Programs, hosts: Vec<Probed>) -> anyhow::Result<Self> {
        let fits = |host: &Probed| programs.check_glibc(host).is_ok();
        if !hosts.iter().all(fits)
            && let Some(folder) = project::build_static_programs()?
        {
            // Only if needed, since they are slower: their memory allocator is a simple one.
            programs = Programs::pack(&wanted.model, &folder)?;
        }
        all(hosts.iter().map(|host| check_host(&wanted, &programs, host)).collect())?;
        all(each(&hosts, |host| host.ssh.check_channels()))?;
        let packages = programs.packages(&wanted.model, &hosts)?;
        Ok(Self { wanted, hosts, programs, packages })
    }

    /// Makes the hosts ready, and writes the inventory to `path`. `before` is the inventory of an earlier `up`.
    ///
    /// # Errors
    /// Some hosts are busy or lost; the error lists them.
    pub fn run(&self, before: Option<&Inventory>, path: &Path) -> anyhow::Result<()> {
        let mut inventory = self.inventory();
        // Before anything is on a host, so that `down` finds it whatever happens.
        self.save_new_hosts(&inventory, before, path)?;
        let roles_change = before.is_none_or(|before| before.roles() != inventory.roles());
        let bar =
            Transfer::new("shipping", bytes_to_ship(&self.hosts, &self.programs, self.packages.as_ref()));
        let shipped = self.take_over(roles_change, &bar).and_then(|()| {
            // Not earlier: until the hosts are locked, a running job uses the old inventory.
            if before != Some(&inventory) {
                let left = self.wanted.left(before)?;
                Inventory { ready: false, left: left.clone(), ..inventory.clone() }.save(path)?;
                let access = access(path, self.wanted.ssh_config.clone());
                inventory.left = clear_left(&left, &self.hosts, &access)?;
            }
            self.ship(&bar)
        });
        bar.clear();
        shipped?;
        inventory.save(path)?;
        write_urls(path, &self.wanted)?;
        show_roles(&self.wanted, path);
        Ok(())
    }

    fn inventory(&self) -> Inventory {
        let Self { wanted, programs, packages, .. } = self;
        Inventory {
            cluster_size: wanted.cluster_size,
            metrics: wanted.roles.metrics.name.clone(),
            machines: wanted.roles.machines.iter().map(|host| host.name.clone()).collect(),
            model: wanted.model.name.clone(),
            model_is_named: wanted.model.is_named,
            requirements: wanted.model.requirements.clone(),
            include: wanted.model.selection.include.clone(),
            agent: programs.agent_name(),
            app: programs.app.sha256.clone(),
            packages: packages.as_ref().map(|packages| packages.sha256.clone()),
            ready: true,
            ssh_config: wanted.ssh_config.clone(),
            stack: wanted.stack.clone(),
            hosts: wanted.hosts.clone(),
            left: Vec::new(),
        }
    }

    /// Saves which further hosts may have files of ours from now on.
    fn save_new_hosts(
        &self,
        inventory: &Inventory,
        before: Option<&Inventory>,
        path: &Path,
    ) -> anyhow::Result<()> {
        let Some(before) = before.filter(|before| before.stack.is_none()) else {
            return Inventory { ready: false, ..inventory.clone() }.save(path);
        };
        let known = [before.used_hosts()?, before.left.clone()].concat();
        let new: Vec<_> = self.wanted.used_hosts().into_iter().filter(|host| !known.contains(host)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let left = [before.left.clone(), new].concat();
        Inventory { left, ..before.clone() }.save(path)
    }

    /// Locks all hosts. Those whose programs or roles change must be idle.
    fn take_over(&self, roles_change: bool, bar: &Transfer) -> anyhow::Result<()> {
        let agent = self.programs.agent_name();
        all(each(&self.hosts, |host| {
            if self.missing(host).agent {
                self.ship_agent(&host.ssh, bar)?;
            }
            host.ssh.start_agent(&agent)
        }))?;
        lock_all(self.hosts.iter().map(|host| &host.ssh), "cargo xtask up")?;
        all(each(&self.hosts, |host| {
            // An application must not change under a job that uses it.
            let is_complete = self.missing(host).archives.is_empty();
            if is_complete && !roles_change { Ok(()) } else { ensure_idle(&host.ssh) }
        }))
        .map(drop)
    }

    fn missing(&self, host: &Probed) -> Missing<'_> {
        Missing::on(host, &self.programs, self.packages.as_ref())
    }

    /// Ships to all hosts at the same time what they lack.
    fn ship(&self, bar: &Transfer) -> anyhow::Result<()> {
        let shipped = all(each(&self.hosts, |host| {
            let archives = self.missing(host).archives;
            self.complete(host, &archives, bar)?;
            Ok(archives.len())
        }));
        let changed = shipped?.into_iter().filter(|&archives| archives > 0).count();
        let count = self.hosts.len();
        console::note(&match changed {
            0 => format!("{count} hosts have the application already"),
            _ => {
                let bytes = bytes_to_ship(&self.hosts, &self.programs, self.packages.as_ref());
                format!("shipped to {changed} of {count} hosts: {}", console::bytes(bytes))
            }
        });
        Ok(())
    }

    fn ship_agent(&self, ssh: &Ssh, bar: &Transfer) -> anyhow::Result<()> {
        let id = getrandom::u64().map_err(|error| anyhow!("generating a random id for a host: {error}"))?;
        let script = format!(
            "umask 077; mkdir -p {FOLDER}/versions && cd {FOLDER} && if [ ! -e id ]; then echo {id:016x} > id; fi"
        );
        ssh.run(&script, SHORT)?;
        let name = format!("agent-{}", self.programs.agent_name());
        ssh.upload(&self.programs.agent.path, Path::new(&name), true, |bytes| bar.add(bytes))
    }

    /// Ships archives to a locked host, and checks that the host can run the model.
    fn complete(&self, host: &Probed, archives: &[(&str, &Archive)], bar: &Transfer) -> anyhow::Result<()> {
        let ssh = &host.ssh;
        let address = ssh.entry().private_address().to_owned();
        ssh.send(&Request::Owns { address }, SHORT)
            .context("the hosts file may need a private_address for it")?;
        for (link, archive) in archives {
            let name = format!("{link}.zip");
            ssh.upload(&archive.path, Path::new(&name), false, |bytes| bar.add(bytes))?;
            let (sha256, link) = (archive.sha256.clone(), (*link).to_owned());
            ssh.send(&Request::Unpack { archive: name, sha256, link }, UNPACK_TIME)?;
        }
        // Agents of other builds, and of interrupted uploads.
        let agent = self.programs.agent_name();
        let others = host.values("agent").filter(|known| *known != agent && *known != "*");
        let others: Vec<_> = others.map(|other| format!("{FOLDER}/agent-{other}")).collect();
        if !others.is_empty() {
            ssh.run(&format!("rm -f {}", others.join(" ")), SHORT)?;
        }
        let model = &self.wanted.model.name;
        if module_of(model).is_some() {
            check_model(ssh, &["--model".to_owned(), model.clone()])?;
        }
        Ok(())
    }
}

/// Checks that a host can run the programs.
fn check_host(wanted: &Wanted, programs: &Programs, host: &Probed) -> anyhow::Result<()> {
    let name = &host.ssh.entry().name;
    let processor = host.value("processor").unwrap_or_default();
    ensure!(
        processor == std::env::consts::ARCH,
        "{name} has a processor of another kind: {processor}, and the programs are built for {}; use a host of that kind",
        std::env::consts::ARCH
    );
    programs.check_glibc(host)?;
    if let Some(mount) = host.value("noexec") {
        bail!(
            "{name} cannot run programs from its home folder: {mount} is mounted with noexec; mount it without \
             (mount -o remount,exec {mount}), or log in as a user whose home is elsewhere"
        );
    }
    if module_of(&wanted.model.name).is_some() {
        host.platform()?;
    }
    Ok(())
}

/// Removes the application from hosts that are no longer used; returns those that cannot be reached, for another try later.
/// The id in its folder identifies a host that is used under another name or address.
fn clear_left(left: &[HostEntry], used: &[Probed], access: &Access) -> anyhow::Result<Vec<HostEntry>> {
    let used: Vec<_> = used.iter().filter_map(Probed::id).collect();
    let (mut reached, mut unreachable) = (Vec::new(), Vec::new());
    for (host, probed) in left.iter().zip(each(left, |host| probe(host, access))) {
        match probed {
            Ok(probed) => reached.push(probed),
            Err(error) => {
                console::note(&format!(
                    "a host that is no longer used is not cleared, since it cannot be reached: {error:#}"
                ));
                unreachable.push(host.clone());
            }
        }
    }
    reached.retain(|host| host.id().is_none_or(|id| !used.contains(&id)));
    down::clear(&reached, false, false)
        .context("removing the application from hosts that are no longer used")?;
    Ok(unreachable)
}

/// Writes urls.txt beside the inventory.
fn write_urls(inventory: &Path, wanted: &Wanted) -> anyhow::Result<()> {
    let path = inventory.with_file_name("urls.txt");
    let url = |host: &HostEntry, port: u16| match host.private_address() {
        address if address.contains(':') => format!("tcp://[{address}]:{port}"),
        address => format!("tcp://{address}:{port}"),
    };
    let text = format!(
        "rows     {}\nresults  {}\nhub      http://127.0.0.1:{} (through cargo xtask hub)\n{}",
        url(&wanted.roles.machines[0], ports::ROWS),
        url(&wanted.roles.metrics, ports::RESULTS),
        ports::HUB,
        wanted.urls
    );
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

fn show_roles(wanted: &Wanted, path: &Path) {
    let RoleAssignment { metrics, machines } = &wanted.roles;
    console::data(&format!("metrics host  {} ({})", metrics.name, metrics.address));
    for (i, machine) in machines.iter().enumerate() {
        let role = if i == 0 { "initializer " } else { "worker      " };
        console::data(&format!("{role}  {} ({})", machine.name, machine.address));
    }
    let (used, all) = (wanted.used_hosts().len(), wanted.hosts.len());
    if used < all {
        console::note(&format!("{used} of {all} hosts are used, as CLUSTER_SIZE={} asks", machines.len()));
    }
    console::note(&format!("ready ({}): cargo xtask run-cluster", path.display()));
}
