//! Clients for AWS: credentials, retries, timeouts, and readable errors.

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use aws_account::{CREDENTIALS_TIME, NO_CREDENTIALS, causes, http_client, profiles, refuse_mfa, tls};
use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::config::interceptors::InterceptorContext;
use aws_sdk_ec2::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::run_instances::RunInstancesError;
use aws_smithy_http_client::Connector;
use aws_smithy_runtime_api::client::http::HttpConnector;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::http::Request as HttpRequest;
use aws_smithy_types::byte_stream::ByteStream;

use crate::errors::{ApiError, Class};

/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// How long a call may take with all its tries.
const CALL_TIME: Duration = Duration::from_secs(240);
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// The longest pause before the second try of a call; each further pause may be twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(300);
/// How often a call is tried that is throttled, or whose answer is lost.
const TRIES: u32 = 8;

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
            Some(why) => anyhow!(why).context(NO_CREDENTIALS),
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

/// The region of the user's profile; `None` if it has none.
///
/// # Errors
/// The AWS configuration cannot be read.
pub(crate) async fn profile_region() -> anyhow::Result<Option<String>> {
    let sections = profiles().await?;
    Ok(sections.get("region").map(str::to_owned).filter(|region| !region.is_empty()))
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
