//! Explains why a running machine does not answer SSH. The usual reason: this machine's address has changed, and the security
//! group allows the old one.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use deploy::job::LostContact;
use deploy::{exit, step};
use deploy_ssh::runtime::runtime;
use deploy_ssh::ssh::NoAnswer;

use crate::aws::{self, Aws};
use crate::discover::group;
use crate::discover::state::{Rule, Source};
use crate::settings::Settings;

/// The advice, unless this machine is allowed. `own` is this machine's network, if it is known; `is_chosen` is whether the user
/// named the allowed networks.
fn advise(allowed: &BTreeSet<String>, own: Option<&str>, is_chosen: bool) -> Option<String> {
    let networks = allowed.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    // Networks that the user named stay until others are named.
    let up = |own: &str| match is_chosen {
        true => format!("cargo xtask up --ssh-from {own}"),
        false => "cargo xtask up".to_owned(),
    };
    match own {
        Some(own) if allowed.iter().any(|network| contains(network, own)) => None,
        Some(own) => Some(format!(
            "your address has changed: it is {own}, and the machines let in SSH from {networks}; let it in with: {}",
            up(own)
        )),
        None => Some(format!(
            "the machines let in SSH from {networks}; if your address has changed, let it in with: {}",
            up("ADDRESS")
        )),
    }
}

/// Whether a network contains all of another one.
fn contains(network: &str, other: &str) -> bool {
    let parse = |text: &str| {
        let (address, length) = text.split_once('/')?;
        let bits = match address.parse().ok()? {
            IpAddr::V4(address) => (4, u128::from(u32::from(address)) << 96),
            IpAddr::V6(address) => (6, u128::from(address)),
        };
        Some((bits, length.parse::<u32>().ok()?))
    };
    let (Some(((kind, bits), length)), Some(((other_kind, other_bits), other_length))) =
        (parse(network), parse(other))
    else {
        return false;
    };
    let differ = (bits ^ other_bits).checked_shr(128 - length.min(128)).unwrap_or(0);
    kind == other_kind && length <= other_length && differ == 0
}

/// What to do about an error, if it is that hosts of the stack do not answer SSH.
pub(crate) fn advice(inventory: &Path, error: &anyhow::Error) -> Option<String> {
    // The stack of a failed job is about to be destroyed.
    if !exit::is::<NoAnswer>(error) && !exit::is::<LostContact>(error) || step::hosts_go() {
        return None;
    }
    // If any of this fails, the error gets no advice.
    let remembered = Settings::load(&Settings::path(inventory)).ok()??;
    runtime().ok()?.block_on(async {
        let aws = Aws::connect(&remembered.region).await.ok()?;
        remembered.ensure_account(&aws.account).ok()?;
        let group = group(&aws, &remembered.stack).await.ok()??;
        let network = |rule: &Rule| match (&rule.source, rule.ports) {
            (Source::Network(network), Some((first, last))) if (first..=last).contains(&22) => {
                Some(network.clone())
            }
            _ => None,
        };
        let allowed: BTreeSet<_> = group.rules.iter().filter_map(network).collect();
        let own = aws::own_network().await.ok();
        advise(&allowed, own.as_deref(), remembered.ssh_from.is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_no_longer_allowed_is_explained() {
        let allowed = BTreeSet::from(["203.0.113.7/32".to_owned(), "198.51.100.0/24".to_owned()]);
        assert_eq!(advise(&allowed, Some("198.51.100.9/32"), false), None);
        let advice = advise(&allowed, Some("203.0.113.8/32"), false).unwrap();
        assert!(advice.starts_with("your address has changed: it is 203.0.113.8/32, and"), "{advice}");
        assert!(advice.ends_with("with: cargo xtask up"), "{advice}");
        let advice = advise(&allowed, Some("203.0.113.8/32"), true).unwrap();
        assert!(advice.ends_with("with: cargo xtask up --ssh-from 203.0.113.8/32"), "{advice}");
        assert!(advise(&allowed, None, false).unwrap().contains("if your address has changed"));
    }

    #[test]
    fn a_network_contains_its_parts_only() {
        for (network, other) in [
            ("0.0.0.0/0", "203.0.113.7/32"),
            ("203.0.113.0/24", "203.0.113.255/32"),
            ("2001:db8::/32", "2001:db8::1/128"),
            ("203.0.113.7/32", "203.0.113.7/32"),
        ] {
            assert!(contains(network, other), "{network} {other}");
        }
        for (network, other) in [
            ("203.0.113.7/32", "203.0.113.0/24"),
            ("203.0.113.0/24", "203.0.114.0/32"),
            ("0.0.0.0/0", "2001:db8::1/128"),
            ("office", "203.0.113.7/32"),
        ] {
            assert!(!contains(network, other), "{network} {other}");
        }
    }
}
