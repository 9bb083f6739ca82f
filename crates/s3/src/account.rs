//! The user's credentials, and where the user's configuration says that S3 is.

use std::error::Error;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail};
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::ProvideCredentials;
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_runtime::env_config::section::EnvConfigSections;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_types::os_shim_internal::{Env, Fs};
use aws_types::service_config::ServiceConfigKey;
use rusty_s3::Credentials;
use tracing::subscriber::NoSubscriber;

use crate::service::{DEFAULT_REGION, Service};
use crate::validity::Expiry;

/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(30);
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long the user's program for credentials (credential_process) may take: it may ask another service, or a person.
const CREDENTIALS_TIME: Duration = Duration::from_secs(60);
/// How many profiles may follow each other by source_profile.
const MAX_CHAIN: usize = 10;

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
    const ADVICE: &str = "there are no credentials for AWS; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or log in \
                          with: aws sso login, or aws login";
    let provider = config.credentials_provider().context(ADVICE)?;
    let provided = tokio::time::timeout(CREDENTIALS_TIME, provider.provide_credentials()).await;
    let provided = provided
        .with_context(|| format!("they were not there after {CREDENTIALS_TIME:?}"))
        .context(ADVICE)?;
    let found = provided.map_err(|error| anyhow!("{}", causes(&error)).context(ADVICE))?;
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

/// A client that uses the proxies of the environment (HTTPS_PROXY, NO_PROXY), as every AWS tool does.
fn http_client() -> SharedHttpClient {
    Builder::new().build_with_connector_fn(|settings, components| {
        let mut connector = Connector::builder().proxy_config(ProxyConfig::from_env());
        if let Some(settings) = settings {
            connector = connector.connector_settings(settings.clone());
        }
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        // Not the SDK's default, which is built from C.
        connector.tls_provider(Provider::Rustls(CryptoMode::Ring)).build()
    })
}

/// Refuses profiles with mfa_serial. The SDK ignores it: it would request the role without a code, and be denied without a clear
/// reason.
async fn refuse_mfa() -> anyhow::Result<()> {
    if std::env::var_os("AWS_ACCESS_KEY_ID").is_some_and(|id| !id.is_empty()) {
        // Credentials in the environment take precedence over any profile.
        return Ok(());
    }
    let loaded = aws_config::profile::load(&Fs::real(), &Env::real(), &EnvConfigFiles::default(), None).await;
    let sections = loaded.map_err(|error| {
        anyhow!("{}", causes(&error))
            .context("reading the AWS configuration (~/.aws/config, AWS_CONFIG_FILE)")
    })?;
    if let Some(profile) = needs_mfa(&sections) {
        let selected = sections.selected_profile();
        bail!(
            "the profile {profile} needs a code of an MFA device (mfa_serial), which this command cannot ask for; let the AWS CLI \
             ask, and take what it gets: eval \"$(aws configure export-credentials --profile {selected} --format env)\""
        );
    }
    Ok(())
}

/// The first profile that needs MFA, along the chain from the selected one by source_profile.
fn needs_mfa(sections: &EnvConfigSections) -> Option<String> {
    let mut name = sections.selected_profile().to_owned();
    for _ in 0..MAX_CHAIN {
        let profile = sections.get_profile(&name)?;
        // Only requests for a role take a code.
        if profile.get("role_arn").is_some() && profile.get("mfa_serial").is_some() {
            return Some(name);
        }
        name = profile.get("source_profile")?.to_owned();
    }
    None
}

/// An error with its causes, in one line.
fn causes(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    // The SDK lists the places where it has searched, one a line.
    message.lines().map(str::trim).collect::<Vec<_>>().join("; ").replace(":; ", ": ")
}
