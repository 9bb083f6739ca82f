//! Subcommand: cargo xtask up

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use supervisor::protocol::{FOLDER, Request};
use wire::ports;

use super::package::{self, Archive};
use super::probe::{Probed, probe};
use super::python::{self, Platform};
use super::{SHORT, all, each, end_on_interrupt, ensure_idle, lock_all};
use crate::commands::remote::Up;
use crate::host::ssh::{self, Access, Ssh};
use crate::hosts::{self, Cast, HostEntry, Inventory};
use crate::project;
use crate::ui::{self, Transfer};

/// How long a host may take to unpack an archive.
const UNPACK_TIME: Duration = Duration::from_secs(300);
/// How long a box may take to load.
const CHECK_TIME: Duration = Duration::from_secs(180);

/// Runs the command.
pub(super) fn run(args: &Up) -> anyhow::Result<ExitCode> {
    end_on_interrupt("interrupted; another cargo xtask up goes on")?;
    let path = super::inventory_path(&args.place)?;
    let before = Inventory::load_if_there(&path)?;
    let plan = Plan::new(args, before.as_ref())?;
    let access = super::access(&path, plan.ssh_config.clone());
    let everyone = plan.everyone();
    // What takes this machine time and what takes the hosts time, at the same time.
    let (programs, probed) = std::thread::scope(|scope| {
        let probes = scope.spawn(|| all(each(&everyone, |host| probe(host, &access))));
        let programs = project::build_programs().and_then(|folder| Programs::pack(&plan, &folder));
        (programs, probes.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let (mut programs, probed) = (programs?, probed?);
    let fit = |probed: &Probed| programs.fit(probed).is_ok();
    if !probed.iter().all(fit)
        && let Some(folder) = project::build_static_programs()?
    {
        // Not for all, since they are slower: their memory allocator is a simple one.
        programs = Programs::pack(&plan, &folder)?;
    }
    check(&plan, &programs, &probed)?;
    let packages = programs.packages(&plan, &probed)?;
    let left = plan.left(before.as_ref())?;
    let mut inventory = Inventory {
        cluster_size: plan.cast.machines.len(),
        metrics: plan.cast.metrics.name.clone(),
        machines: plan.cast.machines.iter().map(|host| host.name.clone()).collect(),
        classifier: plan.classifier.clone(),
        supervisor: programs.supervisor_name(),
        app: programs.app.sha256.clone(),
        packages: packages.as_ref().map(|packages| packages.sha256.clone()),
        ready: false,
        ssh_config: plan.ssh_config.clone(),
        hosts: plan.hosts.clone(),
        left,
    };
    let changed = before.as_ref().is_none_or(|before| before.roles() != inventory.roles());
    // Before anything is on a host: whatever happens, down finds it.
    inventory.save(&path)?;
    leave(&inventory.left, &probed, &access)?;
    inventory.left.clear();
    ship(&plan, &programs, packages.as_ref(), &probed, changed)?;
    inventory.ready = true;
    inventory.save(&path)?;
    write_urls(&path, &plan.cast)?;
    let Cast { metrics, machines } = &plan.cast;
    ui::data(&format!("metrics host  {} ({})", metrics.name, metrics.address));
    for (i, machine) in machines.iter().enumerate() {
        let role = if i == 0 { "initializer " } else { "worker      " };
        ui::data(&format!("{role}  {} ({})", machine.name, machine.address));
    }
    ui::note(&format!("ready ({}): cargo xtask run-cluster", path.display()));
    Ok(ExitCode::SUCCESS)
}

/// What is wanted.
struct Plan {
    cast: Cast,
    hosts: Vec<HostEntry>,
    classifier: String,
    requirements: Option<PathBuf>,
    ssh_config: Option<PathBuf>,
}

impl Plan {
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
        let size = args.cluster_size.map(usize::from).or(before.map(|before| before.cluster_size));
        let cast = hosts::cast(&hosts, size)?;
        let before_box = before.map(|before| before.classifier.clone());
        let classifier = args.classifier.clone().or(before_box).unwrap_or_else(|| "native".into());
        let requirements = args.requirements.clone();
        ensure!(
            requirements.is_none() || python::module_of(&classifier).is_some(),
            "--requirements is for a Python box, and --classifier is {classifier}"
        );
        Ok(Self { cast, hosts, classifier, requirements, ssh_config: config })
    }

    /// Hosts that were used, and are not any more; also those that an earlier `up` could not clear.
    fn left(&self, before: Option<&Inventory>) -> anyhow::Result<Vec<HostEntry>> {
        let Some(before) = before else { return Ok(Vec::new()) };
        let mut left = before.used_hosts()?;
        left.extend(before.left.iter().cloned());
        let everyone = self.everyone();
        left.retain(|host| !everyone.contains(host));
        Ok(left)
    }

    /// The hosts that are used, each once.
    fn everyone(&self) -> Vec<HostEntry> {
        let mut everyone = vec![self.cast.metrics.clone()];
        everyone
            .extend(self.cast.machines.iter().filter(|host| host.name != self.cast.metrics.name).cloned());
        everyone
    }
}

/// What is shipped, but for Python packages.
struct Programs {
    supervisor: Archive,
    app: Archive,
    /// Where that is, for as long as this is here.
    _temporary: tempfile::TempDir,
    needed_glibc: Option<u32>,
    /// Where the Python module lies.
    module_folder: Option<PathBuf>,
}

impl Programs {
    fn pack(plan: &Plan, folder: &Path) -> anyhow::Result<Self> {
        let mut files: BTreeMap<_, _> =
            project::PROGRAMS.iter().map(|name| ((*name).to_owned(), folder.join(name))).collect();
        let programs: Vec<_> = files.values().cloned().collect();
        let module_folder = match python::module_of(&plan.classifier) {
            Some(module) => Some(python::add_module(&mut files, module)?),
            None => None,
        };
        let temporary = tempfile::tempdir().context("making a folder for the archive")?;
        Ok(Self {
            supervisor: package::describe(&folder.join("supervisor"))?,
            app: package::pack(&files, &temporary.path().join("app.zip"))?,
            _temporary: temporary,
            needed_glibc: package::needed_glibc(&programs)?,
            module_folder,
        })
    }

    /// Whether a host has the C library that they need.
    fn fit(&self, host: &Probed) -> anyhow::Result<()> {
        package::check_glibc(self.needed_glibc, host.value("libc").unwrap_or_default())
            .with_context(|| format!("{} cannot run the programs", host.ssh.entry().name))
    }

    fn supervisor_name(&self) -> String {
        self.supervisor.sha256[..16].to_owned()
    }

    fn packages(&self, plan: &Plan, probed: &[Probed]) -> anyhow::Result<Option<Archive>> {
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
        python::packages(plan.requirements.as_deref(), folder, &platform).map(Some)
    }
}

/// Whether all hosts can run the programs.
fn check(plan: &Plan, programs: &Programs, probed: &[Probed]) -> anyhow::Result<()> {
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
            if python::module_of(&plan.classifier).is_some() {
                probed.platform()?;
            }
            Ok(())
        })
        .collect())
    .map(drop)
}

/// What a host does not have.
struct Missing<'a> {
    supervisor: bool,
    /// Archives, by the links that should lead to them.
    archives: Vec<(&'static str, &'a Archive)>,
}

impl<'a> Missing<'a> {
    fn of(host: &Probed, programs: &'a Programs, packages: Option<&'a Archive>) -> Self {
        let supervisor = programs.supervisor_name();
        let has = |link: &str, archive: &Archive| {
            host.value(link) == Some(format!("versions/{link}-{}", archive.sha256).as_str())
        };
        let archives = [("app", Some(&programs.app)), ("packages", packages)];
        let archives = archives.into_iter().filter_map(|(link, archive)| Some((link, archive?)));
        Self {
            supervisor: host.supervisors().all(|known| known != supervisor),
            archives: archives.filter(|(link, archive)| !has(link, archive)).collect(),
        }
    }

    /// Bytes to be shipped.
    fn length(&self, programs: &Programs) -> u64 {
        let supervisor = if self.supervisor { programs.supervisor.length } else { 0 };
        supervisor + self.archives.iter().map(|(_, archive)| archive.length).sum::<u64>()
    }
}

/// Ships what hosts do not have, to all of them at the same time.
fn ship(
    plan: &Plan,
    programs: &Programs,
    packages: Option<&Archive>,
    hosts: &[Probed],
    roles_change: bool,
) -> anyhow::Result<()> {
    let missing = |host: &Probed| Missing::of(host, programs, packages);
    let total: u64 = hosts.iter().map(|host| missing(host).length(programs)).sum();
    let bar = Transfer::new("shipping", total);
    let supervisor = programs.supervisor_name();
    let shipped = all(each(hosts, |host| {
        if missing(host).supervisor {
            ship_supervisor(&host.ssh, programs, &bar)?;
        }
        host.ssh.command(&supervisor)
    }))
    .and_then(|_| lock_all(hosts.iter().map(|host| &host.ssh), "cargo xtask up"))
    .and_then(|()| {
        all(each(hosts, |host| {
            if roles_change {
                ensure_idle(&host.ssh)?;
            }
            let archives = missing(host).archives;
            prepare(host, &archives, plan, &supervisor, &bar)?;
            Ok(archives.len())
        }))
    });
    bar.clear();
    let changed = shipped?.into_iter().filter(|&archives| archives > 0).count();
    ui::note(&match changed {
        0 => format!("{} hosts have the application already", hosts.len()),
        _ => format!("shipped to {changed} of {} hosts: {}", hosts.len(), ui::bytes(total)),
    });
    Ok(())
}

fn ship_supervisor(ssh: &Ssh, programs: &Programs, bar: &Transfer) -> anyhow::Result<()> {
    let id = getrandom::u64().map_err(|e| anyhow!("making up a name: {e}"))?;
    let make =
        "umask 077; mkdir -p {FOLDER}/versions && cd {FOLDER} && if [ ! -e id ]; then echo {ID} > id; fi";
    ssh.run(&make.replace("{FOLDER}", FOLDER).replace("{ID}", &format!("{id:016x}")), SHORT)?;
    let name = format!("supervisor-{}", programs.supervisor_name());
    ssh.upload(&programs.supervisor.path, Path::new(&name), true, |bytes| bar.add(bytes))
}

/// Ships archives to a host that is commanded, and sees whether it can do its part.
fn prepare(
    host: &Probed,
    archives: &[(&str, &Archive)],
    plan: &Plan,
    supervisor: &str,
    bar: &Transfer,
) -> anyhow::Result<()> {
    let ssh = &host.ssh;
    let address = ssh.entry().private_address().to_owned();
    ssh.tell(&Request::Owns { address }, SHORT)
        .context("the hosts file may need a private_address for it")?;
    for (link, archive) in archives {
        // An application is not changed under a job that uses it.
        ensure_idle(ssh)?;
        let name = format!("{link}.zip");
        ssh.upload(&archive.path, Path::new(&name), false, |bytes| bar.add(bytes))?;
        let (sha256, link) = (archive.sha256.clone(), (*link).to_owned());
        ssh.tell(&Request::Unpack { archive: name, sha256, link }, UNPACK_TIME)?;
    }
    // Of other builds, and of uploads that were broken off.
    let others = host.values("supervisor").filter(|known| *known != supervisor && *known != "*");
    let others: Vec<_> = others.map(|other| format!("{FOLDER}/supervisor-{other}")).collect();
    if !others.is_empty() {
        ssh.run(&format!("rm -f {}", others.join(" ")), SHORT)?;
    }
    if python::module_of(&plan.classifier).is_some() {
        let script = format!(
            "cd {FOLDER} && PYTHONPATH={} app/classifier check --classifier {}",
            super::run_cluster::PYTHON_PATH,
            plan.classifier
        );
        ssh.run(&script, CHECK_TIME)?;
    }
    Ok(())
}

/// Where people and programs find what is on the hosts.
fn write_urls(inventory: &Path, cast: &Cast) -> anyhow::Result<()> {
    let path = inventory.with_file_name("urls.txt");
    let text = format!(
        "rows     tcp://{}:{}\nresults  tcp://{}:{}\n",
        cast.machines[0].private_address(),
        ports::ROWS,
        cast.metrics.private_address(),
        ports::RESULTS
    );
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// Removes what an earlier `up` has put on hosts that are not used any more. One that is used under another name or address
/// is known by the id in its folder.
fn leave(left: &[HostEntry], used: &[Probed], access: &Access) -> anyhow::Result<()> {
    if left.is_empty() {
        return Ok(());
    }
    let used: Vec<_> = used.iter().filter_map(Probed::id).collect();
    let gone = all(each(left, |host| probe(host, access)));
    let mut gone = gone.context("looking at hosts that are not used any more")?;
    gone.retain(|host| host.id().is_none_or(|id| !used.contains(&id)));
    super::down::clear(&gone, false).context("removing the application from hosts that are not used any more")
}
