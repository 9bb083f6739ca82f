//! Hosts over SSH: what the commands for them do.
//!
//! | module | holds |
//! |---|---|
//! | [`hosts`] | the hosts file, and the inventory that `up` writes |
//! | [`ssh`] | a host over one multiplexed connection: scripts, files, its agent |
//! | [`up`] | hosts are checked and given the programs; with `probe`, `package`, `programs` and `python` |
//! | `run_cluster` | a job on them |
//! | `get_results`, `down`, `hub`, [`status`] | what else there is to do with them |
//! | [`scratch`], [`runtime`] | temporary folders; where asynchronous libraries run |

mod down;
mod get_results;
pub mod hosts;
mod hub;
mod package;
pub mod probe;
pub mod programs;
mod python;
mod run_cluster;
pub mod runtime;
pub mod scratch;
pub mod ssh;
pub mod status;
pub mod up;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use agent::protocol::{Holder, Reply, Request, Status};
use anyhow::{anyhow, bail};

use crate::hosts::{HostEntry, Inventory};
use crate::ssh::{Access, NoAnswer, Ssh};
use deploy::job::HUB;
use deploy::request::Request as UserRequest;
use deploy::{console, exit, interrupt};

/// How long a host may take for what takes it no time.
pub const SHORT: Duration = Duration::from_secs(30);

/// Does what the user asks.
///
/// # Errors
/// Those of the command; the error knows its exit code.
pub fn run(request: &UserRequest) -> anyhow::Result<ExitCode> {
    let outcome = match request {
        UserRequest::Plan(_) | UserRequest::Job(_) => bail!("this command is for hosts in the cloud"),
        UserRequest::Up(up) => up::run(up),
        UserRequest::RunCluster(run) => run_cluster::run(run),
        UserRequest::GetResults(get) => get_results::run(get),
        UserRequest::Status(status) => status::status(status),
        UserRequest::Logs(logs) => status::logs(logs),
        UserRequest::Ssh(ssh) => status::ssh(ssh),
        UserRequest::Hub(hub) => hub::run(hub),
        UserRequest::Stop(stop) => down::stop(stop),
        UserRequest::Down(down) => down::down(down),
    };
    scratch::leave();
    outcome
}

/// How to get in to hosts.
pub fn access(inventory_path: &Path, config: Option<PathBuf>) -> Access {
    // Beside the inventory, since both belong together.
    Access { config, known_hosts: inventory_path.with_extension("known_hosts") }
}

/// The inventory, and how to get in to its hosts.
fn load(path: &Path) -> anyhow::Result<(Inventory, Access)> {
    let inventory = Inventory::load(path)?;
    let access = access(path, inventory.ssh_config.clone());
    Ok((inventory, access))
}

/// From now on, an interruption ends this process at once. That is in order where whatever is half done is gone on with, or
/// cleaned up, by the next command; and where threads wait for hosts, they cannot be called back anyway.
fn end_on_interrupt(words: &'static str) -> anyhow::Result<()> {
    process::signals::on_end_signals(move || {
        if !words.is_empty() {
            console::note(words);
        }
        interrupt::exit()
    })
}

/// Does the same for each host, for all at the same time, and gives what came of it in their order.
pub fn each<I: Sync, T: Send>(
    items: &[I],
    work: impl Fn(&I) -> anyhow::Result<T> + Sync,
) -> Vec<anyhow::Result<T>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(|| work(item))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// All outcomes, or all errors in one.
pub fn all<T>(outcomes: Vec<anyhow::Result<T>>) -> anyhow::Result<Vec<T>> {
    let count = outcomes.len();
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            Ok(outcome) => good.push(outcome),
            Err(error) => bad.push(error),
        }
    }
    match bad.len() {
        0 => Ok(good),
        1 => Err(bad.remove(0)),
        failed => {
            let list: String = bad.iter().map(|error| format!("\n  {error:#}")).collect();
            let all = format!("{failed} of {count} hosts failed:{list}");
            // Kept, since it has a cause that may not lie with the hosts.
            let have_no_answer = bad.iter().all(exit::is::<NoAnswer>);
            let is_busy = bad.iter().any(exit::is_busy);
            let error = if have_no_answer { anyhow::Error::new(NoAnswer).context(all) } else { anyhow!(all) };
            Err(if is_busy { exit::busy(error) } else { error })
        }
    }
}

/// Connects to hosts, and to their agents.
fn command_all(hosts: &[HostEntry], access: &Access, agent: &str) -> anyhow::Result<Vec<Ssh>> {
    all(each(hosts, |host| command(host, access, agent)))
}

/// Connects to a host, and to its agent.
fn command(host: &HostEntry, access: &Access, agent: &str) -> anyhow::Result<Ssh> {
    let ssh = Ssh::connect(host, access)?;
    ssh.command(agent)?;
    Ok(ssh)
}

/// Takes the command over hosts, one after the other, so that of two who try it at the same time one gets all.
fn lock_all<'a>(hosts: impl IntoIterator<Item = &'a Ssh>, what: &str) -> anyhow::Result<()> {
    let who = format!("{} on {}, with {what} (process {})", user(), hostname(), std::process::id());
    let since = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let us = who.clone();
    let request = Request::Lock(Holder { who, since });
    for host in hosts {
        match host.request(&request, SHORT)? {
            Reply::Nothing => {}
            Reply::Held(Holder { who, .. }) if who == us => {
                bail!("{} is the same machine as another host of the inventory", host.entry().name)
            }
            Reply::Held(Holder { who, since }) => {
                return Err(exit::busy(anyhow!(
                    "{} is commanded by {who}, since {since}; wait for that to end (cargo xtask status shows how far it is), \
                     or end its job with: cargo xtask stop",
                    host.entry().name
                )));
            }
            other => bail!("on {}: the agent answered {other:?}", host.entry().name),
        }
    }
    Ok(())
}

fn user() -> String {
    duct::cmd!("id", "-un").stderr_null().read().unwrap_or_else(|_| "somebody".into())
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "another machine".into() } else { name.trim().to_owned() }
}

/// How a host is.
fn status_of(host: &Ssh) -> anyhow::Result<Status> {
    match host.request(&Request::Status, SHORT)? {
        Reply::Status(status) => Ok(*status),
        other => bail!("on {}: the agent answered {other:?}", host.entry().name),
    }
}

/// Programs of the job that run. The hub is none of them: it stays when the job is done.
fn running(status: &Status) -> Vec<&str> {
    let running = status.programs.iter().filter(|program| program.running.is_some());
    running.map(|program| program.name.as_str()).filter(|name| *name != HUB).collect()
}

/// Results that would be lost: nobody has fetched them.
fn ensure_fetched(host: &HostEntry, status: &Status, otherwise: &str) -> anyhow::Result<()> {
    let Some(rows) = status.unfetched else { return Ok(()) };
    let partial = if status.summary.is_some() { "" } else { " --partial" };
    Err(exit::refused(anyhow!(
        "{} has results of {} rows that were not fetched, or only in part; fetch them with: cargo xtask get-results{partial}; or give \
         them up: {otherwise}",
        host.name,
        console::count(rows)
    )))
}

/// The same for the metrics host of an inventory, which may not be reachable any more: then there is nothing to be fetched.
///
/// # Errors
/// Results that were not fetched.
pub fn ensure_all_fetched(inventory: &Inventory, access: &Access, otherwise: &str) -> anyhow::Result<()> {
    let metrics = inventory.host(&inventory.metrics)?;
    let asked = command(metrics, access, &inventory.agent).and_then(|host| status_of(&host));
    match asked {
        Ok(status) => ensure_fetched(metrics, &status, otherwise),
        Err(error) => {
            console::note(&format!(
                "whether there are results that were not fetched is not known: {error:#}"
            ));
            Ok(())
        }
    }
}

/// A job that runs is not to be disturbed.
fn ensure_idle(ssh: &Ssh) -> anyhow::Result<()> {
    let status = status_of(ssh)?;
    let running = running(&status);
    if running.is_empty() {
        return Ok(());
    }
    Err(exit::busy(anyhow!(
        "a job is running on {} ({}); wait for its end, or end it with: cargo xtask stop",
        ssh.entry().name,
        running.join(", ")
    )))
}

/// Asks a host to end all programs of ours.
fn stop_all(host: &Ssh, grace: Duration) -> anyhow::Result<()> {
    stop_but(host, None, grace)
}

/// Asks a host to end all programs of the job, and to let the hub go on.
fn stop_job(host: &Ssh, grace: Duration) -> anyhow::Result<()> {
    stop_but(host, Some(HUB), grace)
}

fn stop_but(host: &Ssh, spared: Option<&str>, grace: Duration) -> anyhow::Result<()> {
    let grace_ms = grace.as_millis() as u64;
    let request = Request::Stop { name: None, spared: spared.map(str::to_owned), grace_ms };
    host.tell(&request, grace + SHORT)
}
