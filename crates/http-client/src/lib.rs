//! HTTP requests with deadlines, and retries.

mod refusal;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

pub use refusal::Refusal;

/// How long connecting, and each read or write, may take.
const CONNECT_TIME: Duration = Duration::from_secs(20);
const PIECE_TIME: Duration = Duration::from_secs(60);
/// How often a request without progress is made; the pause after the first time, which doubles, and the longest one.
const TRIES: u32 = 7;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Why a request failed.
#[derive(Debug)]
pub enum Failure {
    /// Another try may succeed.
    Passing(anyhow::Error),
    Lasting(anyhow::Error),
}

impl From<ureq::Error> for Failure {
    fn from(error: ureq::Error) -> Self {
        let is_wrong = matches!(error, ureq::Error::BadUri(_) | ureq::Error::Http(_));
        let error = anyhow!("{error}");
        if is_wrong { Self::Lasting(error) } else { Self::Passing(error) }
    }
}

/// Tries until it works, something lasts, or nothing has helped for too long.
///
/// # Errors
/// The last failure. A [`Refusal`] can be found in it with `downcast_ref`.
pub fn retry<T>(attempt: impl FnMut() -> Result<T, Failure>) -> anyhow::Result<T> {
    retry_within(Duration::ZERO, attempt)
}

/// As [`retry`], but gives up only after this time.
///
/// # Errors
/// Those of [`retry`].
pub fn retry_within<T>(
    limit: Duration,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> anyhow::Result<T> {
    let (start, mut pause) = (Instant::now(), FIRST_PAUSE);
    for tried in 1.. {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(Failure::Lasting(error)) => return Err(error),
            Err(Failure::Passing(error)) if tried >= TRIES && start.elapsed() >= limit => {
                return Err(error.context(format!("tried {tried} times")));
            }
            Err(Failure::Passing(error)) => tracing::warn!("{error:#}; trying again in {pause:?}"),
        }
        std::thread::sleep(pause);
        pause = LONGEST_PAUSE.min(2 * pause);
    }
    bail!("unreachable")
}

/// A client that trusts the system's certificates, and uses the proxies of the environment (HTTPS_PROXY, NO_PROXY). An answer
/// of any status is no error to it.
pub fn agent() -> Agent {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let found = rustls_native_certs::load_native_certs();
    let roots: Vec<_> = found.certs.iter().map(|root| Certificate::from_der(root).to_owned()).collect();
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(provider)
        .root_certs(RootCerts::from(roots))
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT_TIME))
        .timeout_resolve(Some(CONNECT_TIME))
        .timeout_per_read(Some(PIECE_TIME))
        .timeout_per_write(Some(PIECE_TIME))
        .timeout_recv_response(Some(PIECE_TIME))
        .user_agent(concat!("provisioned-classifier/", env!("CARGO_PKG_VERSION")))
        .build();
    config.into()
}
