//! Waits for instances, and terminates them.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use crate::aws::{Aws, Explain};
use crate::discover::instances;
use crate::discover::state::{Instance, Life};
use crate::errors::{ApiError, Class, class_of, ignore};
use crate::polling::Polling;
use deploy::{console, interrupt};

/// How long instances may take from their launch until they run and have their addresses.
const RUNNING_TIME: Duration = Duration::from_secs(300);
/// How long a call may fail because what was just created is not yet known everywhere.
const KNOWN_TIME: Duration = Duration::from_secs(30);
/// How long a call may be denied because a new tag, by which the policy allows the call, is not yet known. A missing permission
/// is reported after this time.
const ALLOWED_TIME: Duration = Duration::from_secs(5);
/// How many instances one call terminates: EC2 accepts a thousand, and advises fewer.
const TERMINATED_AT_ONCE: usize = 200;

/// Retries a call for something that was just created, while AWS does not find it or does not see its tag.
pub(crate) async fn retry_not_found<T, F>(call: impl Fn() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let mut polling = Polling::until(KNOWN_TIME);
    let allowed = Instant::now() + ALLOWED_TIME;
    loop {
        let outcome = call().await;
        let may_pass = match outcome.as_ref().err().and_then(class_of) {
            Some(Class::NotFound) => !polling.is_over(),
            Some(Class::Permission) => Instant::now() < allowed,
            _ => false,
        };
        if !may_pass {
            return outcome;
        }
        polling.pause().await;
    }
}

/// Terminates instances, many with one call. If that fails because of one of them, each with a call of its own.
pub(crate) async fn terminate(aws: &Aws, ids: Vec<String>) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for batch in ids.chunks(TERMINATED_AT_ONCE) {
        if let Err(error) = terminate_batch(aws, batch.to_vec()).await {
            failed.push(error);
        }
    }
    match failed.len() {
        0 => Ok(()),
        1 => Err(failed.remove(0)),
        _ => bail!("{}", failed.iter().map(|error| format!("{error:#}")).collect::<Vec<_>>().join("; ")),
    }
}

async fn terminate_batch(aws: &Aws, ids: Vec<String>) -> anyhow::Result<()> {
    let terminate = |ids: Vec<String>| async {
        let terminated = aws.ec2.terminate_instances().set_instance_ids(Some(ids)).send().await;
        terminated.explain("ec2:TerminateInstances", aws).map(drop)
    };
    let all = retry_not_found(|| terminate(ids.clone())).await;
    if all.is_ok() || ids.len() == 1 {
        return all;
    }
    let mut failed = Vec::new();
    for id in ids {
        if let Err(error) = ignore(Class::NotFound, terminate(vec![id.clone()]).await) {
            failed.push(format!("{id}: {error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// Waits until these instances run and have their addresses; returns all instances of the stack.
///
/// # Errors
/// One has ended, with EC2's reason: a launch that was accepted may still find no capacity.
pub(crate) async fn await_running(aws: &Aws, stack: &str, ids: &[String]) -> anyhow::Result<Vec<Instance>> {
    let bar = console::Steps::new("waiting for instances", ids.len());
    let mut polling = Polling::until(RUNNING_TIME);
    loop {
        let found = instances(aws, stack).await?;
        if let Some((id, ended)) = ids.iter().find_map(|id| found.ended.get_key_value(id)) {
            let message = format!("the instance {id} was launched and has ended: {}", ended.message);
            return Err(ApiError::new("ec2:RunInstances", &aws.region, &ended.code, &message).into());
        }
        let is_ready = |instance: &&Instance| {
            let has_addresses = instance.public_address.is_some() && instance.private_address.is_some();
            instance.life == Life::Running && has_addresses
        };
        // An answer may be older than the launch.
        let ready = |id: &&String| found.live.iter().filter(is_ready).any(|instance| instance.id == **id);
        let count = ids.iter().filter(ready).count();
        bar.set(count);
        if count == ids.len() {
            return Ok(found.live);
        }
        interrupt::check()?;
        ensure!(
            !polling.is_over(),
            "after {RUNNING_TIME:?}, these instances do not run, or have no public address: {}; try again, or another region \
             (--region)",
            ids.iter().filter(|id| !ready(id)).cloned().collect::<Vec<_>>().join(", ")
        );
        polling.pause().await;
    }
}
