//! `broker-configs/{node_id}` and `broker-configs/default`: configs that were altered while brokers run. Written by
//! AlterConfigs and IncrementalAlterConfigs, by compare-and-swap.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Keyspace, Record, codec::decode_number};

/// Dynamic configs of one broker or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerConfigRecord {
    pub configs: BTreeMap<String, String>,
}

/// Whom a [`BrokerConfigRecord`] concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConfigScope {
    /// One broker.
    Broker(i32),
    /// All brokers that have no value of their own.
    Default,
}

impl Record for BrokerConfigRecord {
    const KIND: &'static str = "broker config";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn broker_configs_prefix(&self) -> String {
        self.key(format_args!("broker-configs/"))
    }

    pub fn broker_config(&self, scope: ConfigScope) -> String {
        match scope {
            ConfigScope::Broker(node_id) => self.key(format_args!("broker-configs/{node_id}")),
            ConfigScope::Default => self.key(format_args!("broker-configs/default")),
        }
    }

    pub fn parse_broker_config(&self, key: &str) -> Option<ConfigScope> {
        let [scope] = self.components(key, "broker-configs")?;
        if scope == "default" {
            return Some(ConfigScope::Default);
        }
        decode_number(scope).map(ConfigScope::Broker)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*};

    use super::*;
    use crate::records::codec::tests::{any_name, check_bytes, check_encoding, keyspace};

    proptest! {
        #[test]
        fn round_trip(configs in btree_map(any_name(), any_name(), 0..4), node_id: i32) {
            check_encoding(&BrokerConfigRecord { configs });
            for scope in [ConfigScope::Broker(node_id), ConfigScope::Default] {
                prop_assert_eq!(keyspace().parse_broker_config(&keyspace().broker_config(scope)), Some(scope));
            }
        }
    }

    #[test]
    fn bytes() {
        let record = BrokerConfigRecord { configs: [("log.retention.ms".into(), "1000".into())].into() };
        check_bytes(&record, r#"{"v":1,"configs":{"log.retention.ms":"1000"}}"#);
    }
}
