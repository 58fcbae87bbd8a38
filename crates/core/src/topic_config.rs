//! The configuration of a topic: which keys exist, their defaults, what values are allowed, and the typed form
//! that the log obeys. Names, defaults and limits follow Apache Kafka 4.3's topic configuration reference, of which no key
//! is missing: a setting that means nothing here is accepted, and its documentation says so. Keys that begin with `kafscale.` are
//! our own.
//!
//! What a client asks for is checked by [`check_overrides`]. [`TopicConfig::resolve`] takes whatever was stored, also by a
//! release that accepted more: a topic with a smaller `segment.bytes` than may be asked for today keeps it.

use std::collections::BTreeMap;

use crate::batch::{BatchRules, Codec, TimestampType};
use crate::compress::Compression;
use crate::sql_schema::{self, Declared, SchemaError};

/// The type of a configuration value, as DescribeConfigs reports it (KIP-569).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    Boolean,
    Int,
    Long,
    Double,
    String,
    List,
}

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Allowed {
    Bool,
    AtLeast(i64),
    /// As before, and topics that were created with a smaller value, down to the second one, keep it.
    AtLeastAnew(i64, i64),
    Within(i64, i64),
    /// -1, or between two limits.
    DefaultOrWithin(i64, i64),
    Between(f64, f64),
    OneOf(&'static [&'static str]),
    /// A comma separated list of these; an empty one too.
    ListOf(&'static [&'static str]),
    /// `*`, `none`, or a comma separated list of `partition:broker`.
    Replicas,
    /// What [`crate::sql_schema`] reads; nothing, when empty.
    SqlSchema,
    /// `false`; for `true` there is this reason against it.
    False(&'static str),
}

/// One configuration key.
#[derive(Debug)]
pub struct Definition {
    pub name: &'static str,
    pub value_type: ValueType,
    pub default: &'static str,
    /// The broker configuration that gives the default; DescribeConfigs lists it as a synonym. Apache Kafka has none for some.
    pub broker_synonym: Option<&'static str>,
    pub documentation: &'static str,
    pub(crate) allowed: Allowed,
}

/// Why a configuration of a topic or a broker is refused; the text is what a user sees.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("Unknown topic config name: {0}")]
    UnknownKey(String),
    #[error("Unknown broker config name: {0}")]
    UnknownBrokerKey(String),
    #[error("Cannot update these configs dynamically: [{name}]: {why}")]
    Refused { name: String, why: &'static str },
    #[error("Invalid value {value} for configuration {name}: {why}")]
    InvalidValue { name: &'static str, value: String, why: String },
    #[error("conflict topic config setting {MIN_LAG} ({min}) > {MAX_LAG} ({max})")]
    Lags { min: i64, max: i64 },
    #[error("conflict of the topic configs {SQL_FORMAT} and {SQL_SCHEMA}: {0}")]
    Sql(#[from] SchemaError),
}

const MIN_LAG: &str = "min.compaction.lag.ms";
const MAX_LAG: &str = "max.compaction.lag.ms";
/// How SQL reads values.
pub const SQL_FORMAT: &str = "kafscale.sql.format";
/// Their columns.
pub const SQL_SCHEMA: &str = "kafscale.sql.schema";

macro_rules! definitions {
    ($($name:literal $type:ident $default:literal $synonym:expr, $allowed:expr, $doc:literal;)*) => {
        &[$($crate::topic_config::Definition {
            name: $name, value_type: $crate::topic_config::ValueType::$type, default: $default,
            broker_synonym: $synonym, allowed: $allowed, documentation: $doc,
        }),*]
    };
}
pub(crate) use definitions;

/// Every topic configuration, in the order of their names.
pub static DEFINITIONS: &[Definition] = definitions! {
    "cleanup.policy" List "delete" Some("log.cleanup.policy"), Allowed::ListOf(&["delete", "compact"]),
        "What becomes of old records: 'delete' drops them by time and size, 'compact' keeps the last of each key; neither, when empty.";
    "compression.gzip.level" Int "-1" Some("compression.gzip.level"), Allowed::DefaultOrWithin(1, 9),
        "The level of gzip, where compression.type is 'gzip'; -1 for gzip's own default.";
    "compression.lz4.level" Int "9" Some("compression.lz4.level"), Allowed::Within(1, 17),
        "Has no effect: where compression.type is 'lz4', batches are compressed at the one, fast, level that there is here.";
    "compression.type" String "producer" Some("compression.type"),
        Allowed::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
        "The codec that batches are stored with: those that come with another are compressed anew. 'producer' stores each as it comes.";
    "compression.zstd.level" Int "3" Some("compression.zstd.level"), Allowed::Within(-131_072, 22),
        "The level of zstd, where compression.type is 'zstd'.";
    "delete.retention.ms" Long "86400000" Some("log.cleaner.delete.retention.ms"), Allowed::AtLeast(0),
        "How long a compacted topic keeps tombstones.";
    "file.delete.delay.ms" Long "60000" Some("log.segment.delete.delay.ms"), Allowed::AtLeast(0),
        "Has no effect: a dropped segment is deleted at once, and its readers continue at the new log start.";
    "flush.messages" Long "9223372036854775807" Some("log.flush.interval.messages"), Allowed::AtLeast(1),
        "Has no effect: every batch is durable before it is acknowledged.";
    "flush.ms" Long "9223372036854775807" Some("log.flush.interval.ms"), Allowed::AtLeast(0),
        "Has no effect: every batch is durable before it is acknowledged.";
    "follower.replication.throttled.replicas" List "" None, Allowed::Replicas,
        "Has no effect: there are no followers.";
    "index.interval.bytes" Int "4096" Some("log.index.interval.bytes"), Allowed::AtLeast(0),
        "How many bytes of a segment stand between two entries of its offset index.";
    "kafscale.sql.format" String "infer" None, Allowed::OneOf(&sql_schema::FORMATS),
        "How SQL reads the values of records. 'infer' looks at some of them.";
    "kafscale.sql.schema" String "" None, Allowed::SqlSchema,
        "The columns that values have in SQL, as in 'id bigint, note text'; inferred, when empty. Of Avro and Protobuf: file:NAME, subject:NAME, or a \
         schema of Avro; the registry's, when empty.";
    "leader.replication.throttled.replicas" List "" None, Allowed::Replicas,
        "Has no effect: there are no followers.";
    "local.retention.bytes" Long "-2" Some("log.local.retention.bytes"), Allowed::AtLeast(-2),
        "Has no effect: there is one tier of storage, and retention.bytes holds for it.";
    "local.retention.ms" Long "-2" Some("log.local.retention.ms"), Allowed::AtLeast(-2),
        "Has no effect: there is one tier of storage, and retention.ms holds for it.";
    "max.compaction.lag.ms" Long "9223372036854775807" Some("log.cleaner.max.compaction.lag.ms"), Allowed::AtLeast(1),
        "The longest a record may wait for compaction.";
    "max.message.bytes" Int "1048588" Some("message.max.bytes"), Allowed::AtLeast(0),
        "The largest batch that the topic takes, after compression.";
    "message.timestamp.after.max.ms" Long "3600000" Some("log.message.timestamp.after.max.ms"), Allowed::AtLeast(0),
        "How far a record's timestamp may lie after the broker's clock.";
    "message.timestamp.before.max.ms" Long "9223372036854775807" Some("log.message.timestamp.before.max.ms"), Allowed::AtLeast(0),
        "How far a record's timestamp may lie before the broker's clock.";
    "message.timestamp.type" String "CreateTime" Some("log.message.timestamp.type"), Allowed::OneOf(&["CreateTime", "LogAppendTime"]),
        "Whether a record's timestamp is the producer's or the time of the append.";
    "min.cleanable.dirty.ratio" Double "0.5" Some("log.cleaner.min.cleanable.ratio"), Allowed::Between(0.0, 1.0),
        "The share of a log that must be uncompacted before it is compacted.";
    "min.compaction.lag.ms" Long "0" Some("log.cleaner.min.compaction.lag.ms"), Allowed::AtLeast(0),
        "The shortest time a record stays uncompacted.";
    "min.insync.replicas" Int "1" Some("min.insync.replicas"), Allowed::AtLeast(1),
        "Has no effect: durability is the object store's, there are no replicas.";
    "preallocate" Boolean "false" Some("log.preallocate"), Allowed::Bool,
        "Has no effect: segments are immutable objects.";
    "remote.log.copy.disable" Boolean "false" None, Allowed::Bool,
        "Has no effect: there is one tier of storage.";
    "remote.log.delete.on.disable" Boolean "false" None, Allowed::Bool,
        "Has no effect: there is one tier of storage.";
    "remote.storage.enable" Boolean "false" None,
        Allowed::False("There is one tier of storage here, the store that the broker was started with, so that there is \
            nothing to enable; a topic in an object store is there as a whole already"),
        "Always false: there is one tier of storage, the store that the broker was started with.";
    "retention.bytes" Long "-1" Some("log.retention.bytes"), Allowed::AtLeast(-1),
        "The largest size of a partition before its oldest records are dropped; -1 for no limit.";
    "retention.ms" Long "604800000" Some("log.retention.ms"), Allowed::AtLeast(-1),
        "How long records are kept; -1 for ever.";
    "segment.bytes" Int "1073741824" Some("log.segment.bytes"), Allowed::AtLeastAnew(1 << 20, 14),
        "The largest segment object. At least 1 MiB (KIP-1030); a topic that has less from before keeps it.";
    "segment.index.bytes" Int "10485760" Some("log.index.size.max.bytes"), Allowed::AtLeast(4),
        "Has no effect: the index is a part of the segment.";
    "segment.jitter.ms" Long "0" Some("log.roll.jitter.ms"), Allowed::AtLeast(0),
        "Has no effect: segments are cut when the write-ahead log is rewritten.";
    "segment.ms" Long "604800000" Some("log.roll.ms"), Allowed::AtLeast(1),
        "The longest that records wait in the write-ahead log before they become a segment.";
    "unclean.leader.election.enable" Boolean "false" Some("unclean.leader.election.enable"), Allowed::Bool,
        "Has no effect: an owner that lost acknowledged records cannot exist.";
};

/// The definition of the topic configuration `name`.
pub fn definition(name: &str) -> Option<&'static Definition> {
    DEFINITIONS.iter().find(|d| d.name == name)
}

/// The longest value of a setting, as answers of old versions have no room for more. Each topic keeps its own in memory, and each answer about it repeats them.
pub const VALUE_MAX_BYTES: usize = i16::MAX as usize;

impl Definition {
    /// Checks one value.
    pub fn check(&'static self, value: &str) -> Result<(), ConfigError> {
        let invalid =
            |why: String| Err(ConfigError::InvalidValue { name: self.name, value: value.to_owned(), why });
        let trimmed = value.trim();
        if value.len() > VALUE_MAX_BYTES {
            return invalid(format!("Value must have at most {VALUE_MAX_BYTES} bytes"));
        }
        match self.value_type {
            ValueType::Int if trimmed.parse::<i32>().is_err() => {
                return invalid("Not a number of type INT".into());
            }
            ValueType::Long if trimmed.parse::<i64>().is_err() => {
                return invalid("Not a number of type LONG".into());
            }
            ValueType::Double if trimmed.parse::<f64>().is_err() => {
                return invalid("Not a number of type DOUBLE".into());
            }
            ValueType::Int | ValueType::Long | ValueType::Double => {}
            ValueType::Boolean | ValueType::String | ValueType::List => {}
        }
        self.check_range(trimmed).or_else(invalid)
    }

    /// Checks a value of the right type; the error says what is allowed.
    fn check_range(&self, value: &str) -> Result<(), String> {
        let number = value.parse::<i64>();
        let within = |min, max| number.as_ref().is_ok_and(|v| (min..=max).contains(v));
        let or = |holds: bool, why: &dyn Fn() -> String| if holds { Ok(()) } else { Err(why()) };
        match self.allowed {
            Allowed::Bool => or(is_bool(value), &|| "Expected value to be either true or false".into()),
            Allowed::AtLeast(min) | Allowed::AtLeastAnew(min, _) => {
                or(within(min, i64::MAX), &|| format!("Value must be at least {min}"))
            }
            Allowed::Within(min, max) => {
                or(within(min, max), &|| format!("Value must be between {min} and {max}"))
            }
            Allowed::DefaultOrWithin(min, max) => or(within(min, max) || within(-1, -1), &|| {
                format!("Value must be between {min} and {max} or equal to -1")
            }),
            Allowed::Between(min, max) => {
                or(value.parse::<f64>().is_ok_and(|v| (min..=max).contains(&v)), &|| {
                    format!("Value must be between {min} and {max}")
                })
            }
            Allowed::OneOf(values) => {
                or(values.contains(&value), &|| format!("String must be one of: {}", values.join(", ")))
            }
            Allowed::ListOf(values) => check_list(value, values),
            Allowed::Replicas => or(is_replicas(value), &|| {
                "Must be the literal '*', 'none' or a list of replicas in the form [partitionId]:[brokerId],...".into()
            }),
            Allowed::SqlSchema => Declared::parse(value).map(drop).map_err(|e| e.to_string()),
            Allowed::False(why) => match is_bool(value) {
                true => or(value.eq_ignore_ascii_case("false"), &|| why.to_owned()),
                false => Err("Expected value to be either true or false".into()),
            },
        }
    }

    /// Whether a stored value may be more than what [`Definition::check`] lets in today.
    pub(crate) fn was_allowed(&self, value: &str) -> bool {
        match self.allowed {
            Allowed::AtLeastAnew(_, before) => {
                value.trim().parse::<i32>().is_ok_and(|v| i64::from(v) >= before)
            }
            Allowed::Replicas | Allowed::SqlSchema => value.len() > VALUE_MAX_BYTES,
            Allowed::Bool
            | Allowed::AtLeast(_)
            | Allowed::Within(..)
            | Allowed::DefaultOrWithin(..)
            | Allowed::Between(..)
            | Allowed::OneOf(_)
            | Allowed::ListOf(_)
            | Allowed::False(_) => false,
        }
    }
}

fn is_bool(value: &str) -> bool {
    ["true", "false"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

fn check_list(value: &str, allowed: &[&str]) -> Result<(), String> {
    if let Some(other) = list(value).iter().find(|item| !allowed.contains(item)) {
        return Err(format!("{other} is not one of: {}", allowed.join(", ")));
    }
    Ok(())
}

/// The items of a comma separated list.
fn list(value: &str) -> Vec<&str> {
    if value.trim().is_empty() { Vec::new() } else { value.split(',').map(str::trim).collect() }
}

/// The form of `leader.replication.throttled.replicas`.
fn is_replicas(value: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let replica = |item: &&str| {
        item.split_once(':').is_some_and(|(partition, broker)| number(partition) && number(broker))
    };
    matches!(value, "*" | "none") || list(value).iter().all(replica)
}

/// Checks a set of overrides, as CreateTopics and AlterConfigs bring them.
pub fn check_overrides(overrides: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    check_changes(overrides, &BTreeMap::new())
}

/// Checks the overrides that a topic is to have, of which it has `before` already. What does not change may stay.
pub fn check_changes(
    overrides: &BTreeMap<String, String>,
    before: &BTreeMap<String, String>,
) -> Result<(), ConfigError> {
    for (name, value) in overrides {
        let definition = definition(name).ok_or_else(|| ConfigError::UnknownKey(name.clone()))?;
        if before.get(name) != Some(value) || !definition.was_allowed(value) {
            definition.check(value)?;
        }
    }
    let lags = lags(overrides);
    if lags.0 > lags.1 && lags != self::lags(before) {
        return Err(ConfigError::Lags { min: lags.0, max: lags.1 });
    }
    if let Some(schema) = overrides.get(SQL_SCHEMA) {
        Declared::parse(schema)?.check(overrides.get(SQL_FORMAT).map(String::as_str))?;
    }
    Ok(())
}

/// How long records stay as they are at least, and until when they are compacted at the latest.
fn lags(overrides: &BTreeMap<String, String>) -> (i64, i64) {
    let value = |name: &str| {
        let default = definition(name).expect("both are defined").default;
        overrides.get(name).map_or(default, |v| v.trim()).parse().unwrap_or_default()
    };
    (value(MIN_LAG), value(MAX_LAG))
}

/// The configuration of one topic, typed: overrides over the broker's defaults over Apache Kafka's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    pub batch_rules: BatchRules,
    pub cleanup_delete: bool,
    pub cleanup_compact: bool,
    pub delete_retention_ms: i64,
    pub index_interval_bytes: usize,
    pub max_compaction_lag_ms: i64,
    /// `min.cleanable.dirty.ratio`, in millionths.
    pub min_cleanable_dirty_ppm: u32,
    pub min_compaction_lag_ms: i64,
    /// `None`: for ever.
    pub retention_ms: Option<i64>,
    /// `None`: no limit.
    pub retention_bytes: Option<u64>,
    pub segment_bytes: u64,
    pub segment_ms: i64,
}

impl TopicConfig {
    /// Resolves `overrides`, then `defaults` (both by topic configuration names), then the built-in defaults.
    pub fn resolve(
        overrides: &BTreeMap<String, String>,
        defaults: &BTreeMap<String, String>,
    ) -> Result<TopicConfig, ConfigError> {
        check_changes(overrides, overrides)?;
        check_changes(defaults, defaults)?;
        let text = |name: &str| -> &str {
            let fallback = definition(name).expect("only defined names are asked for").default;
            overrides.get(name).or_else(|| defaults.get(name)).map_or(fallback, |v| v.trim())
        };
        let long = |name: &str| text(name).parse::<i64>().expect("every value was checked");
        let size = |name: &str| usize::try_from(long(name)).expect("checked to be at least 0");
        let ppm = |name: &str| (text(name).parse::<f64>().expect("every value was checked") * 1e6) as u32;
        let limit = |name: &str| Some(long(name)).filter(|v| *v >= 0);
        let policies = list(text("cleanup.policy"));
        let level = |name: &str| i32::try_from(long(name)).expect("checked to be an i32");
        let compression = match text("compression.type") {
            "uncompressed" => Some(Compression::default_of(Codec::None)),
            "gzip" => Some(Compression { codec: Codec::Gzip, level: level("compression.gzip.level") }),
            "snappy" => Some(Compression::default_of(Codec::Snappy)),
            "lz4" => Some(Compression::default_of(Codec::Lz4)),
            "zstd" => Some(Compression { codec: Codec::Zstd, level: level("compression.zstd.level") }),
            _ => None,
        };
        let timestamp_type = match text("message.timestamp.type") {
            "LogAppendTime" => TimestampType::LogAppendTime,
            _ => TimestampType::CreateTime,
        };
        Ok(TopicConfig {
            batch_rules: BatchRules {
                max_message_bytes: size("max.message.bytes"),
                timestamp_type,
                timestamp_before_max_ms: long("message.timestamp.before.max.ms"),
                timestamp_after_max_ms: long("message.timestamp.after.max.ms"),
                key_required: policies.contains(&"compact"),
                compression,
            },
            cleanup_delete: policies.contains(&"delete"),
            cleanup_compact: policies.contains(&"compact"),
            delete_retention_ms: long("delete.retention.ms"),
            index_interval_bytes: size("index.interval.bytes"),
            max_compaction_lag_ms: long("max.compaction.lag.ms"),
            min_cleanable_dirty_ppm: ppm("min.cleanable.dirty.ratio"),
            min_compaction_lag_ms: long("min.compaction.lag.ms"),
            retention_ms: limit("retention.ms"),
            retention_bytes: limit("retention.bytes").map(i64::unsigned_abs),
            segment_bytes: long("segment.bytes").unsigned_abs(),
            segment_ms: long("segment.ms"),
        })
    }
}

impl Default for TopicConfig {
    fn default() -> TopicConfig {
        TopicConfig::resolve(&BTreeMap::new(), &BTreeMap::new()).expect("the built-in defaults are valid")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_default_passes_its_own_check() {
        for d in DEFINITIONS {
            assert_eq!(d.check(d.default), Ok(()), "{}", d.name);
        }
        assert!(DEFINITIONS.is_sorted_by_key(|d| d.name));
        assert_eq!(TopicConfig::default().retention_ms, Some(604_800_000));
    }

    #[test]
    fn overrides_win_over_defaults() {
        let config = TopicConfig::resolve(
            &map(&[("retention.ms", "-1"), ("cleanup.policy", "compact, delete")]),
            &map(&[("retention.ms", "5"), ("segment.bytes", "1048576")]),
        )
        .unwrap();
        assert_eq!((config.retention_ms, config.segment_bytes), (None, 1 << 20));
        assert!(config.cleanup_compact && config.cleanup_delete && config.batch_rules.key_required);
    }

    #[test]
    fn bad_values_are_refused() {
        for (k, v) in [
            ("retention.ms", "x"),
            ("retention.ms", "-2"),
            ("segment.bytes", "3000000000"),
            ("cleanup.policy", "shrink"),
            ("cleanup.policy", "delete,"),
            ("segment.bytes", "1048575"),
            ("remote.storage.enable", "true"),
            ("remote.storage.enable", "perhaps"),
            ("leader.replication.throttled.replicas", "x"),
            ("leader.replication.throttled.replicas", "0:1,1"),
            ("local.retention.ms", "-3"),
            ("preallocate", "yes"),
            ("min.cleanable.dirty.ratio", "1.5"),
            ("compression.type", "brotli"),
            ("compression.gzip.level", "0"),
            ("compression.gzip.level", "10"),
            ("compression.zstd.level", "23"),
            ("compression.lz4.level", "0"),
            ("kafscale.sql.format", "xml"),
            ("kafscale.sql.schema", "id number"),
            ("kafscale.sql.schema", "file:a.avsc"),
            ("kafscale.sql.schema", "file:../a.avsc"),
            ("no.such.key", "1"),
        ] {
            assert!(check_overrides(&map(&[(k, v)])).is_err(), "{k}={v}");
        }
    }

    #[test]
    fn records_are_not_to_stay_for_longer_than_until_they_are_compacted() {
        let both = |min: &str, max: &str| map(&[(MIN_LAG, min), (MAX_LAG, max)]);
        assert_eq!(check_overrides(&both("5", "5")), Ok(()));
        let refused = check_overrides(&both("10", "5")).unwrap_err();
        assert!(refused.to_string().contains("min.compaction.lag.ms (10) > max.compaction.lag.ms (5)"));
        let before = map(&[(MIN_LAG, "10")]);
        assert!(check_changes(&both("10", "5"), &before).is_err(), "one alone is changed");
        // A topic of an earlier release keeps what it has.
        let mut kept = both("10", "5");
        kept.insert("retention.ms".into(), "1".into());
        assert_eq!(check_changes(&kept, &both("10", "5")), Ok(()));
        assert!(TopicConfig::resolve(&kept, &BTreeMap::new()).is_ok());
    }

    #[test]
    fn what_means_nothing_here_is_accepted() {
        for (k, v) in [
            ("cleanup.policy", ""),
            ("compression.gzip.level", "-1"),
            ("compression.lz4.level", "17"),
            ("compression.type", "uncompressed"),
            ("compression.zstd.level", "-131072"),
            ("follower.replication.throttled.replicas", "*"),
            ("kafscale.sql.format", "json"),
            ("kafscale.sql.format", "protobuf"),
            ("kafscale.sql.schema", "id bigint, \"a name\" text"),
            ("leader.replication.throttled.replicas", "0:1, 1:1"),
            ("leader.replication.throttled.replicas", "none"),
            ("local.retention.bytes", "-2"),
            ("local.retention.ms", "1000"),
            ("remote.log.copy.disable", "true"),
            ("remote.log.delete.on.disable", "false"),
            ("remote.storage.enable", "False"),
            ("segment.bytes", "1048576"),
        ] {
            assert_eq!(check_overrides(&map(&[(k, v)])), Ok(()), "{k}={v}");
        }
        let neither = TopicConfig::resolve(&map(&[("cleanup.policy", " ")]), &BTreeMap::new()).unwrap();
        assert!(!neither.cleanup_compact && !neither.cleanup_delete && !neither.batch_rules.key_required);
    }

    #[test]
    fn a_topic_keeps_the_small_segments_that_it_was_created_with() {
        let before = map(&[("segment.bytes", "1000")]);
        assert_eq!(TopicConfig::resolve(&before, &BTreeMap::new()).unwrap().segment_bytes, 1000);
        let more = map(&[("segment.bytes", "1000"), ("retention.ms", "1")]);
        assert_eq!(check_changes(&more, &before), Ok(()));
        assert!(check_changes(&more, &BTreeMap::new()).is_err());
        assert!(check_changes(&map(&[("segment.bytes", "1001")]), &before).is_err());
        let nonsense = map(&[("segment.bytes", "13")]);
        assert!(check_changes(&nonsense, &nonsense).is_err());
    }

    #[test]
    fn the_codec_comes_with_its_level() {
        let rules = |pairs: &[(&str, &str)]| {
            TopicConfig::resolve(&map(pairs), &BTreeMap::new()).unwrap().batch_rules.compression
        };
        assert_eq!(rules(&[]), None);
        let zstd = Compression { codec: Codec::Zstd, level: 9 };
        assert_eq!(rules(&[("compression.type", "zstd"), ("compression.zstd.level", "9")]), Some(zstd));
        assert_eq!(
            rules(&[("compression.type", "uncompressed")]),
            Some(Compression::default_of(Codec::None))
        );
    }
}
