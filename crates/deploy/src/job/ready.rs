//! Waiting for a program to say where it listens.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::console;
use crate::host::Host;

/// How often ready files are looked at, and programs asked whether they have ended.
pub(super) const PAUSE: Duration = Duration::from_millis(2);
/// How long a wait may be until it is told.
const QUIET_TIME: Duration = Duration::from_secs(5);

/// Waits until a program says where it listens for `what`, unless `check` fails meanwhile.
pub(super) fn await_address(
    host: &dyn Host,
    name: &str,
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<SocketAddr> {
    let waiting = format!("waiting for {name} on {} to listen for {what}", host.name());
    let start = Instant::now();
    let mut is_told = false;
    loop {
        check()?;
        if let Some(address) = host.ready(name)?.and_then(|ready| ready.addresses.get(what).copied()) {
            return Ok(address);
        }
        if start.elapsed() >= QUIET_TIME && !is_told {
            is_told = true;
            console::note(&waiting);
        }
        ensure!(start.elapsed() < limit, "{waiting}: not within {limit:?}");
        std::thread::sleep(PAUSE);
    }
}
