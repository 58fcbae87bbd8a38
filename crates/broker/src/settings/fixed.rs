//! The settings of a broker that only a restart changes, under Apache Kafka's names.

use super::{ConfigEntry, ConfigSource, ConfigType, Synonym};
use crate::config::BrokerConfig;
use crate::listeners::{Endpoint, MAIN_LISTENER};

/// A read-only setting.
#[derive(Debug, Clone)]
pub struct FixedSetting {
    pub name: &'static str,
    value: Option<String>,
    /// Whether the value is the built-in one.
    is_default: bool,
    config_type: ConfigType,
    documentation: &'static str,
}

impl FixedSetting {
    /// Its row in DescribeConfigs.
    pub fn entry(&self) -> ConfigEntry {
        let source = if self.is_default { ConfigSource::Default } else { ConfigSource::StaticBroker };
        let synonym = Synonym { name: self.name, value: self.value.clone(), source };
        ConfigEntry {
            name: self.name,
            value: self.value.clone(),
            read_only: true,
            source,
            config_type: self.config_type,
            documentation: self.documentation,
            synonyms: self.value.iter().map(|_| synonym.clone()).collect(),
        }
    }
}

/// A setting whose value the configuration gives.
struct Row {
    name: &'static str,
    config_type: ConfigType,
    of: fn(&BrokerConfig) -> String,
    documentation: &'static str,
}

macro_rules! rows {
    ($($name:literal $type:ident $of:expr, $documentation:literal;)*) => {
        &[$(Row { name: $name, config_type: ConfigType::$type, of: $of, documentation: $documentation }),*]
    };
}

static ROWS: &[Row] = rows! {
    "auto.create.topics.enable" Boolean |c| c.auto_create_topics.to_string(),
        "Whether a topic that a client asks for is created.";
    "connections.max.idle.ms" Long |c| c.connections_max_idle.as_millis().to_string(),
        "A connection without requests is closed after this time.";
    "default.replication.factor" Int |_| "1".into(),
        "Durability is the object store's: every partition has one replica.";
    "delete.topic.enable" Boolean |_| "true".into(), "Topics can be deleted.";
    "fetch.max.bytes" Int |c| c.fetch_max_bytes.to_string(), "The most that one Fetch response holds.";
    "group.initial.rebalance.delay.ms" Int |c| c.coordinator.group.initial_rebalance_delay_ms.to_string(),
        "How long the first rebalance of an empty group waits for more members.";
    "group.max.session.timeout.ms" Int |c| c.coordinator.group.max_session_timeout_ms.to_string(),
        "The longest session timeout that a member may ask for.";
    "group.max.size" Int |c| c.coordinator.group.max_size.to_string(), "The most members of a group.";
    "group.min.session.timeout.ms" Int |c| c.coordinator.group.min_session_timeout_ms.to_string(),
        "The shortest session timeout that a member may ask for.";
    "max.connections" Int |c| c.max_connections.to_string(), "The most Kafka connections at a time.";
    "max.connections.per.ip" Int |c| c.connections_per_address().to_string(),
        "The most Kafka connections of one address.";
    "max.incremental.fetch.session.cache.slots" Int |c| c.fetch_session_slots.to_string(),
        "The most fetch sessions.";
    "max.partitions" Int |c| c.max_partitions.to_string(),
        "The most partitions of all topics together. Not an Apache Kafka setting.";
    "max.partitions.per.topic" Int |c| c.max_partitions_per_topic.to_string(),
        "The most partitions of one topic. Not an Apache Kafka setting.";
    "num.partitions" Int |c| c.num_partitions.to_string(),
        "Partitions of a topic that is created without a number.";
    "offset.metadata.max.bytes" Int |c| c.coordinator.offset_metadata_max_bytes.to_string(),
        "The longest text that a client may commit with an offset.";
    "offsets.retention.check.interval.ms" Long
        |c| c.coordinator.offsets_retention_check_interval.as_millis().to_string(),
        "How often expired offsets are looked for.";
    "offsets.retention.minutes" Int |c| (c.coordinator.offsets_retention.as_secs() / 60).to_string(),
        "How long the offsets of an empty group are kept.";
    "queued.max.request.bytes" Long |c| c.request_memory_bytes.to_string(),
        "The memory for requests of all connections.";
    "socket.request.max.bytes" Int |c| c.socket_request_max_bytes.to_string(), "The largest request.";
};

/// The read-only settings of a broker.
pub fn settings(config: &BrokerConfig, endpoints: &[Endpoint]) -> Vec<FixedSetting> {
    let default = BrokerConfig::new(config.cluster_id.clone(), config.node_id);
    let rows = ROWS.iter().map(|row| FixedSetting {
        name: row.name,
        value: Some((row.of)(config)),
        is_default: (row.of)(config) == (row.of)(&default),
        config_type: row.config_type,
        documentation: row.documentation,
    });
    rows.chain(identity(config, endpoints)).collect()
}

/// What tells this broker from others.
fn identity(config: &BrokerConfig, endpoints: &[Endpoint]) -> [FixedSetting; 5] {
    let given = |name, config_type, value: Option<String>, documentation| FixedSetting {
        name,
        is_default: value.is_none(),
        value,
        config_type,
        documentation,
    };
    let id = Some(config.node_id.to_string());
    let others = config.more_listeners.iter().map(|l| format!("{}://{}", l.name, l.listen));
    let listening: Vec<_> =
        std::iter::once(format!("{MAIN_LISTENER}://{}", config.listen)).chain(others).collect();
    let reached: Vec<_> =
        endpoints.iter().map(|e| format!("{}://{}:{}", e.listener, e.host, e.port)).collect();
    let (listener, reached) = (Some(listening.join(",")), Some(reached.join(",")));
    [
        given("broker.id", ConfigType::Int, id.clone(), "The id of this broker."),
        given("node.id", ConfigType::Int, id, "The id of this broker."),
        given("broker.rack", ConfigType::String, config.rack.clone(), "The rack, or availability zone."),
        given("listeners", ConfigType::List, listener, "Where the Kafka protocol is served."),
        given("advertised.listeners", ConfigType::List, reached, "Where clients are told to connect."),
    ]
}
