//! Waits for an address in a program's ready file.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;

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
    mut check: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<SocketAddr> {
    let waiting = format!("waiting for {name} on {} to listen for {what}", host.name());
    let start = Instant::now();
    let mut is_announced = false;
    loop {
        check()?;
        if let Some(address) = host.ready(name)?.and_then(|ready| ready.addresses.get(what).copied()) {
            return Ok(address);
        }
        if start.elapsed() >= QUIET_TIME && !is_announced {
            is_announced = true;
            console::note(&waiting);
        }
        ensure!(start.elapsed() < limit, "{waiting}: not within {limit:?}");
        std::thread::sleep(PAUSE);
    }
}
