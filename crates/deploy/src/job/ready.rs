//! Waits for what a program writes to its ready file.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use process::ready::Ready;

use crate::console;
use crate::host::Host;

/// The pause between two checks of ready files and of programs' ends.
pub(super) const PAUSE: Duration = Duration::from_millis(2);
/// After this time, a wait is announced.
const QUIET_TIME: Duration = Duration::from_secs(5);

/// Waits until a program's ready file has its address for `what`.
///
/// # Errors
/// `check` fails meanwhile, or `limit` is over.
pub(super) fn await_address(
    host: &dyn Host,
    name: &str,
    what: &str,
    limit: Duration,
    check: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<SocketAddr> {
    let waiting = format!("waiting for {name} on {} to listen for {what}", host.name());
    wait_for(host, name, &waiting, limit, check, |ready| ready.addresses.get(what).copied())
}

/// Waits until the cluster of an initializer has formed, according to its ready file.
///
/// # Errors
/// Those of [`await_address`].
pub(super) fn await_cluster(
    host: &dyn Host,
    name: &str,
    limit: Duration,
    check: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let waiting = format!("waiting until the cluster of {name} on {} has formed", host.name());
    wait_for(host, name, &waiting, limit, check, |ready| ready.formed.then_some(()))
}

fn wait_for<T>(
    host: &dyn Host,
    name: &str,
    waiting: &str,
    limit: Duration,
    mut check: impl FnMut() -> anyhow::Result<()>,
    find: impl Fn(&Ready) -> Option<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    let mut is_announced = false;
    loop {
        check()?;
        if let Some(found) = host.ready(name)?.as_ref().and_then(&find) {
            return Ok(found);
        }
        if start.elapsed() >= QUIET_TIME && !is_announced {
            is_announced = true;
            console::note(waiting);
        }
        ensure!(start.elapsed() < limit, "{waiting}: not within {limit:?}");
        std::thread::sleep(PAUSE);
    }
}
