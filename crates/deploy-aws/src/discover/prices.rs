//! List prices, for the usual machines in the regions that share them.

use super::Instance;
use crate::settings::Settings;

/// Linux machines in [`REGIONS`], in US dollars an hour.
const HOURLY: [(&str, f64); 16] = [
    ("c5.large", 0.085),
    ("c5.xlarge", 0.17),
    ("c5.2xlarge", 0.34),
    ("c5.4xlarge", 0.68),
    ("c5.9xlarge", 1.53),
    ("c5.12xlarge", 2.04),
    ("c5.18xlarge", 3.06),
    ("c5.24xlarge", 4.08),
    ("c5a.4xlarge", 0.616),
    ("c6a.4xlarge", 0.612),
    ("c6i.4xlarge", 0.68),
    ("c6g.4xlarge", 0.544),
    ("c7g.4xlarge", 0.58),
    ("c7i.4xlarge", 0.714),
    ("m5.4xlarge", 0.768),
    ("m6i.4xlarge", 0.768),
];
/// These regions have the same prices, which are the lowest.
const REGIONS: [&str; 3] = ["us-east-1", "us-east-2", "us-west-2"];
/// A public address, in US dollars an hour.
const ADDRESS: f64 = 0.005;
/// A GiB of gp3 disk, in US dollars an hour: a month has 730 hours.
const DISK_GIB: f64 = 0.08 / 730.0;

/// The list price of a machine with its public address and disk, in US dollars an hour; `None` where it is not known. Spot
/// instances cost less.
pub(crate) fn hourly(instance_type: &str, region: &str, disk_gib: u32) -> Option<f64> {
    let listed = HOURLY.iter().find(|(name, _)| *name == instance_type && REGIONS.contains(&region));
    listed.map(|(_, price)| price + ADDRESS + f64::from(disk_gib) * DISK_GIB)
}

/// The price of a machine on demand.
pub(crate) fn of_instance(instance: &Instance, settings: &Settings) -> Option<f64> {
    let price = hourly(&instance.instance_type, &settings.region, settings.disk_gib);
    price.filter(|_| !instance.is_spot)
}

/// Formats an amount of US dollars: $0.69.
pub(crate) fn usd(amount: f64) -> String {
    format!("${amount:.2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_given_only_where_it_is_known() {
        assert_eq!(hourly("c5.4xlarge", "us-west-2", 30).map(usd).as_deref(), Some("$0.69"));
        assert_eq!(hourly("c5.4xlarge", "eu-west-1", 30), None);
        assert_eq!(hourly("u-24tb1.metal", "us-west-2", 30), None);
    }
}
