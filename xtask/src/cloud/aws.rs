//! The connection to AWS: clients, and what its errors mean.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_ec2::config::ProvideCredentials;
use aws_sdk_ec2::config::interceptors::InterceptorContext;
use aws_sdk_ec2::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::run_instances::RunInstancesError;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::HttpConnector;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::http::Request as HttpRequest;
use aws_smithy_types::byte_stream::ByteStream;

/// How long one try of a call may take.
const TRY_TIME: Duration = Duration::from_secs(20);
/// How long a call may take, with all its tries.
const CALL_TIME: Duration = Duration::from_secs(120);
/// How long a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// The pause between a call that has failed and its second try is up to this; each further one may be twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(300);
/// How often a call is tried that AWS has no time for, or whose answer is lost.
const TRIES: u32 = 8;
/// The file that says what the user must be allowed to do.
const POLICY: &str = "xtask/iam-policy.json";

/// Clients for one region.
#[derive(Debug, Clone)]
pub(super) struct Aws {
    pub(super) region: String,
    pub(super) ec2: aws_sdk_ec2::Client,
    pub(super) cloudwatch: aws_sdk_cloudwatch::Client,
    pub(super) sns: aws_sdk_sns::Client,
}

impl Aws {
    /// Finds the user's credentials. Nothing is asked of AWS yet.
    ///
    /// # Errors
    /// There are none.
    pub(super) async fn connect(region: &str) -> anyhow::Result<Self> {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIME)
            .operation_attempt_timeout(TRY_TIME)
            .operation_timeout(CALL_TIME)
            .build();
        let config = aws_config::defaults(BehaviorVersion::latest())
            .http_client(Builder::new().tls_provider(tls()).build_https())
            .region(Region::new(region.to_owned()))
            .retry_config(RetryConfig::standard().with_max_attempts(TRIES).with_initial_backoff(FIRST_PAUSE))
            .timeout_config(timeouts)
            .load()
            .await;
        let provider = config.credentials_provider().context("the AWS SDK looks for no credentials")?;
        provider.provide_credentials().await.map_err(|error| {
            anyhow!("{}", causes(&error)).context(
                "there are no credentials for AWS; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or log \
                 in with: aws sso login",
            )
        })?;
        let ec2 = aws_sdk_ec2::config::Builder::from(&config).retry_classifier(CapacityIsFinal).build();
        Ok(Self {
            region: region.to_owned(),
            ec2: aws_sdk_ec2::Client::from_conf(ec2),
            cloudwatch: aws_sdk_cloudwatch::Client::new(&config),
            sns: aws_sdk_sns::Client::new(&config),
        })
    }
}

fn tls() -> Provider {
    // Not the SDK's default, which is built from C.
    Provider::Rustls(CryptoMode::Ring)
}

/// The address of this machine, or of its network's gateway, as AWS sees it.
///
/// # Errors
/// When nobody says it.
pub(super) async fn own_address() -> anyhow::Result<IpAddr> {
    const URL: &str = "https://checkip.amazonaws.com";
    let ask = async {
        let connector = Connector::builder().tls_provider(tls()).build();
        let response = connector.call(HttpRequest::get(URL)?).await?;
        ensure!(response.status().is_success(), "it answers {}", response.status());
        let body = ByteStream::new(response.into_body()).collect().await?.into_bytes();
        let text = String::from_utf8_lossy(&body);
        text.trim().parse().with_context(|| format!("it answers {text:?}"))
    };
    let answer = tokio::time::timeout(TRY_TIME, ask).await.context("it does not answer").flatten();
    answer.with_context(|| {
        format!(
            "asking {URL} from which address SSH is to be let in; say it yourself with --ssh-from ADDRESS"
        )
    })
}

/// Says that what has no room now is not tried again in the same place: there are others.
#[derive(Debug)]
struct CapacityIsFinal;

impl ClassifyRetry for CapacityIsFinal {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let error =
            context.output_or_error().and_then(Result::err).and_then(|error| error.as_operation_error());
        let error = error.and_then(|error| error.downcast_ref::<RunInstancesError>());
        match error.and_then(ProvideErrorMetadata::code).map(Class::of) {
            Some(Class::Capacity) => RetryAction::RetryForbidden,
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "capacity is final"
    }
}

/// What an error means for whoever meets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// AWS does not know these credentials.
    Credentials,
    /// It did, once.
    Expired,
    /// They do not allow it.
    Permission,
    /// There is no room now; elsewhere there may be.
    Capacity,
    /// The account has no more.
    Quota,
    /// The account may have no more spot instances, or none at all.
    NoSpot,
    /// Somebody has protected it.
    Protected,
    /// There have been too many calls.
    Throttled,
    /// It is not there.
    NotFound,
    /// It is there already.
    Duplicate,
    /// Something else uses it.
    InUse,
    /// Nobody answers.
    Unreachable,
    /// Anything else.
    Other,
}

impl Class {
    fn of(code: &str) -> Self {
        match code {
            "AuthFailure"
            | "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "SignatureDoesNotMatch"
            | "InvalidAccessKeyId"
            | "MissingAuthenticationToken"
            | "InvalidSecurity"
            | "OptInRequired" => Self::Credentials,
            "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => Self::Expired,
            // Spot instances have a limit of their own, and need a role in the account.
            "MaxSpotInstanceCountExceeded" | "AuthFailure.ServiceLinkedRoleCreationNotPermitted" => {
                Self::NoSpot
            }
            "OperationNotPermitted" => Self::Protected,
            "UnauthorizedOperation"
            | "AccessDenied"
            | "AccessDeniedException"
            | "AuthorizationError"
            | "AuthorizationErrorException"
            | "UnauthorizedAccess" => Self::Permission,
            "InsufficientInstanceCapacity"
            | "InsufficientHostCapacity"
            | "InsufficientCapacityOnHost"
            | "InsufficientCapacity"
            | "InsufficientFreeAddressesInSubnet"
            | "InsufficientReservedInstanceCapacity"
            | "Unsupported"
            | "SpotMaxPriceTooLow"
            | "UnfulfillableCapacity" => Self::Capacity,
            "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestLimitExceeded"
            | "RequestThrottled"
            | "TooManyRequestsException" => Self::Throttled,
            "DependencyViolation" => Self::InUse,
            "ResourceNotFound"
            | "ResourceNotFoundException"
            | "DashboardNotFoundError"
            | "NotFound"
            | "NotFoundException" => Self::NotFound,
            _ if code.ends_with(".NotFound") => Self::NotFound,
            _ if code.ends_with(".Duplicate") => Self::Duplicate,
            _ if code.ends_with("LimitExceeded") || code.ends_with("CountExceeded") => Self::Quota,
            _ => Self::Other,
        }
    }

    /// What to do about it.
    fn advice(self, call: &str) -> String {
        match self {
            Self::Credentials => {
                "AWS does not accept these credentials, or not in this region; see AWS_PROFILE, AWS_ACCESS_KEY_ID and \
                 whether the region is enabled for the account"
                    .to_owned()
            }
            Self::Expired => {
                "the credentials have expired; log in again (aws sso login), or get new ones, and see that this machine's \
                 clock is right"
                    .to_owned()
            }
            Self::Permission => format!("the credentials do not allow {call}; {POLICY} lists all that they must allow"),
            Self::Quota => {
                "a quota of the account; ask for more in the console (Service Quotas), or for fewer or smaller machines \
                 (CLUSTER_SIZE, --instance-type)"
                    .to_owned()
            }
            Self::Protected => {
                "somebody has protected it from being ended; lift that with: aws ec2 modify-instance-attribute \
                 --no-disable-api-termination --instance-id ID"
                    .to_owned()
            }
            Self::Throttled => "AWS has had no time for it in all tries; try again later".to_owned(),
            Self::Unreachable => "AWS cannot be reached; is there such a region, and is this machine online?".to_owned(),
            _ => String::new(),
        }
    }
}

/// An error of AWS.
#[derive(Debug, thiserror::Error)]
pub(super) struct ApiError {
    /// What was called, as policies name it.
    pub(super) call: &'static str,
    pub(super) region: String,
    pub(super) class: Class,
    said: String,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}: {}", self.call, self.region, self.said)?;
        match self.class.advice(self.call) {
            advice if advice.is_empty() => Ok(()),
            advice => write!(f, " ({advice})"),
        }
    }
}

/// An error and what has caused it, in one line.
fn causes(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said.push_str(": ");
        said.push_str(&error.to_string());
        cause = error.source();
    }
    said
}

/// The class of an error, if it is one of AWS.
pub(super) fn class_of(error: &anyhow::Error) -> Option<Class> {
    error.downcast_ref::<ApiError>().map(|error| error.class)
}

/// An error of this class is none.
pub(super) fn unless(class: Class, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
    match outcome {
        Err(error) if class_of(&error) == Some(class) => Ok(()),
        outcome => outcome,
    }
}

/// Makes an error of the SDK one for people.
pub(super) trait Explain<T> {
    /// Says what was called.
    fn explain(self, call: &'static str, aws: &Aws) -> anyhow::Result<T>;
}

impl<T, E> Explain<T> for Result<T, SdkError<E, HttpResponse>>
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    fn explain(self, call: &'static str, aws: &Aws) -> anyhow::Result<T> {
        self.map_err(|error| {
            let (class, said) = match (&error, error.code()) {
                (SdkError::ServiceError(_), Some(code)) => {
                    (Class::of(code), format!("{} ({code})", error.message().unwrap_or("no reason is given")))
                }
                (SdkError::DispatchFailure(_) | SdkError::TimeoutError(_), _) => {
                    (Class::Unreachable, causes(&error))
                }
                _ => (Class::Other, causes(&error)),
            };
            ApiError { call, region: aws.region.clone(), class, said }.into()
        })
    }
}
