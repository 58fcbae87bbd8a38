//! The settings of a broker that Apache Kafka 4.3 lets operators alter while it runs (`DynamicBrokerConfig`, KIP-226), besides the
//! defaults of topics: those that are of use here take effect; those that mean nothing here are accepted, kept and listed, so
//! that tools which set them work (`kafka-reassign-partitions --throttle`, operators that size thread pools); those whose
//! acceptance would promise what is not done are refused, with the reason.

use std::collections::BTreeMap;

use crate::topic_config::{Allowed, ConfigError, DEFINITIONS, Definition, definitions};

pub const MAX_CONNECTIONS_PER_IP: &str = "max.connections.per.ip";

/// Settings that may be altered and take effect. What holds without is what the broker was started with.
static WITH_EFFECT: &[Definition] = definitions! {
    // 0 would need exceptions by address, which there are not: `max.connections.per.ip.overrides`.
    "max.connections.per.ip" Int "2147483647" None, Allowed::AtLeast(1),
        "The most Kafka connections of one address.";
};

/// Settings that may be altered and have no effect, in the order of their names.
pub static WITHOUT_EFFECT: &[Definition] = definitions! {
    "background.threads" Int "10" None, Allowed::AtLeast(1),
        "Has no effect: threads follow the number of processors.";
    "follower.fetch.last.tiered.offset.enable" Boolean "false" None, Allowed::Bool,
        "Has no effect: there are no followers and one tier of storage.";
    "follower.replication.throttled.rate" Long "9223372036854775807" None, Allowed::AtLeast(0),
        "Has no effect: there are no followers.";
    "group.consumer.assignment.interval.ms" Int "1000" None, Allowed::AtLeast(0),
        "Has no effect: groups follow the classic protocol.";
    "group.coordinator.cached.buffer.max.bytes" Int "1048588" None, Allowed::AtLeast(524_288),
        "Has no effect: groups are kept in the metadata store.";
    "group.share.assignment.interval.ms" Int "1000" None, Allowed::AtLeast(0),
        "Has no effect: there are no share groups.";
    "group.streams.assignment.interval.ms" Int "1000" None, Allowed::AtLeast(0),
        "Has no effect: there are no Streams groups.";
    "leader.replication.throttled.rate" Long "9223372036854775807" None, Allowed::AtLeast(0),
        "Has no effect: there are no followers.";
    "log.cleaner.backoff.ms" Long "15000" None, Allowed::AtLeast(0),
        "Has no effect: how often logs are cleaned is chosen when the broker starts.";
    "log.cleaner.dedupe.buffer.size" Long "134217728" None, Allowed::AtLeast(0),
        "Has no effect: the memory of the log cleaner is chosen when the broker starts.";
    "log.cleaner.io.buffer.load.factor" Double "0.9" None, Allowed::Between(0.0, f64::MAX),
        "Has no effect: the memory of the log cleaner is chosen when the broker starts.";
    "log.cleaner.io.buffer.size" Int "524288" None, Allowed::AtLeast(0),
        "Has no effect: the memory of the log cleaner is chosen when the broker starts.";
    "log.cleaner.io.max.bytes.per.second" Double "1.7976931348623157E308" None, Allowed::Between(0.0, f64::MAX),
        "Has no effect: the log cleaner makes way for producers by itself.";
    "log.cleaner.threads" Int "1" None, Allowed::AtLeast(0),
        "Has no effect: threads follow the number of processors.";
    "num.io.threads" Int "8" None, Allowed::AtLeast(1),
        "Has no effect: threads follow the number of processors.";
    "num.network.threads" Int "3" None, Allowed::AtLeast(1),
        "Has no effect: threads follow the number of processors.";
    "num.recovery.threads.per.data.dir" Int "2" None, Allowed::AtLeast(1),
        "Has no effect: threads follow the number of processors.";
    "num.replica.fetchers" Int "1" None, Allowed::AtLeast(1),
        "Has no effect: there are no followers.";
    "remote.fetch.max.wait.ms" Int "500" None, Allowed::AtLeast(1),
        "Has no effect: there is one tier of storage.";
    "remote.list.offsets.request.timeout.ms" Long "30000" None, Allowed::AtLeast(1),
        "Has no effect: there is one tier of storage.";
    "remote.log.index.file.cache.total.size.bytes" Long "1073741824" None, Allowed::AtLeast(1),
        "Has no effect: there is one tier of storage.";
    "remote.log.manager.copier.thread.pool.size" Int "10" None, Allowed::AtLeast(1),
        "Has no effect: there is one tier of storage.";
    "remote.log.manager.copy.max.bytes.per.second" Long "9223372036854775807" None, Allowed::AtLeast(1),
        "Has no effect: there is one tier of storage.";
    "remote.log.manager.expiration.thread.pool.size" Int "10" None, Allowed::AtLeast(1),
        "Has no effect: there is one tier of storage.";
    "remote.log.manager.fetch.max.bytes.per.second" Long "9223372036854775807" None, Allowed::AtLeast(1),
        "Has no effect: there is one tier of storage.";
    "remote.log.manager.follower.thread.pool.size" Int "2" None, Allowed::AtLeast(1),
        "Has no effect: there is one tier of storage.";
    "remote.log.reader.threads" Int "10" None, Allowed::AtLeast(1),
        "Has no effect: there is one tier of storage.";
    "replica.alter.log.dirs.io.max.bytes.per.second" Long "9223372036854775807" None, Allowed::AtLeast(0),
        "Has no effect: there is one log directory.";
    "share.coordinator.cached.buffer.max.bytes" Int "1048588" None, Allowed::AtLeast(524_288),
        "Has no effect: there are no share groups.";
    "transaction.partition.verification.enable" Boolean "true" None, Allowed::Bool,
        "Has no effect: there are no transactions yet.";
};

const AT_START: &str = "it is chosen when the broker starts";
const SECURITY: &str = "how clients are authenticated is chosen when the broker starts";
const NO_PLUGINS: &str = "this broker loads no classes";

/// Settings that cannot be altered here, and why, by the beginnings of their names.
static REFUSED: &[(&str, &str)] = &[
    ("config.providers", NO_PLUGINS),
    ("cordoned.log.dirs", "there is one log directory, the store"),
    ("listener.", SECURITY),
    ("listeners", AT_START),
    ("max.connection", AT_START),
    ("metric.reporters", NO_PLUGINS),
    ("principal.builder.class", NO_PLUGINS),
    ("producer.id.expiration.ms", AT_START),
    ("sasl.", SECURITY),
    ("ssl.", SECURITY),
];

/// The definition of a dynamic broker setting: the default of a topic configuration, or one of the broker's own.
pub fn definition(name: &str) -> Option<&'static Definition> {
    let own = || WITH_EFFECT.iter().chain(WITHOUT_EFFECT).find(|definition| definition.name == name);
    by_synonym(name).or_else(own)
}

/// The topic configuration whose default a broker setting gives.
pub fn by_synonym(name: &str) -> Option<&'static Definition> {
    DEFINITIONS.iter().find(|definition| definition.broker_synonym == Some(name))
}

/// Checks the dynamic settings that a broker is to have, of which it has `before` already. What does not change may stay.
pub fn check_changes(
    values: &BTreeMap<String, String>,
    before: &BTreeMap<String, String>,
) -> Result<(), ConfigError> {
    for (name, value) in values {
        let definition = definition(name).ok_or_else(|| refusal(name))?;
        if before.get(name) != Some(value) || !definition.was_allowed(value) {
            definition.check(value)?;
        }
    }
    Ok(())
}

/// Why there is no such dynamic setting.
pub fn refusal(name: &str) -> ConfigError {
    let refused = REFUSED.iter().find(|(beginning, _)| name.starts_with(beginning));
    match refused.filter(|_| definition(name).is_none()) {
        Some((_, why)) => ConfigError::Refused { name: name.to_owned(), why },
        None => ConfigError::UnknownBrokerKey(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Apache Kafka 4.3 calls dynamic, `DynamicBrokerConfig.dynamicConfigUpdateModes()`, without `sasl.*` and `ssl.*`.
    const DYNAMIC: &str = "background.threads compression.gzip.level compression.lz4.level compression.type \
        compression.zstd.level config.providers cordoned.log.dirs follower.fetch.last.tiered.offset.enable \
        follower.replication.throttled.rate group.consumer.assignment.interval.ms \
        group.coordinator.cached.buffer.max.bytes group.share.assignment.interval.ms \
        group.streams.assignment.interval.ms leader.replication.throttled.rate listener.security.protocol.map \
        listeners log.cleaner.backoff.ms log.cleaner.dedupe.buffer.size log.cleaner.delete.retention.ms \
        log.cleaner.io.buffer.load.factor log.cleaner.io.buffer.size log.cleaner.io.max.bytes.per.second \
        log.cleaner.max.compaction.lag.ms log.cleaner.min.cleanable.ratio log.cleaner.min.compaction.lag.ms \
        log.cleaner.threads log.cleanup.policy log.flush.interval.messages log.flush.interval.ms \
        log.index.interval.bytes log.index.size.max.bytes log.local.retention.bytes log.local.retention.ms \
        log.message.timestamp.after.max.ms log.message.timestamp.before.max.ms log.message.timestamp.type \
        log.preallocate log.retention.bytes log.retention.ms log.roll.jitter.ms log.roll.ms log.segment.bytes \
        log.segment.delete.delay.ms max.connection.creation.rate max.connections max.connections.per.ip \
        max.connections.per.ip.overrides message.max.bytes metric.reporters min.insync.replicas num.io.threads \
        num.network.threads num.recovery.threads.per.data.dir num.replica.fetchers principal.builder.class \
        producer.id.expiration.ms remote.fetch.max.wait.ms remote.list.offsets.request.timeout.ms \
        remote.log.index.file.cache.total.size.bytes remote.log.manager.copier.thread.pool.size \
        remote.log.manager.copy.max.bytes.per.second remote.log.manager.expiration.thread.pool.size \
        remote.log.manager.fetch.max.bytes.per.second remote.log.manager.follower.thread.pool.size \
        remote.log.reader.threads replica.alter.log.dirs.io.max.bytes.per.second \
        share.coordinator.cached.buffer.max.bytes transaction.partition.verification.enable \
        unclean.leader.election.enable";

    #[test]
    fn each_dynamic_setting_of_kafka_is_altered_or_refused_with_a_reason() {
        for name in DYNAMIC.split_whitespace() {
            let known = definition(name).is_some();
            let refused = matches!(refusal(name), ConfigError::Refused { .. });
            assert!(known != refused, "{name}: known {known}, refused {refused}");
        }
        assert!(WITHOUT_EFFECT.is_sorted_by_key(|d| d.name));
        for d in WITHOUT_EFFECT {
            assert_eq!(d.check(d.default), Ok(()), "{}", d.name);
            assert!(DYNAMIC.split_whitespace().any(|name| name == d.name), "{}", d.name);
        }
    }

    #[test]
    fn refusals_speak_of_brokers() {
        let check = |name: &str, value: &str| {
            let values = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            check_changes(&values, &BTreeMap::new()).map_err(|e| e.to_string())
        };
        assert_eq!(check("log.cleaner.threads", "2"), Ok(()));
        assert_eq!(check("compression.type", "zstd"), Ok(()));
        assert_eq!(check(MAX_CONNECTIONS_PER_IP, "5"), Ok(()));
        for (name, value, words) in [
            ("log.cleaner.threads", "x", "Invalid value x for configuration log.cleaner.threads"),
            (
                "ssl.keystore.location",
                "/x",
                "Cannot update these configs dynamically: [ssl.keystore.location]: how clients",
            ),
            ("no.such.setting", "1", "Unknown broker config name: no.such.setting"),
            ("max.connections.per.ip", "0", "Invalid value 0 for configuration max.connections.per.ip"),
            ("max.connections.per.ip.overrides", "a:1", "Cannot update these configs dynamically"),
            ("max.connections", "5", "Cannot update these configs dynamically"),
            ("log.segment.bytes", "1000", "Value must be at least 1048576"),
        ] {
            let refused = check(name, value).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
    }
}
