//! The user's credentials, and where the user's configuration says that S3 is.

use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use aws_account::{CREDENTIALS_TIME, NO_CREDENTIALS, causes, http_client, refuse_mfa};
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::ProvideCredentials;
use aws_types::service_config::ServiceConfigKey;
use rusty_s3::Credentials;
use tracing::subscriber::NoSubscriber;

use crate::service::{DEFAULT_REGION, Service};
use crate::validity::Expiry;

/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(30);
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// The user's credentials, and where S3 is.
#[derive(Debug)]
pub struct Account {
    pub service: Service,
    pub keys: Keys,
}

#[derive(Debug, Clone)]
pub struct Keys {
    pub credentials: Credentials,
    pub expiry: Expiry,
}

impl Account {
    /// Loads the configuration and resolves the credentials, all of it anew: the user may have logged in again.
    ///
    /// # Errors
    /// There are no credentials, or the configuration is wrong.
    pub fn load() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("starting the AWS SDK")?;
        // The SDK logs each failure twice, in many lines. The error says the same.
        tracing::subscriber::with_default(NoSubscriber::new(), || runtime.block_on(Self::resolve()))
    }

    async fn resolve() -> anyhow::Result<Self> {
        refuse_mfa().await?;
        let providers = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new());
        // Not the region of the machine, which takes seconds to find out that there is none.
        let region = providers.or_else(ProfileFileRegionProvider::new()).region().await;
        let config = sdk_config(region.clone()).await;
        let region = region.map(|region| region.to_string()).filter(|region| !region.is_empty());
        Ok(Self { service: service(&config, region)?, keys: keys(&config).await? })
    }
}

async fn sdk_config(region: Option<Region>) -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIME)
        .read_timeout(ANSWER_TIME)
        .operation_attempt_timeout(ANSWER_TIME)
        .operation_timeout(CREDENTIALS_TIME)
        .build();
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client())
        .region(region.unwrap_or(Region::from_static(DEFAULT_REGION)))
        .timeout_config(timeouts)
        .load()
        .await
}

fn service(config: &SdkConfig, region: Option<String>) -> anyhow::Result<Service> {
    // The SDK makes AWS_ENDPOINT_URL_S3 of these.
    let key = ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url");
    let key = key.build().context("naming the endpoint of S3")?;
    let of_s3 = config.service_config().and_then(|config| config.load_config(key));
    let endpoint = of_s3.or_else(|| config.endpoint_url().map(str::to_owned));
    match endpoint.filter(|endpoint| !endpoint.is_empty()) {
        Some(endpoint) => Service::own(&endpoint, region),
        None => Ok(Service::Aws {
            region,
            fips: config.use_fips().unwrap_or(false),
            dual_stack: config.use_dual_stack().unwrap_or(false),
        }),
    }
}

async fn keys(config: &SdkConfig) -> anyhow::Result<Keys> {
    let provider = config.credentials_provider().context(NO_CREDENTIALS)?;
    let provided = tokio::time::timeout(CREDENTIALS_TIME, provider.provide_credentials()).await;
    let provided = provided
        .with_context(|| format!("they were not there after {CREDENTIALS_TIME:?}"))
        .context(NO_CREDENTIALS)?;
    let found = provided.map_err(|error| anyhow!("{}", causes(&error)).context(NO_CREDENTIALS))?;
    let token = found.session_token().filter(|token| !token.is_empty());
    let known = found.expiry().map(seconds);
    let is_of_environment = token.is_some() && token == std::env::var("AWS_SESSION_TOKEN").ok().as_deref();
    let declared = std::env::var("AWS_CREDENTIAL_EXPIRATION").ok().filter(|text| !text.is_empty());
    let declared = declared.filter(|_| is_of_environment);
    let expiry = Expiry::of(known, token.is_some(), declared.as_deref())?;
    let (key, secret) = (found.access_key_id(), found.secret_access_key());
    let credentials = match token {
        Some(token) => Credentials::new_with_token(key, secret, token),
        None => Credentials::new(key, secret),
    };
    Ok(Keys { credentials, expiry })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
