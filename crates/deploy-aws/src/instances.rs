//! Instances that are there, or were launched just now: waited for, and ended.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use super::aws::{Aws, Explain};
use super::discover::instances;
use super::errors::{ApiError, Class, class_of, unless};
use super::state::{Instance, Life};
use deploy::{console, interrupt};

/// How long instances may take from their launch until they run and have their addresses.
const RUNNING_TIME: Duration = Duration::from_secs(300);
/// How long it may take until what was made is known everywhere.
const KNOWN_TIME: Duration = Duration::from_secs(30);
/// How long it may take until a tag allows what the policy allows by tag. A permission that is missing is told after it.
const ALLOWED_TIME: Duration = Duration::from_secs(5);
/// How long what was launched may be in no answer. AWS promises no time; it is mostly a second.
pub(super) const UNSEEN_TIME: Duration = Duration::from_secs(5);
/// How many instances one call ends: EC2 takes a thousand, and advises fewer.
const ENDED_AT_ONCE: usize = 200;
/// Between two looks at instances, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(3));

/// Does something with what was made just now: it may not be known everywhere yet, nor its tag, which allows to change it.
pub(super) async fn retry_not_found<T, F>(call: impl Fn() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let (deadline, allowed) = (Instant::now() + KNOWN_TIME, Instant::now() + ALLOWED_TIME);
    let is_new = |error: &anyhow::Error| match class_of(error) {
        Some(Class::NotFound) => true,
        Some(Class::Permission) => Instant::now() < allowed,
        _ => false,
    };
    let mut pause = PAUSES.0;
    loop {
        match call().await {
            Err(error) if is_new(&error) && Instant::now() < deadline => {}
            outcome => return outcome,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Ends instances: as many as one call may end, or, when that fails because of one of them, each for itself.
pub(super) async fn end(aws: &Aws, ids: Vec<String>) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for some in ids.chunks(ENDED_AT_ONCE) {
        if let Err(error) = end_some(aws, some.to_vec()).await {
            failed.push(error);
        }
    }
    match failed.len() {
        0 => Ok(()),
        1 => Err(failed.remove(0)),
        _ => bail!("{}", failed.iter().map(|error| format!("{error:#}")).collect::<Vec<_>>().join("; ")),
    }
}

async fn end_some(aws: &Aws, ids: Vec<String>) -> anyhow::Result<()> {
    let end = |ids: Vec<String>| async {
        let ended = aws.ec2.terminate_instances().set_instance_ids(Some(ids)).send().await;
        ended.explain("ec2:TerminateInstances", aws).map(drop)
    };
    let all = retry_not_found(|| end(ids.clone())).await;
    if all.is_ok() || ids.len() == 1 {
        return all;
    }
    let mut failed = Vec::new();
    for id in ids {
        if let Err(error) = unless(Class::NotFound, end(vec![id.clone()]).await) {
            failed.push(format!("{id}: {error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// Waits until these instances run and have their addresses; gives all of the stack.
///
/// # Errors
/// One has ended meanwhile, for the reason that EC2 gives: a launch that was accepted may still find no room.
pub(super) async fn await_running(aws: &Aws, stack: &str, ids: &[String]) -> anyhow::Result<Vec<Instance>> {
    let bar = console::Steps::new("waiting for instances", ids.len());
    let deadline = Instant::now() + RUNNING_TIME;
    let mut pause = PAUSES.0;
    loop {
        let seen = instances(aws, stack).await?;
        if let Some((id, ended)) = ids.iter().find_map(|id| seen.gone.get_key_value(id)) {
            let message = format!("the instance {id} was launched and has ended: {}", ended.message);
            return Err(ApiError::new("ec2:RunInstances", &aws.region, &ended.code, &message).into());
        }
        let is_ready = |instance: &&Instance| {
            let has_addresses = instance.public_address.is_some() && instance.private_address.is_some();
            instance.life == Life::Running && has_addresses
        };
        // An answer may be older than the launch.
        let ready = |id: &&String| seen.there.iter().filter(is_ready).any(|instance| instance.id == **id);
        let count = ids.iter().filter(ready).count();
        bar.set(count);
        if count == ids.len() {
            return Ok(seen.there);
        }
        interrupt::check()?;
        ensure!(
            Instant::now() < deadline,
            "after {RUNNING_TIME:?}, these instances do not run, or have no public address: {}",
            ids.iter().filter(|id| !ready(id)).cloned().collect::<Vec<_>>().join(", ")
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}
