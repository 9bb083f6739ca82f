//! A point in time in a TOML file: UTC, as RFC 3339, in whole seconds.

use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serializer, de::Error};

pub(super) fn serialize<S: Serializer>(moment: &Option<SystemTime>, out: S) -> Result<S::Ok, S::Error> {
    match moment {
        Some(moment) => out.collect_str(&humantime::format_rfc3339_seconds(*moment)),
        None => out.serialize_none(),
    }
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SystemTime>, D::Error> {
    humantime::parse_rfc3339(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}
