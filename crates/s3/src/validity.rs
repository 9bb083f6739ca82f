//! How long signatures are valid, and when they are renewed. Times are seconds since 1970, as signatures have them.

use anyhow::Context;
use jiff::Timestamp;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// The longest time that S3 accepts.
const LONGEST: u64 = 7 * DAY;
/// For how long to sign with credentials of an unknown end, and for how long to rely on it.
const SIGNED_IF_UNKNOWN: u64 = 12 * HOUR;
const RELIED_ON_IF_UNKNOWN: u64 = HOUR;
/// The least time left at a renewal.
const LEAST_LEFT: u64 = MINUTE;
/// The shortest time between two renewals, or two tries of one.
pub const SHORTEST_PAUSE: u64 = 30;

/// When credentials end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// They are long-lived keys.
    Never,
    At(u64),
    /// They have a session token, and nothing says when it ends. The user may have set them in the environment, or in a profile.
    Unknown,
}

/// How long signatures are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// What the signature says.
    pub seconds: u64,
    /// The moment until which a job may rely on it.
    pub until: u64,
}

impl Expiry {
    /// `known` is the end that came with the credentials. `declared` is `AWS_CREDENTIAL_EXPIRATION`, if the credentials are those
    /// of the environment: the SDK does not read it.
    ///
    /// # Errors
    /// The declared time is none.
    pub fn of(known: Option<u64>, has_token: bool, declared: Option<&str>) -> anyhow::Result<Self> {
        match (known, declared) {
            (Some(end), _) => Ok(Self::At(end)),
            (None, _) if !has_token => Ok(Self::Never),
            (None, None) => Ok(Self::Unknown),
            (None, Some(text)) => {
                let time: Timestamp = text.parse().with_context(|| {
                    format!("AWS_CREDENTIAL_EXPIRATION is {text:?}; set a time like 2030-01-02T03:04:05Z, or unset it")
                })?;
                Ok(Self::At(u64::try_from(time.as_second()).unwrap_or(0)))
            }
        }
    }

    /// How long a signature of `now` is valid; `None` if the credentials have ended.
    ///
    /// A signature ends with its credentials, whatever it says: S3 refuses it from then on. So with credentials of an unknown end
    /// it says more (12 hours, the longest session of most roles) than the job relies on (an hour, the shortest usual session).
    pub fn validity(self, now: u64) -> Option<Validity> {
        let (seconds, relied_on) = match self {
            Self::Never => (LONGEST, LONGEST),
            Self::At(end) => {
                let left = end.checked_sub(now).filter(|left| *left > 0)?.min(LONGEST);
                (left, left)
            }
            Self::Unknown => (SIGNED_IF_UNKNOWN, RELIED_ON_IF_UNKNOWN),
        };
        Some(Validity { seconds, until: now + relied_on })
    }
}

/// How many seconds after `now` to renew signatures that end at `until`: when a third of their time is left, and a minute before
/// their end at the latest, but not at once.
pub fn renewal(now: u64, until: u64) -> u64 {
    let left = until.saturating_sub(now);
    (left * 2 / 3).min(left.saturating_sub(LEAST_LEFT)).max(SHORTEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn signatures_end_with_their_credentials_and_after_seven_days() {
        let validity = |expiry: Expiry| expiry.validity(NOW).map(|valid| (valid.seconds, valid.until - NOW));
        assert_eq!(validity(Expiry::Never), Some((7 * DAY, 7 * DAY)));
        assert_eq!(validity(Expiry::At(NOW + 30 * DAY)), Some((7 * DAY, 7 * DAY)));
        assert_eq!(validity(Expiry::At(NOW + HOUR)), Some((HOUR, HOUR)));
        assert_eq!(validity(Expiry::At(NOW + 1)), Some((1, 1)));
        assert_eq!(validity(Expiry::Unknown), Some((12 * HOUR, HOUR)));
        assert_eq!((validity(Expiry::At(NOW)), validity(Expiry::At(NOW - 1))), (None, None));
    }

    #[test]
    fn only_session_tokens_end() {
        assert_eq!(Expiry::of(None, false, None).unwrap(), Expiry::Never);
        assert_eq!(Expiry::of(None, true, None).unwrap(), Expiry::Unknown);
        assert_eq!(Expiry::of(Some(NOW), true, Some("2030-01-01T00:00:00Z")).unwrap(), Expiry::At(NOW));
        // A variable that was left behind says nothing about other keys.
        assert_eq!(Expiry::of(None, false, Some("soon")).unwrap(), Expiry::Never);
        for text in ["2027-01-15T08:00:00Z", "2027-01-15T09:00:00+01:00", "2027-01-15T08:00:00.7Z"] {
            assert_eq!(Expiry::of(None, true, Some(text)).unwrap(), Expiry::At(NOW), "{text}");
        }
        assert!(
            Expiry::of(None, true, Some("soon"))
                .unwrap_err()
                .to_string()
                .contains("AWS_CREDENTIAL_EXPIRATION")
        );
    }

    #[test]
    fn signatures_are_renewed_when_a_third_of_their_time_is_left() {
        assert_eq!(renewal(NOW, NOW + 3 * HOUR), 2 * HOUR);
        assert_eq!(renewal(NOW, NOW + 7 * DAY), 7 * DAY * 2 / 3);
        assert_eq!(renewal(NOW, NOW + 150), 90);
        assert_eq!((renewal(NOW, NOW + 80), renewal(NOW, NOW), renewal(NOW, 0)), (30, 30, 30));
    }

    proptest! {
        #[test]
        fn signatures_are_renewed_before_they_end(left in 0..=LONGEST) {
            let pause = renewal(NOW, NOW + left);
            prop_assert!(pause >= SHORTEST_PAUSE);
            prop_assert!(pause + LEAST_LEFT <= left || pause == SHORTEST_PAUSE);
        }
    }
}
