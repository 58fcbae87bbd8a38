//! The settings of topics and brokers as Kafka's tools see them: values, where each comes from, and what may change while
//! the broker runs.
//!
//! A topic setting is looked up in the topic's own overrides, then in the dynamic settings of this broker, then in those of all
//! brokers, then in what the broker was started with, then in the built-in default. The broker's name for a topic's
//! default is the "synonym" (`log.retention.ms` for `retention.ms`).

mod fixed;

use std::collections::BTreeMap;

use kafscale_core::broker_config::{self, MAX_CONNECTIONS_PER_IP, WITHOUT_EFFECT, by_synonym};
use kafscale_core::topic_config::{DEFINITIONS, Definition, ValueType, definition};
use kafscale_meta::Revision;
use kafscale_meta::records::ConfigScope;
use parking_lot::RwLock;

pub use fixed::FixedSetting;

use crate::config::BrokerConfig;
use crate::listeners::Endpoint;

/// Where a value comes from (`DescribeConfigsResponse.ConfigSource`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    Topic = 1,
    DynamicBroker = 2,
    DynamicDefaultBroker = 3,
    StaticBroker = 4,
    Default = 5,
}

/// The type of a value (`DescribeConfigsResponse.ConfigType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigType {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// One row of DescribeConfigs.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigEntry {
    pub name: &'static str,
    pub value: Option<String>,
    pub read_only: bool,
    pub source: ConfigSource,
    pub config_type: ConfigType,
    pub documentation: &'static str,
    pub synonyms: Vec<Synonym>,
}

/// A place where a value was looked for and found, best first.
#[derive(Debug, Clone, PartialEq)]
pub struct Synonym {
    pub name: &'static str,
    pub value: Option<String>,
    pub source: ConfigSource,
}

/// The settings of this broker.
#[derive(Debug)]
pub struct Settings {
    /// Defaults of topics that the broker was started with, by the topic's names.
    started_with: BTreeMap<String, String>,
    fixed: Vec<FixedSetting>,
    dynamic: RwLock<Dynamic>,
}

/// Settings that were altered while brokers run, by the broker's names.
#[derive(Debug, Default)]
struct Dynamic {
    this_broker: BTreeMap<String, String>,
    all_brokers: BTreeMap<String, String>,
    /// Of the last change of either.
    revision: Revision,
}

/// What was really chosen: a setting that says what holds anyway is a default, not a static configuration.
fn differing_from_kafka(chosen: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let differs = |name: &str, value: &str| definition(name).is_none_or(|d| d.default != value);
    chosen
        .iter()
        .filter(|(name, value)| differs(name, value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

impl Settings {
    /// `endpoints` are where clients are told to connect, the main listener first.
    pub fn new(config: &BrokerConfig, endpoints: &[Endpoint]) -> Settings {
        Settings {
            started_with: differing_from_kafka(&config.topic_defaults),
            fixed: fixed::settings(config, endpoints),
            dynamic: RwLock::default(),
        }
    }

    /// Replaces the dynamic settings of a scope by those that were written at a revision.
    pub fn set_dynamic(&self, scope: ConfigScope, values: BTreeMap<String, String>, revision: Revision) {
        let mut dynamic = self.dynamic.write();
        dynamic.revision = dynamic.revision.max(revision);
        match scope {
            ConfigScope::Broker(_) => dynamic.this_broker = values,
            ConfigScope::Default => dynamic.all_brokers = values,
        }
    }

    /// The revision of the last change of dynamic settings that has come in.
    pub fn revision(&self) -> Revision {
        self.dynamic.read().revision
    }

    /// The dynamic settings of a scope.
    pub fn dynamic(&self, scope: ConfigScope) -> BTreeMap<String, String> {
        let dynamic = self.dynamic.read();
        match scope {
            ConfigScope::Broker(_) => dynamic.this_broker.clone(),
            ConfigScope::Default => dynamic.all_brokers.clone(),
        }
    }

    /// The defaults of topics, by the topic's names.
    pub fn topic_defaults(&self) -> BTreeMap<String, String> {
        let dynamic = self.dynamic.read();
        let mut defaults = self.started_with.clone();
        for layer in [&dynamic.all_brokers, &dynamic.this_broker] {
            for (name, value) in layer {
                if let Some(definition) = by_synonym(name) {
                    defaults.insert(definition.name.to_owned(), value.clone());
                }
            }
        }
        defaults
    }

    /// Every setting of a topic with these overrides.
    pub fn describe_topic(&self, overrides: &BTreeMap<String, String>) -> Vec<ConfigEntry> {
        let describe = |definition: &'static Definition| {
            let own = overrides.get(definition.name).map(|value| Synonym {
                name: definition.name,
                value: Some(value.clone()),
                source: ConfigSource::Topic,
            });
            let inherited = definition.broker_synonym.map(|name| self.broker_values(name, definition));
            let synonyms = own.into_iter().chain(inherited.unwrap_or_default()).collect();
            entry(definition.name, definition, synonyms)
        };
        DEFINITIONS.iter().map(describe).collect()
    }

    /// Every setting of this broker, ordered by name.
    pub fn describe_broker(&self) -> Vec<ConfigEntry> {
        let of_topics = DEFINITIONS.iter().filter_map(|d| Some((d.broker_synonym?, d)));
        let without_effect = WITHOUT_EFFECT.iter().map(|d| (d.name, d));
        let defaults = of_topics
            .chain(without_effect)
            .map(|(name, definition)| entry(name, definition, self.broker_values(name, definition)));
        let mut all: Vec<_> =
            defaults.chain(self.fixed.iter().map(|setting| self.started(setting))).collect();
        all.sort_by_key(|entry| entry.name);
        all
    }

    /// A setting that the broker was started with, as it holds now where it may be altered.
    fn started(&self, setting: &FixedSetting) -> ConfigEntry {
        let entry = setting.entry();
        if self.is_fixed(setting.name) {
            return entry;
        }
        let dynamic = self.dynamic.read();
        let layers = [
            (&dynamic.this_broker, ConfigSource::DynamicBroker),
            (&dynamic.all_brokers, ConfigSource::DynamicDefaultBroker),
        ];
        let altered = layers.into_iter().filter_map(|(layer, source)| {
            Some(Synonym { name: setting.name, value: Some(layer.get(setting.name)?.clone()), source })
        });
        let synonyms: Vec<_> = altered.chain(entry.synonyms).collect();
        let best = synonyms.first();
        let (value, source) =
            best.map_or((entry.value, entry.source), |best| (best.value.clone(), best.source));
        ConfigEntry { value, source, read_only: false, synonyms, ..entry }
    }

    /// The most connections of one address that were set while brokers run.
    pub fn max_connections_per_ip(&self) -> Option<usize> {
        let dynamic = self.dynamic.read();
        let layers = [&dynamic.this_broker, &dynamic.all_brokers];
        layers.into_iter().find_map(|layer| layer.get(MAX_CONNECTIONS_PER_IP)?.parse().ok())
    }

    /// Only what was altered for all brokers, as Kafka answers for the default entity.
    pub fn describe_all_brokers(&self) -> Vec<ConfigEntry> {
        let dynamic = self.dynamic.read();
        let altered = dynamic.all_brokers.iter().filter_map(|(name, value)| {
            let definition = broker_config::definition(name)?;
            let source = ConfigSource::DynamicDefaultBroker;
            let name = definition.broker_synonym.unwrap_or(definition.name);
            let synonym = Synonym { name, value: Some(value.clone()), source };
            Some(entry(name, definition, vec![synonym]))
        });
        altered.collect()
    }

    /// Whether a broker has a setting of this name that only a restart changes.
    pub fn is_fixed(&self, name: &str) -> bool {
        self.fixed.iter().any(|setting| setting.name == name) && broker_config::definition(name).is_none()
    }

    /// The values of a broker's setting of this name, best first.
    fn broker_values(&self, name: &'static str, definition: &'static Definition) -> Vec<Synonym> {
        let dynamic = self.dynamic.read();
        let found = |value: Option<&String>, source| {
            value.map(|value| Synonym { name, value: Some(value.clone()), source })
        };
        let default =
            Synonym { name, value: Some(definition.default.to_owned()), source: ConfigSource::Default };
        // To be told the default is to be told nothing.
        let given = self.started_with.get(definition.name).filter(|value| *value != definition.default);
        [
            found(dynamic.this_broker.get(name), ConfigSource::DynamicBroker),
            found(dynamic.all_brokers.get(name), ConfigSource::DynamicDefaultBroker),
            found(given, ConfigSource::StaticBroker),
            Some(default),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn entry(name: &'static str, definition: &'static Definition, synonyms: Vec<Synonym>) -> ConfigEntry {
    // Apache Kafka lists no synonym where a setting of a topic has none among those of brokers.
    let (value, source) = match synonyms.first() {
        Some(best) => (best.value.clone(), best.source),
        None => (Some(definition.default.to_owned()), ConfigSource::Default),
    };
    ConfigEntry {
        name,
        value,
        read_only: false,
        source,
        config_type: match definition.value_type {
            ValueType::Boolean => ConfigType::Boolean,
            ValueType::Int => ConfigType::Int,
            ValueType::Long => ConfigType::Long,
            ValueType::Double => ConfigType::Double,
            ValueType::String => ConfigType::String,
            ValueType::List => ConfigType::List,
        },
        documentation: definition.documentation,
        synonyms,
    }
}

#[cfg(test)]
mod tests {
    use kafscale_core::ids::NodeId;

    use super::*;

    fn settings() -> Settings {
        let mut config = BrokerConfig::new("c", NodeId(1));
        config.topic_defaults.insert("retention.ms".into(), "4".into());
        Settings::new(&config, &[])
    }

    fn map(name: &str, value: &str) -> BTreeMap<String, String> {
        [(name.to_owned(), value.to_owned())].into()
    }

    #[test]
    fn a_setting_that_says_what_holds_anyway_is_a_default() {
        let mut config = BrokerConfig::new("c", NodeId(1));
        config.topic_defaults.insert("retention.ms".into(), "604800000".into());
        let settings = Settings::new(&config, &[]);
        let described = settings.describe_topic(&BTreeMap::new());
        let retention = described.iter().find(|e| e.name == "retention.ms").unwrap();
        assert_eq!(retention.source, ConfigSource::Default);
    }

    #[test]
    fn the_nearest_source_wins_and_all_are_listed() {
        let settings = settings();
        let retention = |overrides: &BTreeMap<String, String>| {
            settings.describe_topic(overrides).into_iter().find(|e| e.name == "retention.ms").unwrap()
        };
        assert_eq!(retention(&BTreeMap::new()).source, ConfigSource::StaticBroker);
        settings.set_dynamic(ConfigScope::Default, map("log.retention.ms", "3"), Revision(1));
        settings.set_dynamic(ConfigScope::Broker(1), map("log.retention.ms", "2"), Revision(2));
        let described = retention(&map("retention.ms", "1"));
        let sources: Vec<_> =
            described.synonyms.iter().map(|s| (s.name, s.value.as_deref(), s.source as i8)).collect();
        assert_eq!(
            sources,
            [
                ("retention.ms", Some("1"), 1),
                ("log.retention.ms", Some("2"), 2),
                ("log.retention.ms", Some("3"), 3),
                ("log.retention.ms", Some("4"), 4),
                ("log.retention.ms", Some("604800000"), 5),
            ]
        );
        assert_eq!(settings.topic_defaults()["retention.ms"], "2");
        assert_eq!(settings.describe_all_brokers().len(), 1);
    }

    #[test]
    fn a_setting_that_no_broker_has_is_the_default_without_synonyms() {
        let find = |overrides| {
            let all = settings().describe_topic(&overrides);
            all.into_iter().find(|e| e.name == "remote.storage.enable").unwrap()
        };
        let entry = find(BTreeMap::new());
        assert_eq!(
            (entry.value.as_deref(), entry.source, entry.synonyms.len()),
            (Some("false"), ConfigSource::Default, 0)
        );
        let entry = find(BTreeMap::from([("remote.storage.enable".to_owned(), "false".to_owned())]));
        assert_eq!((entry.source, entry.synonyms.len()), (ConfigSource::Topic, 1));
    }

    #[test]
    fn settings_without_an_effect_are_kept_and_listed() {
        let settings = settings();
        let values = BTreeMap::from([("log.cleaner.threads".to_owned(), "2".to_owned())]);
        settings.set_dynamic(ConfigScope::Default, values, Revision(2));
        let all = settings.describe_all_brokers();
        assert_eq!((all[0].name, all[0].value.as_deref()), ("log.cleaner.threads", Some("2")));
        let own = settings.describe_broker();
        let threads = own.iter().find(|e| e.name == "log.cleaner.threads").unwrap();
        assert_eq!(
            (threads.value.as_deref(), threads.source),
            (Some("2"), ConfigSource::DynamicDefaultBroker)
        );
        assert!(own.iter().any(|e| e.name == "num.io.threads" && e.source == ConfigSource::Default));
    }

    #[test]
    fn connections_of_an_address_are_limited_as_was_set_last_and_nearest() {
        let settings = settings();
        let described = || {
            let all = settings.describe_broker();
            let entry = all.into_iter().find(|e| e.name == MAX_CONNECTIONS_PER_IP).unwrap();
            (entry.value.unwrap(), entry.source, entry.read_only, entry.synonyms.len())
        };
        assert!(!settings.is_fixed(MAX_CONNECTIONS_PER_IP) && settings.is_fixed("max.connections"));
        assert_eq!(
            (settings.max_connections_per_ip(), described()),
            (None, ("5000".into(), ConfigSource::Default, false, 1))
        );
        settings.set_dynamic(ConfigScope::Default, map(MAX_CONNECTIONS_PER_IP, "7"), Revision(1));
        assert_eq!(settings.max_connections_per_ip(), Some(7));
        settings.set_dynamic(ConfigScope::Broker(1), map(MAX_CONNECTIONS_PER_IP, "3"), Revision(2));
        assert_eq!(settings.max_connections_per_ip(), Some(3));
        assert_eq!(described(), ("3".into(), ConfigSource::DynamicBroker, false, 3));
        settings.set_dynamic(ConfigScope::Broker(1), BTreeMap::new(), Revision(3));
        assert_eq!(described(), ("7".into(), ConfigSource::DynamicDefaultBroker, false, 2));
        assert_eq!(settings.describe_all_brokers()[0].name, MAX_CONNECTIONS_PER_IP);
    }

    #[test]
    fn a_broker_has_each_setting_once() {
        let all = settings().describe_broker();
        assert!(all.windows(2).all(|pair| pair[0].name < pair[1].name), "not strictly ordered");
        assert!(all.iter().any(|e| e.name == "log.retention.ms" && e.value.as_deref() == Some("4")));
    }
}
