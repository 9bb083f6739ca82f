//! Subcommand: cargo xtask up

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use agent::protocol::{FOLDER, Request};
use anyhow::{Context, anyhow, bail, ensure};
use protocol::ports;

use super::package::Archive;
use super::probe::{Probed, probe};
use super::programs::{Missing, Model, Programs, total};
use super::python;
use super::{SHORT, all, each, end_on_interrupt, ensure_all_fetched, ensure_idle, lock_all};
use crate::hosts::{self, HostEntry, Inventory, RoleAssignment};
use crate::ssh::{self, Access, Ssh};
use deploy::console::{self, Transfer};
use deploy::request::Up;
use deploy::{exit, project};

/// How long a host may take to unpack an archive.
const UNPACK_TIME: Duration = Duration::from_secs(300);

/// Runs the command.
pub(super) fn run(args: &Up) -> anyhow::Result<ExitCode> {
    end_on_interrupt("interrupted; another cargo xtask up goes on")?;
    let path = args.inventory.clone();
    let before = Inventory::load_if_there(&path)?;
    let (wanted, ready, probed) = look(args, &path, before.as_ref()).map_err(exit::refused)?;
    make_ready(&wanted, &ready, &probed, before.as_ref(), &path)?;
    Ok(ExitCode::SUCCESS)
}

/// All that can be refused before anything is changed.
fn look(args: &Up, path: &Path, before: Option<&Inventory>) -> anyhow::Result<(Wanted, Ready, Vec<Probed>)> {
    if let Some(stack) = before.and_then(|before| before.stack.as_ref()) {
        bail!(
            "the hosts of this folder are the stack {stack} in the cloud; take it down first: cargo xtask down"
        );
    }
    refuse_beside_stack(path)?;
    let wanted = Wanted::new(args, before)?;
    let access = super::access(path, wanted.ssh_config.clone());
    let everyone = wanted.everyone();
    // What takes this machine time and what takes the hosts time, at the same time.
    let (programs, probed) = std::thread::scope(|scope| {
        let probes = scope.spawn(|| all(each(&everyone, |host| probe(host, &access))));
        let programs = Programs::build(&wanted.model);
        (programs, probes.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let probed = probed?;
    // Hosts that are not used any more are cleared.
    if let Some(before) = before.filter(|before| before.ready)
        && wanted.left(Some(before))?.iter().any(|host| host.name == before.metrics)
    {
        ensure_all_fetched(before, &access, "cargo xtask down --discard-results, before up")?;
    }
    let ready = Ready::check(&wanted, programs?, &probed)?;
    Ok((wanted, ready, probed))
}

/// A folder is for one set of hosts: with the inventory of another one, `down` would not find a stack that is up.
fn refuse_beside_stack(inventory: &Path) -> anyhow::Result<()> {
    let path = inventory.with_file_name("stack.toml");
    let Some(text) = files::read_if_there(&path)? else { return Ok(()) };
    let context = || format!("understanding what is remembered of the stack in {}", path.display());
    let remembered: toml::Table = toml::from_slice(&text).with_context(context)?;
    let may_be_up = remembered.get("may_be_up").and_then(toml::Value::as_bool) == Some(true);
    ensure!(
        !may_be_up,
        "a stack of this folder may be up in the cloud ({}); take it down first (cargo xtask down), or use another folder \
         (--inventory FILE)",
        path.display()
    );
    Ok(())
}

/// What is wanted.
pub struct Wanted {
    pub roles: RoleAssignment,
    /// All hosts that there are, also those that are not used.
    pub hosts: Vec<HostEntry>,
    /// The cluster size that was asked for, now or before.
    pub cluster_size: Option<usize>,
    pub model: Model,
    pub ssh_config: Option<PathBuf>,
    /// The stack that the hosts are of, if they are in the cloud.
    pub stack: Option<String>,
    /// Further lines for urls.txt.
    pub urls: String,
}

impl Wanted {
    fn new(args: &Up, before: Option<&Inventory>) -> anyhow::Result<Self> {
        let mut hosts = match (&args.hosts, before) {
            (Some(file), _) => hosts::read_hosts(file)?,
            (None, Some(before)) => before.hosts.clone(),
            (None, None) => bail!(
                "which hosts? Give a file of them with --hosts FILE (cargo xtask lab up 3 makes some to try, and their \
                 file, on this machine)"
            ),
        };
        let config = match &args.ssh_config {
            Some(config) => Some(std::path::absolute(config).context("finding the SSH configuration")?),
            None => before.and_then(|before| before.ssh_config.clone()),
        };
        for host in &mut hosts {
            // What only the SSH configuration knows is no address for the other hosts.
            if host.private_address.is_none() && host.address.parse::<IpAddr>().is_err() {
                host.private_address = Some(ssh::real_hostname(host, config.as_deref())?);
            }
        }
        let cluster_size =
            args.cluster_size.map(usize::from).or(before.and_then(|before| before.cluster_size));
        let roles = hosts::assign_roles(&hosts, cluster_size)?;
        let model = Model::new(args, before)?;
        Ok(Self { roles, hosts, cluster_size, model, ssh_config: config, stack: None, urls: String::new() })
    }

    /// Hosts that were used, and are not any more; also those that an earlier `up` could not clear.
    fn left(&self, before: Option<&Inventory>) -> anyhow::Result<Vec<HostEntry>> {
        let Some(before) = before else { return Ok(Vec::new()) };
        if self.stack.is_some() {
            // What is not there any more has nothing of ours.
            return Ok(Vec::new());
        }
        let mut left = before.used_hosts()?;
        left.extend(before.left.iter().cloned());
        let everyone = self.everyone();
        left.retain(|host| !everyone.contains(host));
        Ok(left)
    }

    /// The hosts that are used, each once.
    pub fn everyone(&self) -> Vec<HostEntry> {
        let mut everyone = vec![self.roles.metrics.clone()];
        everyone
            .extend(self.roles.machines.iter().filter(|host| host.name != self.roles.metrics.name).cloned());
        everyone
    }
}

/// What is to be shipped to hosts that can take it.
pub struct Ready {
    programs: Programs,
    packages: Option<Archive>,
}

impl Ready {
    /// Sees whether hosts can do their part, and makes what they need. Nothing is changed on them.
    ///
    /// # Errors
    /// Hosts that cannot run the programs; names them.
    pub fn check(wanted: &Wanted, mut programs: Programs, probed: &[Probed]) -> anyhow::Result<Self> {
        let fit = |probed: &Probed| programs.fit(probed).is_ok();
        if !probed.iter().all(fit)
            && let Some(folder) = project::build_static_programs()?
        {
            // Not for all, since they are slower: their memory allocator is a simple one.
            programs = Programs::pack(&wanted.model, &folder)?;
        }
        check(wanted, &programs, probed)?;
        all(each(probed, |host| host.ssh.check_channels()))?;
        let packages = programs.packages(&wanted.model, probed)?;
        Ok(Self { programs, packages })
    }
}

/// Makes hosts ready that let us in, and writes the inventory.
///
/// # Errors
/// Hosts that are at work, or are lost; names them.
pub fn make_ready(
    wanted: &Wanted,
    ready: &Ready,
    probed: &[Probed],
    before: Option<&Inventory>,
    path: &Path,
) -> anyhow::Result<()> {
    let Ready { programs, packages } = ready;
    let mut inventory = Inventory {
        cluster_size: wanted.cluster_size,
        metrics: wanted.roles.metrics.name.clone(),
        machines: wanted.roles.machines.iter().map(|host| host.name.clone()).collect(),
        model: wanted.model.name.clone(),
        model_is_named: wanted.model.is_named,
        requirements: wanted.model.requirements.clone(),
        agent: programs.agent_name(),
        app: programs.app.sha256.clone(),
        packages: packages.as_ref().map(|packages| packages.sha256.clone()),
        ready: true,
        ssh_config: wanted.ssh_config.clone(),
        stack: wanted.stack.clone(),
        hosts: wanted.hosts.clone(),
        left: Vec::new(),
    };
    // Before anything is on a host: whatever happens, down finds it.
    remember_new_hosts(wanted, &inventory, before, path)?;
    let roles_change = before.is_none_or(|before| before.roles() != inventory.roles());
    let bar = Transfer::new("shipping", total(probed, programs, packages.as_ref()));
    let shipped = take_over(programs, probed, packages.as_ref(), roles_change, &bar).and_then(|()| {
        // Only now: a job that runs is still commanded with the inventory as it was.
        if before != Some(&inventory) {
            let left = wanted.left(before)?;
            Inventory { ready: false, left: left.clone(), ..inventory.clone() }.save(path)?;
            inventory.left = clear_left(&left, probed, &super::access(path, wanted.ssh_config.clone()))?;
        }
        ship(wanted, programs, packages.as_ref(), probed, &bar)
    });
    bar.clear();
    shipped?;
    inventory.save(path)?;
    write_urls(path, wanted)?;
    say_who_is_what(wanted, path);
    Ok(())
}

fn say_who_is_what(wanted: &Wanted, path: &Path) {
    let RoleAssignment { metrics, machines } = &wanted.roles;
    console::data(&format!("metrics host  {} ({})", metrics.name, metrics.address));
    for (i, machine) in machines.iter().enumerate() {
        let role = if i == 0 { "initializer " } else { "worker      " };
        console::data(&format!("{role}  {} ({})", machine.name, machine.address));
    }
    let (used, there) = (wanted.everyone().len(), wanted.hosts.len());
    if used < there {
        console::note(&format!("{used} of {there} hosts are used, as CLUSTER_SIZE={} asks", machines.len()));
    }
    console::note(&format!("ready ({}): cargo xtask run-cluster", path.display()));
}

/// Writes down which hosts may have something of ours from now on.
fn remember_new_hosts(
    wanted: &Wanted,
    inventory: &Inventory,
    before: Option<&Inventory>,
    path: &Path,
) -> anyhow::Result<()> {
    let Some(before) = before.filter(|before| before.stack.is_none()) else {
        return Inventory { ready: false, ..inventory.clone() }.save(path);
    };
    let known = [before.used_hosts()?, before.left.clone()].concat();
    let new: Vec<_> = wanted.everyone().into_iter().filter(|host| !known.contains(host)).collect();
    if new.is_empty() {
        return Ok(());
    }
    let left = [before.left.clone(), new].concat();
    Inventory { left, ..before.clone() }.save(path)
}

/// Whether all hosts can run the programs.
fn check(wanted: &Wanted, programs: &Programs, probed: &[Probed]) -> anyhow::Result<()> {
    all(probed
        .iter()
        .map(|probed| {
            let name = &probed.ssh.entry().name;
            let processor = probed.value("processor").unwrap_or_default();
            ensure!(
                processor == std::env::consts::ARCH,
                "{name} has a processor of another kind: {processor}, and the programs are built for {}",
                std::env::consts::ARCH
            );
            programs.fit(probed)?;
            if let Some(mount) = probed.value("noexec") {
                bail!(
                    "{name} cannot run programs from its home folder: {mount} is mounted with noexec; mount it without \
                     (mount -o remount,exec {mount}), or log in as a user whose home is elsewhere"
                );
            }
            if python::module_of(&wanted.model.name).is_some() {
                probed.platform()?;
            }
            Ok(())
        })
        .collect())
    .map(drop)
}

/// Takes the command over all hosts. Those that are to do something else than before must not be at work.
fn take_over(
    programs: &Programs,
    hosts: &[Probed],
    packages: Option<&Archive>,
    roles_change: bool,
    bar: &Transfer,
) -> anyhow::Result<()> {
    let agent = programs.agent_name();
    all(each(hosts, |host| {
        if Missing::of(host, programs, packages).agent {
            ship_agent(&host.ssh, programs, bar)?;
        }
        host.ssh.command(&agent)
    }))?;
    lock_all(hosts.iter().map(|host| &host.ssh), "cargo xtask up")?;
    all(each(hosts, |host| {
        // An application is not changed under a job that uses it.
        let is_complete = Missing::of(host, programs, packages).archives.is_empty();
        if is_complete && !roles_change { Ok(()) } else { ensure_idle(&host.ssh) }
    }))
    .map(drop)
}

/// Ships what hosts do not have, to all of them at the same time.
fn ship(
    wanted: &Wanted,
    programs: &Programs,
    packages: Option<&Archive>,
    hosts: &[Probed],
    bar: &Transfer,
) -> anyhow::Result<()> {
    let agent = programs.agent_name();
    let shipped = all(each(hosts, |host| {
        let archives = Missing::of(host, programs, packages).archives;
        prepare(host, &archives, wanted, &agent, bar)?;
        Ok(archives.len())
    }));
    let changed = shipped?.into_iter().filter(|&archives| archives > 0).count();
    console::note(&match changed {
        0 => format!("{} hosts have the application already", hosts.len()),
        _ => format!(
            "shipped to {changed} of {} hosts: {}",
            hosts.len(),
            console::bytes(total(hosts, programs, packages))
        ),
    });
    Ok(())
}

fn ship_agent(ssh: &Ssh, programs: &Programs, bar: &Transfer) -> anyhow::Result<()> {
    let id = getrandom::u64().map_err(|e| anyhow!("making up a name: {e}"))?;
    let make =
        "umask 077; mkdir -p {FOLDER}/versions && cd {FOLDER} && if [ ! -e id ]; then echo {ID} > id; fi";
    ssh.run(&make.replace("{FOLDER}", FOLDER).replace("{ID}", &format!("{id:016x}")), SHORT)?;
    let name = format!("agent-{}", programs.agent_name());
    ssh.upload(&programs.agent.path, Path::new(&name), true, |bytes| bar.add(bytes))
}

/// Ships archives to a host that is commanded, and sees whether it can do its part.
fn prepare(
    host: &Probed,
    archives: &[(&str, &Archive)],
    wanted: &Wanted,
    agent: &str,
    bar: &Transfer,
) -> anyhow::Result<()> {
    let ssh = &host.ssh;
    let address = ssh.entry().private_address().to_owned();
    ssh.tell(&Request::Owns { address }, SHORT)
        .context("the hosts file may need a private_address for it")?;
    for (link, archive) in archives {
        let name = format!("{link}.zip");
        ssh.upload(&archive.path, Path::new(&name), false, |bytes| bar.add(bytes))?;
        let (sha256, link) = (archive.sha256.clone(), (*link).to_owned());
        ssh.tell(&Request::Unpack { archive: name, sha256, link }, UNPACK_TIME)?;
    }
    // Of other builds, and of uploads that were broken off.
    let others = host.values("agent").filter(|known| *known != agent && *known != "*");
    let others: Vec<_> = others.map(|other| format!("{FOLDER}/agent-{other}")).collect();
    if !others.is_empty() {
        ssh.run(&format!("rm -f {}", others.join(" ")), SHORT)?;
    }
    if python::module_of(&wanted.model.name).is_some() {
        let args = ["--model".to_owned(), wanted.model.name.clone()];
        super::run_cluster::check_model(ssh, &args)?;
    }
    Ok(())
}

/// Where people and programs find what is on the hosts.
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

/// Removes what an earlier `up` has put on hosts that are not used any more. One that is used under another name or address
/// is known by the id in its folder. Those that cannot be reached are given back, to be cleared another time.
fn clear_left(left: &[HostEntry], used: &[Probed], access: &Access) -> anyhow::Result<Vec<HostEntry>> {
    let used: Vec<_> = used.iter().filter_map(Probed::id).collect();
    let (mut gone, mut unreachable) = (Vec::new(), Vec::new());
    for (host, probed) in left.iter().zip(each(left, |host| probe(host, access))) {
        match probed {
            Ok(probed) => gone.push(probed),
            Err(error) => {
                console::note(&format!(
                    "not used any more, but not cleared, since it cannot be reached: {error:#}"
                ));
                unreachable.push(host.clone());
            }
        }
    }
    gone.retain(|host| host.id().is_none_or(|id| !used.contains(&id)));
    super::down::clear(&gone, false, false)
        .context("removing the application from hosts that are not used any more")?;
    Ok(unreachable)
}
