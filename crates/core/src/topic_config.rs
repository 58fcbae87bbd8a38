//! The configuration of a topic: which keys exist, their defaults, what values are allowed, and the typed form
//! that the log obeys. Names, defaults and texts follow Apache Kafka's topic configuration reference.

use std::collections::BTreeMap;

use crate::batch::{BatchRules, TimestampType};

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
enum Allowed {
    Bool,
    AtLeast(i64),
    Between(f64, f64),
    OneOf(&'static [&'static str]),
    /// A comma separated list of these.
    ListOf(&'static [&'static str]),
}

/// One configuration key.
#[derive(Debug)]
pub struct Definition {
    pub name: &'static str,
    pub value_type: ValueType,
    pub default: &'static str,
    /// The broker configuration that gives the default; DescribeConfigs lists it as a synonym.
    pub broker_synonym: &'static str,
    pub documentation: &'static str,
    allowed: Allowed,
}

/// Why a configuration is refused; the text is what a user sees.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("Unknown topic config name: {0}")]
    UnknownKey(String),
    #[error("Invalid value {value} for configuration {name}: {why}")]
    InvalidValue { name: &'static str, value: String, why: String },
}

macro_rules! definitions {
    ($($name:literal $type:ident $default:literal $synonym:literal $allowed:expr, $doc:literal;)*) => {
        /// Every topic configuration, in the order of their names.
        pub static DEFINITIONS: &[Definition] = &[$(Definition {
            name: $name, value_type: ValueType::$type, default: $default, broker_synonym: $synonym,
            allowed: $allowed, documentation: $doc,
        }),*];
    };
}

definitions! {
    "cleanup.policy" List "delete" "log.cleanup.policy" Allowed::ListOf(&["delete", "compact"]),
        "What becomes of old records: 'delete' drops them by time and size, 'compact' keeps the last of each key.";
    "compression.type" String "producer" "compression.type" Allowed::OneOf(&["producer"]),
        "Batches are stored as the producer compressed them, so that the only value is 'producer'.";
    "delete.retention.ms" Long "86400000" "log.cleaner.delete.retention.ms" Allowed::AtLeast(0),
        "How long a compacted topic keeps tombstones.";
    "file.delete.delay.ms" Long "60000" "log.segment.delete.delay.ms" Allowed::AtLeast(0),
        "Has no effect: a dropped segment is deleted at once, and its readers continue at the new log start.";
    "flush.messages" Long "9223372036854775807" "log.flush.interval.messages" Allowed::AtLeast(1),
        "Has no effect: every batch is durable before it is acknowledged.";
    "flush.ms" Long "9223372036854775807" "log.flush.interval.ms" Allowed::AtLeast(0),
        "Has no effect: every batch is durable before it is acknowledged.";
    "index.interval.bytes" Int "4096" "log.index.interval.bytes" Allowed::AtLeast(0),
        "How many bytes of a segment stand between two entries of its offset index.";
    "max.compaction.lag.ms" Long "9223372036854775807" "log.cleaner.max.compaction.lag.ms" Allowed::AtLeast(1),
        "The longest a record may wait for compaction.";
    "max.message.bytes" Int "1048588" "message.max.bytes" Allowed::AtLeast(0),
        "The largest batch that the topic takes, after compression.";
    "message.timestamp.after.max.ms" Long "3600000" "log.message.timestamp.after.max.ms" Allowed::AtLeast(0),
        "How far a record's timestamp may lie after the broker's clock.";
    "message.timestamp.before.max.ms" Long "9223372036854775807" "log.message.timestamp.before.max.ms" Allowed::AtLeast(0),
        "How far a record's timestamp may lie before the broker's clock.";
    "message.timestamp.type" String "CreateTime" "log.message.timestamp.type" Allowed::OneOf(&["CreateTime", "LogAppendTime"]),
        "Whether a record's timestamp is the producer's or the time of the append.";
    "min.cleanable.dirty.ratio" Double "0.5" "log.cleaner.min.cleanable.ratio" Allowed::Between(0.0, 1.0),
        "The share of a log that must be uncompacted before it is compacted.";
    "min.compaction.lag.ms" Long "0" "log.cleaner.min.compaction.lag.ms" Allowed::AtLeast(0),
        "The shortest time a record stays uncompacted.";
    "min.insync.replicas" Int "1" "min.insync.replicas" Allowed::AtLeast(1),
        "Has no effect: durability is the object store's, there are no replicas.";
    "preallocate" Boolean "false" "log.preallocate" Allowed::Bool,
        "Has no effect: segments are immutable objects.";
    "retention.bytes" Long "-1" "log.retention.bytes" Allowed::AtLeast(-1),
        "The largest size of a partition before its oldest records are dropped; -1 for no limit.";
    "retention.ms" Long "604800000" "log.retention.ms" Allowed::AtLeast(-1),
        "How long records are kept; -1 for ever.";
    "segment.bytes" Int "1073741824" "log.segment.bytes" Allowed::AtLeast(14),
        "The largest segment object.";
    "segment.index.bytes" Int "10485760" "log.index.size.max.bytes" Allowed::AtLeast(4),
        "Has no effect: the index is a part of the segment.";
    "segment.jitter.ms" Long "0" "log.roll.jitter.ms" Allowed::AtLeast(0),
        "Has no effect: segments are cut when the write-ahead log is rewritten.";
    "segment.ms" Long "604800000" "log.roll.ms" Allowed::AtLeast(1),
        "The longest that records wait in the write-ahead log before they become a segment.";
    "unclean.leader.election.enable" Boolean "false" "unclean.leader.election.enable" Allowed::Bool,
        "Has no effect: an owner that lost acknowledged records cannot exist.";
}

/// The definition of `name`.
pub fn definition(name: &str) -> Option<&'static Definition> {
    DEFINITIONS.iter().find(|d| d.name == name)
}

impl Definition {
    /// Checks one value.
    pub fn check(&'static self, value: &str) -> Result<(), ConfigError> {
        let invalid =
            |why: String| Err(ConfigError::InvalidValue { name: self.name, value: value.to_owned(), why });
        let trimmed = value.trim();
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
        match self.allowed {
            Allowed::Bool if matches!(trimmed.to_ascii_lowercase().as_str(), "true" | "false") => Ok(()),
            Allowed::Bool => invalid("Expected value to be either true or false".into()),
            Allowed::AtLeast(min) => match trimmed.parse::<i64>() {
                Ok(v) if v >= min => Ok(()),
                Ok(_) | Err(_) => invalid(format!("Value must be at least {min}")),
            },
            Allowed::Between(min, max) => match trimmed.parse::<f64>() {
                Ok(v) if (min..=max).contains(&v) => Ok(()),
                Ok(_) | Err(_) => invalid(format!("Value must be between {min} and {max}")),
            },
            Allowed::OneOf(values) if values.contains(&trimmed) => Ok(()),
            Allowed::OneOf(values) => invalid(format!("String must be one of: {}", values.join(", "))),
            Allowed::ListOf(values) => {
                let mut parts = trimmed.split(',').map(str::trim);
                if !trimmed.is_empty() && parts.all(|p| values.contains(&p)) {
                    return Ok(());
                }
                invalid(format!("String must be a list of: {}", values.join(", ")))
            }
        }
    }
}

/// Checks a set of overrides, as CreateTopics and AlterConfigs bring them.
pub fn check_overrides(overrides: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    for (name, value) in overrides {
        definition(name).ok_or_else(|| ConfigError::UnknownKey(name.clone()))?.check(value)?;
    }
    Ok(())
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
        check_overrides(overrides)?;
        check_overrides(defaults)?;
        let text = |name: &str| -> &str {
            let fallback = definition(name).expect("only defined names are asked for").default;
            overrides.get(name).or_else(|| defaults.get(name)).map_or(fallback, |v| v.trim())
        };
        let long = |name: &str| text(name).parse::<i64>().expect("every value was checked");
        let size = |name: &str| usize::try_from(long(name)).expect("checked to be at least 0");
        let ppm = |name: &str| (text(name).parse::<f64>().expect("every value was checked") * 1e6) as u32;
        let limit = |name: &str| Some(long(name)).filter(|v| *v >= 0);
        let policies: Vec<&str> = text("cleanup.policy").split(',').map(str::trim).collect();
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
            &map(&[("retention.ms", "5"), ("segment.bytes", "1000")]),
        )
        .unwrap();
        assert_eq!((config.retention_ms, config.segment_bytes), (None, 1000));
        assert!(config.cleanup_compact && config.cleanup_delete && config.batch_rules.key_required);
    }

    #[test]
    fn bad_values_are_refused() {
        for (k, v) in [
            ("retention.ms", "x"),
            ("retention.ms", "-2"),
            ("segment.bytes", "3000000000"),
            ("cleanup.policy", "shrink"),
            ("cleanup.policy", ""),
            ("preallocate", "yes"),
            ("min.cleanable.dirty.ratio", "1.5"),
            ("compression.type", "gzip"),
            ("no.such.key", "1"),
        ] {
            assert!(check_overrides(&map(&[(k, v)])).is_err(), "{k}={v}");
        }
    }
}
