//! The tokio runtime of asynchronous libraries; everything else in this crate blocks.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::runtime::Runtime;

/// The runtime. The first call starts it.
///
/// # Errors
/// It cannot be started.
pub fn runtime() -> anyhow::Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let made = RUNTIME
        .get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build());
    made.as_ref().map_err(|error| anyhow!("starting a runtime: {error}"))
}

/// Blocks until the future completes.
///
/// # Errors
/// The future fails, or `limit` is over; both errors have `what` as context.
pub(crate) fn within<T>(
    what: &str,
    limit: Duration,
    future: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    runtime()?.block_on(async {
        match tokio::time::timeout(limit, future).await {
            Ok(outcome) => outcome.with_context(|| what.to_owned()),
            Err(_) => bail!("{what}: not within {limit:?}"),
        }
    })
}
