//! The meanings of AWS's errors, and advice to the user. Pure; does not know the SDK.

use std::fmt;

/// The IAM policy that the user needs.
const POLICY: &str = "crates/deploy-aws/iam-policy.json";

/// The meaning of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// AWS does not accept the credentials.
    Credentials,
    Expired,
    /// The region is not enabled for the account.
    Region,
    /// AWS has not yet verified the account for the region.
    Pending,
    /// The policies of the credentials do not allow the call.
    Permission,
    /// A policy of the organization denies the call to the whole account.
    Organization,
    /// Another account owns the image, and does not share it.
    Image,
    /// The image is a product of the Marketplace whose terms the account has not accepted.
    Marketplace,
    /// The account's free plan has no instances of this type.
    FreePlan,
    /// The image is for another processor than the instance type has.
    Architecture,
    /// The account's key for encrypted disks cannot be used.
    Encryption,
    /// No capacity now; another type or zone may have some.
    Capacity,
    Quota,
    /// The account may have no more spot instances.
    SpotQuota,
    /// The account may have no spot instances at all.
    NoSpot,
    /// The instance has termination protection.
    Protected,
    Throttled,
    NotFound,
    Duplicate,
    InUse,
    /// No answer.
    Unreachable,
    Other,
}

/// Codes with a part of the message, and their meaning; the first match counts. `*` matches any beginning. Some codes have several
/// meanings, which only the message distinguishes.
const MEANINGS: &[(&str, &str, Class)] = &[
    ("AuthFailure", "Not authorized for images", Class::Image),
    ("InvalidAMIID.Unavailable", "", Class::Image),
    // Spot instances have a quota of their own, and need a role in the account.
    ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", "", Class::NoSpot),
    ("MaxSpotInstanceCountExceeded", "", Class::SpotQuota),
    ("OptInRequired", "Marketplace", Class::Marketplace),
    ("OptInRequired", "", Class::Region),
    ("AuthFailure", "", Class::Credentials),
    ("UnrecognizedClientException", "", Class::Credentials),
    ("InvalidClientTokenId", "", Class::Credentials),
    ("SignatureDoesNotMatch", "", Class::Credentials),
    ("InvalidAccessKeyId", "", Class::Credentials),
    ("MissingAuthenticationToken", "", Class::Credentials),
    ("InvalidSecurity", "", Class::Credentials),
    ("ExpiredToken", "", Class::Expired),
    ("ExpiredTokenException", "", Class::Expired),
    ("RequestExpired", "", Class::Expired),
    ("PendingVerification", "", Class::Pending),
    ("UnauthorizedOperation", "service control policy", Class::Organization),
    ("UnauthorizedOperation", "resource control policy", Class::Organization),
    ("AccessDenied", "service control policy", Class::Organization),
    ("AccessDeniedException", "service control policy", Class::Organization),
    ("AuthorizationError", "service control policy", Class::Organization),
    ("AuthorizationErrorException", "service control policy", Class::Organization),
    ("UnauthorizedOperation", "", Class::Permission),
    ("AccessDenied", "", Class::Permission),
    ("AccessDeniedException", "", Class::Permission),
    ("AuthorizationError", "", Class::Permission),
    ("AuthorizationErrorException", "", Class::Permission),
    ("UnauthorizedAccess", "", Class::Permission),
    ("InvalidParameterCombination", "Free Tier", Class::FreePlan),
    ("InvalidParameterValue", "architecture", Class::Architecture),
    ("Unsupported", "architecture", Class::Architecture),
    ("Unsupported", "", Class::Capacity),
    ("InsufficientInstanceCapacity", "", Class::Capacity),
    ("InsufficientHostCapacity", "", Class::Capacity),
    ("InsufficientCapacityOnHost", "", Class::Capacity),
    ("InsufficientCapacity", "", Class::Capacity),
    ("InsufficientFreeAddressesInSubnet", "", Class::Capacity),
    ("InsufficientReservedInstanceCapacity", "", Class::Capacity),
    ("SpotMaxPriceTooLow", "", Class::Capacity),
    ("UnfulfillableCapacity", "", Class::Capacity),
    // Why an instance terminated whose launch was accepted.
    ("Server.InsufficientInstanceCapacity", "", Class::Capacity),
    ("Server.SpotInstanceTermination", "", Class::Capacity),
    ("Server.SpotInstanceShutdown", "", Class::Capacity),
    ("Server.InternalError", "", Class::Capacity),
    ("Client.VolumeLimitExceeded", "", Class::Quota),
    ("Client.InternalError", "", Class::Encryption),
    ("Client.InvalidSnapshot.NotFound", "", Class::Image),
    ("OperationNotPermitted", "disableApiTermination", Class::Protected),
    ("Throttling", "", Class::Throttled),
    ("ThrottlingException", "", Class::Throttled),
    ("ThrottledException", "", Class::Throttled),
    ("RequestLimitExceeded", "", Class::Throttled),
    ("RequestThrottled", "", Class::Throttled),
    ("TooManyRequestsException", "", Class::Throttled),
    ("DependencyViolation", "", Class::InUse),
    ("*NotFound", "", Class::NotFound),
    ("*NotFoundException", "", Class::NotFound),
    ("DashboardNotFoundError", "", Class::NotFound),
    ("*.Duplicate", "", Class::Duplicate),
    ("*LimitExceeded", "", Class::Quota),
    ("*LimitExceededException", "", Class::Quota),
    ("*CountExceeded", "", Class::Quota),
];

impl Class {
    pub(crate) fn of(code: &str, message: &str) -> Self {
        let matches = |pattern: &str| match pattern.strip_prefix('*') {
            Some(end) => code.ends_with(end),
            None => code == pattern,
        };
        let meaning = MEANINGS.iter().find(|(pattern, part, _)| matches(pattern) && message.contains(part));
        meaning.map_or(Self::Other, |(_, _, class)| *class)
    }

    /// What to do about an error of this call; empty if that is not known.
    fn advice(self, call: &str) -> String {
        let text = match self {
            Self::Credentials => {
                "AWS does not accept these credentials, or not in this region; check AWS_PROFILE and AWS_ACCESS_KEY_ID, and \
                 whether the account has enabled the region (--region)"
            }
            Self::Expired => {
                "the credentials have expired; log in again (aws sso login, or aws login), or get new ones, and check that \
                 this machine's clock is right"
            }
            Self::Region => {
                "the account has not enabled this region or service; enable it in the console, or choose another region \
                 (--region)"
            }
            Self::Pending => {
                "AWS is still verifying the account for this region, which takes minutes and at most four hours; AWS sends an \
                 email when it is done"
            }
            Self::Permission => {
                return format!(
                    "the credentials do not allow {call}; {POLICY} lists all that they must allow"
                );
            }
            Self::Organization => {
                return format!(
                    "a policy of the organization denies {call} to the whole account, so {POLICY} cannot help; the \
                     organization's administrators can lift it, or name a region or type that they allow"
                );
            }
            Self::Image => {
                "this account may not use the image, or the image is of another region; name another one (--ami ID), \
                 or ask the image's owner to share it"
            }
            Self::Marketplace => {
                "the image is a product of the AWS Marketplace; accept its terms at the address above, or name another image \
                 (--ami ID)"
            }
            Self::FreePlan => {
                "the account is on AWS's free plan, which has few instance types; name one of them (--instance-type), or \
                 upgrade the account's plan in the console"
            }
            Self::Architecture => {
                "image and instance type are for different processors; name others (--ami ID, --instance-type TYPE)"
            }
            Self::Encryption => {
                "the disk's encryption key may not be usable for this account; see the key policy of the EBS default key"
            }
            Self::Quota => {
                "a quota of the account; ask for more in the console (Service Quotas), or for fewer or smaller machines \
                 (CLUSTER_SIZE, --instance-type)"
            }
            Self::Protected => {
                "it has termination protection; disable that with: aws ec2 modify-instance-attribute \
                 --no-disable-api-termination --instance-id ID"
            }
            Self::Throttled => "AWS refused all tries because of too many calls; try again later",
            Self::Unreachable => {
                "AWS cannot be reached; check that the region exists, that this machine is online, and whether it needs a proxy \
                 (HTTPS_PROXY)"
            }
            Self::Capacity
            | Self::SpotQuota
            | Self::NoSpot
            | Self::NotFound
            | Self::Duplicate
            | Self::InUse
            | Self::Other => "",
        };
        text.to_owned()
    }
}

/// An error of AWS.
#[derive(Debug)]
pub(crate) struct ApiError {
    /// As in policies, such as ec2:RunInstances.
    pub(crate) call: &'static str,
    pub(crate) region: String,
    pub(crate) class: Class,
    pub(crate) message: String,
}

impl ApiError {
    /// An error in an answer of AWS.
    pub(crate) fn new(call: &'static str, region: &str, code: &str, message: &str) -> Self {
        let class = Class::of(code, message);
        Self { call, region: region.to_owned(), class, message: format!("{message} ({code})") }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}: {}", self.call, self.region, self.message)?;
        match self.class.advice(self.call) {
            advice if advice.is_empty() => Ok(()),
            advice => write!(f, " ({advice})"),
        }
    }
}

impl std::error::Error for ApiError {}

/// The class of an error; `None` if it is not of AWS.
pub(crate) fn class_of(error: &anyhow::Error) -> Option<Class> {
    error.downcast_ref::<ApiError>().map(|error| error.class)
}

/// Treats an error of this class as success.
pub(crate) fn ignore(class: Class, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
    match outcome {
        Err(error) if class_of(&error) == Some(class) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages as AWS writes them.
    const MESSAGES: &[(&str, &str, &str)] = &[
        ("AuthFailure", "Not authorized for images: [ami-0abc]", "name another one (--ami ID)"),
        (
            "AuthFailure",
            "AWS was not able to validate the provided access credentials",
            "AWS does not accept",
        ),
        (
            "OptInRequired",
            "In order to use this AWS Marketplace product you need to accept terms and subscribe. To do so please visit \
             https://aws.amazon.com/marketplace/pp?sku=abc",
            "accept its terms at the address above",
        ),
        (
            "OptInRequired",
            "You are not subscribed to this service. Please go to http://aws.amazon.com",
            "enable it",
        ),
        (
            "UnauthorizedOperation",
            "You are not authorized to perform this operation. User: arn:aws:iam::1:user/u is not authorized to perform: \
             ec2:RunInstances on resource: x with an explicit deny in a service control policy",
            "crates/deploy-aws/iam-policy.json cannot help",
        ),
        (
            "UnauthorizedOperation",
            "You are not authorized to perform this operation.",
            "lists all that they must allow",
        ),
        (
            "InvalidParameterCombination",
            "The specified instance type is not eligible for Free Tier. For a list of Free Tier instance types, run \
             'describe-instance-types' with the filter 'free-tier-eligible=true'.",
            "free plan",
        ),
        (
            "PendingVerification",
            "Your request for accessing resources in this region is being validated, and you will not be able to launch \
             additional resources in this region until the validation is complete.",
            "AWS sends an email",
        ),
        (
            "OperationNotPermitted",
            "The instance 'i-0abc' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again.",
            "it has termination protection",
        ),
        (
            "VcpuLimitExceeded",
            "You have requested more vCPU capacity than your current vCPU limit of 5",
            "Service Quotas",
        ),
        ("Client.InternalError", "Client error on launch", "encryption key"),
        (
            "InvalidParameterValue",
            "The architecture 'arm64' of the specified instance type does not match the architecture 'x86_64' of the \
             specified AMI.",
            "different processors",
        ),
        ("RequestExpired", "Request has expired.", "this machine's clock"),
        ("RequestLimitExceeded", "Request limit exceeded.", "try again later"),
    ];

    #[test]
    fn advice_depends_on_code_and_message() {
        for &(code, message, advice) in MESSAGES {
            let text = ApiError::new("ec2:RunInstances", "us-west-2", code, message).to_string();
            assert!(
                text.starts_with(&format!("ec2:RunInstances in us-west-2: {message} ({code})")),
                "{text}"
            );
            assert!(text.contains(advice), "{text}");
        }
        // Unknown messages get no advice.
        let text =
            ApiError::new("ec2:RunInstances", "us-west-2", "OperationNotPermitted", "No eth0.").to_string();
        assert_eq!(text, "ec2:RunInstances in us-west-2: No eth0. (OperationNotPermitted)");
    }

    #[test]
    fn codes_have_their_class() {
        let zone = "Your requested instance type (c5.4xlarge) is not supported in your requested Availability Zone (us-west-2d).";
        for (code, message) in [
            ("InsufficientInstanceCapacity", ""),
            (
                "Server.InsufficientInstanceCapacity",
                "Server.InsufficientInstanceCapacity: Insufficient capacity",
            ),
            ("Unsupported", zone),
        ] {
            assert_eq!(Class::of(code, message), Class::Capacity, "{code}");
        }
        for (code, class) in [
            ("InvalidKeyPair.NotFound", Class::NotFound),
            ("InvalidGroup.Duplicate", Class::Duplicate),
            ("ResourceNotFoundException", Class::NotFound),
            ("InstanceLimitExceeded", Class::Quota),
            ("MaxSpotInstanceCountExceeded", Class::SpotQuota),
            ("SpotMaxPriceTooLow", Class::Capacity),
            ("InternalError", Class::Other),
        ] {
            assert_eq!(Class::of(code, ""), class, "{code}");
        }
    }
}
