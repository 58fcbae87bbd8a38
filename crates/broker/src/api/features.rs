//! The features of Apache Kafka 4 that have levels (KIP-584), and which of them there are here: none, which is level 0 of each.
//!
//! `metadata.version` is not among them: it has no level 0, and its levels are formats of KRaft's records.

use kafka_protocol::messages::api_versions_response::SupportedFeatureKey;

use super::str_bytes;

/// In the order of their names.
const NAMES: &[&str] = &[
    "eligible.leader.replicas.version",
    "group.version",
    "kraft.version",
    "share.version",
    "streams.version",
    "transaction.version",
];

/// The level of each feature; there is no other.
pub const LEVEL: i16 = 0;

pub fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
}

/// What ApiVersions tells. A feature that is finalized at level 0 is not listed as finalized, as by Apache Kafka.
pub fn supported() -> Vec<SupportedFeatureKey> {
    let feature = |name: &&str| {
        SupportedFeatureKey::default()
            .with_name(str_bytes(name))
            .with_min_version(LEVEL)
            .with_max_version(LEVEL)
    };
    NAMES.iter().map(feature).collect()
}
