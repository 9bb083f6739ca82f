//! Networks from which SSH is allowed.

use std::net::IpAddr;

use anyhow::{Context, ensure};

/// Parses a network to the form in which AWS stores it. The whole internet must be requested by name.
///
/// # Errors
/// Not a network in CIDR notation.
pub(super) fn parse(text: &str) -> anyhow::Result<String> {
    if text == "anywhere" {
        return Ok("0.0.0.0/0".to_owned());
    }
    let context = || {
        format!("{text:?} is not a network to allow SSH from; it should be like 203.0.113.7/32, or anywhere")
    };
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address.parse().with_context(context)?;
    let (bits, whole) = match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    let length: u32 = if text.contains('/') { length.parse().with_context(context)? } else { whole };
    ensure!(length <= whole, context());
    ensure!(length > 0, "{text} is the whole internet; to allow SSH from everywhere: --ssh-from anywhere");
    let bits = bits & (u128::MAX << (128 - length));
    let address: IpAddr = match address {
        IpAddr::V4(_) => IpAddr::V4(((bits >> 96) as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(bits.into()),
    };
    Ok(format!("{address}/{length}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_the_form_in_which_aws_stores_them() {
        assert_eq!(parse("203.0.113.7").unwrap(), "203.0.113.7/32");
        assert_eq!(parse("203.0.113.7/24").unwrap(), "203.0.113.0/24");
        assert_eq!(parse("2001:db8::1/32").unwrap(), "2001:db8::/32");
        assert_eq!(parse("anywhere").unwrap(), "0.0.0.0/0");
        for wrong in ["", "office", "1.2.3/8", "1.2.3.4/33", "1.2.3.4/", "::/0", "1.2.3.4/-1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
