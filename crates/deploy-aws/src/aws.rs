//! Clients for AWS: credentials, retries, timeouts, and readable errors.

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::error::CredentialsError;
use aws_runtime::env_config::file::EnvConfigFiles;
use aws_runtime::env_config::section::EnvConfigSections;
use aws_sdk_ec2::config::RuntimeComponents;
use aws_sdk_ec2::config::interceptors::InterceptorContext;
use aws_sdk_ec2::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::run_instances::RunInstancesError;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{HttpConnector, SharedHttpClient};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::http::Request as HttpRequest;
use aws_smithy_types::byte_stream::ByteStream;
use aws_types::os_shim_internal::{Env, Fs};

use crate::errors::{ApiError, Class};

/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// How long a call may take with all its tries.
const CALL_TIME: Duration = Duration::from_secs(240);
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long the user's program for credentials (credential_process) may take: it may ask another service, or a person.
const CREDENTIALS_TIME: Duration = Duration::from_secs(60);
/// The longest pause before the second try of a call; each further pause may be twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(300);
/// How often a call is tried that is throttled, or whose answer is lost.
const TRIES: u32 = 8;
/// How many profiles may follow each other by source_profile.
const MAX_CHAIN: usize = 10;

/// Clients for one region. All clients of a command share a cache of credentials: a slow program for them runs once.
#[derive(Debug, Clone)]
pub(crate) struct Aws {
    pub(crate) region: String,
    /// The number of the credentials' account.
    pub(crate) account: String,
    pub(crate) ec2: aws_sdk_ec2::Client,
    pub(crate) cloudwatch: aws_sdk_cloudwatch::Client,
    pub(crate) sns: aws_sdk_sns::Client,
    config: SdkConfig,
}

impl Aws {
    /// Loads the user's credentials, and asks AWS for their account.
    ///
    /// # Errors
    /// There are no credentials, or AWS does not accept them.
    pub(crate) async fn connect(region: &str) -> anyhow::Result<Self> {
        refuse_mfa().await?;
        // Loading credentials is part of a try, so a lost answer has the shorter read timeout.
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIME)
            .read_timeout(ANSWER_TIME)
            .operation_attempt_timeout(CREDENTIALS_TIME + ANSWER_TIME)
            .operation_timeout(CALL_TIME)
            .build();
        let config = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http_client())
            .identity_cache(IdentityCache::lazy().load_timeout(CREDENTIALS_TIME).build())
            .region(Region::new(region.to_owned()))
            .retry_config(RetryConfig::standard().with_max_attempts(TRIES).with_initial_backoff(FIRST_PAUSE))
            .timeout_config(timeouts)
            .load()
            .await;
        let identity = aws_sdk_sts::Client::new(&config).get_caller_identity().send().await;
        let identity = identity.map_err(|error| match credentials_error(&error) {
            Some(why) => anyhow!(why).context(
                "there are no credentials for AWS; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or log in \
                 with: aws sso login, or aws login",
            ),
            None => explained(&error, "sts:GetCallerIdentity", region).into(),
        })?;
        let account = identity
            .account
            .context("sts:GetCallerIdentity returned no account; use other credentials (AWS_PROFILE)")?;
        Ok(Self::of(config, region, account))
    }

    /// Clients for another region, with the same credentials.
    pub(crate) fn in_region(&self, region: &str) -> Self {
        let config = self.config.to_builder().region(Region::new(region.to_owned())).build();
        Self::of(config, region, self.account.clone())
    }

    fn of(config: SdkConfig, region: &str, account: String) -> Self {
        let ec2 = aws_sdk_ec2::config::Builder::from(&config).retry_classifier(CapacityIsFinal).build();
        Self {
            region: region.to_owned(),
            account,
            ec2: aws_sdk_ec2::Client::from_conf(ec2),
            cloudwatch: aws_sdk_cloudwatch::Client::new(&config),
            sns: aws_sdk_sns::Client::new(&config),
            config,
        }
    }
}

/// A client that uses the proxies of the environment (HTTPS_PROXY, NO_PROXY), as every AWS tool does.
fn http_client() -> SharedHttpClient {
    Builder::new().build_with_connector_fn(|settings, components| {
        let mut connector = Connector::builder().proxy_config(ProxyConfig::from_env());
        if let Some(settings) = settings {
            connector = connector.connector_settings(settings.clone());
        }
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector.tls_provider(tls()).build()
    })
}

fn tls() -> Provider {
    // Not the SDK's default, which is built from C.
    Provider::Rustls(CryptoMode::Ring)
}

/// The region of the user's profile; `None` if it has none.
///
/// # Errors
/// The AWS configuration cannot be read.
pub(crate) async fn profile_region() -> anyhow::Result<Option<String>> {
    let sections = profiles().await?;
    Ok(sections.get("region").map(str::to_owned).filter(|region| !region.is_empty()))
}

async fn profiles() -> anyhow::Result<EnvConfigSections> {
    let loaded = aws_config::profile::load(&Fs::real(), &Env::real(), &EnvConfigFiles::default(), None).await;
    loaded.map_err(|error| {
        anyhow!("{}", causes(&error))
            .context("reading the AWS configuration (~/.aws/config, AWS_CONFIG_FILE)")
    })
}

/// Refuses profiles with mfa_serial. The SDK ignores it: it would request the role without a code, and be denied without a clear
/// reason.
async fn refuse_mfa() -> anyhow::Result<()> {
    if std::env::var_os("AWS_ACCESS_KEY_ID").is_some_and(|id| !id.is_empty()) {
        // Credentials in the environment take precedence over any profile.
        return Ok(());
    }
    let sections = profiles().await?;
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

/// The network with only this machine's public address, or that of its gateway. The request uses no proxy, since SSH uses none.
///
/// # Errors
/// AWS's service for this does not answer.
pub(crate) async fn own_network() -> anyhow::Result<String> {
    const URL: &str = "https://checkip.amazonaws.com";
    let ask = async {
        let connector = Connector::builder().tls_provider(tls()).build();
        let response = connector.call(HttpRequest::get(URL)?).await?;
        ensure!(response.status().is_success(), "it answers {}", response.status());
        let body = ByteStream::new(response.into_body()).collect().await?.into_bytes();
        let text = String::from_utf8_lossy(&body);
        text.trim().parse().with_context(|| format!("it answers {text:?}"))
    };
    let answer = tokio::time::timeout(ANSWER_TIME, ask).await.context("it does not answer").flatten();
    let own_network = |address: IpAddr| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
    answer.map(own_network).with_context(|| {
        format!("asking {URL} from which address to allow SSH; name it yourself with --ssh-from ADDRESS")
    })
}

/// Keeps the SDK from retrying a launch that found no capacity: the next try is with another type or zone.
#[derive(Debug)]
struct CapacityIsFinal;

impl ClassifyRetry for CapacityIsFinal {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let error =
            context.output_or_error().and_then(Result::err).and_then(|error| error.as_operation_error());
        let error = error.and_then(|error| error.downcast_ref::<RunInstancesError>());
        let class = error
            .map(|error| Class::of(error.code().unwrap_or_default(), error.message().unwrap_or_default()));
        match class {
            Some(Class::Capacity) => RetryAction::RetryForbidden,
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "capacity is final"
    }
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
    message
}

/// Why there are no credentials; `None` if a call failed for another reason.
fn credentials_error(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<CredentialsError>() {
            return Some(causes(error));
        }
        cause = error.source();
    }
    None
}

/// Converts errors of the SDK to [`ApiError`].
pub(crate) trait Explain<T> {
    /// `call` is as in policies, such as ec2:RunInstances.
    fn explain(self, call: &'static str, aws: &Aws) -> anyhow::Result<T>;
}

impl<T, E> Explain<T> for Result<T, SdkError<E, HttpResponse>>
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    fn explain(self, call: &'static str, aws: &Aws) -> anyhow::Result<T> {
        self.map_err(|error| explained(&error, call, &aws.region).into())
    }
}

fn explained<E>(error: &SdkError<E, HttpResponse>, call: &'static str, region: &str) -> ApiError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let of_class = |class| ApiError { call, region: region.to_owned(), class, message: causes(error) };
    match (error, error.code()) {
        (SdkError::ServiceError(_), Some(code)) => {
            ApiError::new(call, region, code, error.message().unwrap_or("no reason is given"))
        }
        (SdkError::DispatchFailure(_) | SdkError::TimeoutError(_), _) => of_class(Class::Unreachable),
        _ => of_class(Class::Other),
    }
}
