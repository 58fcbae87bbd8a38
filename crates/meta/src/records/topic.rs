//! `topics/{name}`: a topic. Written by the admin calls: created together with its assignment if absent, changed
//! (partitions added, configs altered) and deleted guarded by its mod revision.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Keyspace, Record,
    codec::{decode_name, encode_name, uuid_text},
};

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRecord {
    /// Tells a topic from a later one of the same name.
    #[serde(with = "uuid_text")]
    pub topic_id: Uuid,
    pub partitions: i32,
    /// Overrides of the broker's defaults, by Kafka's names.
    pub configs: BTreeMap<String, String>,
    pub created_ms: i64,
    /// Belongs to the broker itself; hidden from and protected against ordinary clients.
    pub internal: bool,
}

impl Record for TopicRecord {
    const KIND: &'static str = "topic";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn topics_prefix(&self) -> String {
        self.key(format_args!("topics/"))
    }

    pub fn topic(&self, name: &str) -> String {
        self.key(format_args!("topics/{}", encode_name(name)))
    }

    pub fn parse_topic(&self, key: &str) -> Option<String> {
        let [name] = self.components(key, "topics")?;
        decode_name(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*};

    use super::*;
    use crate::records::codec::tests::{any_name, any_uuid, check_bytes, check_encoding, keyspace};

    proptest! {
        #[test]
        fn round_trip(
            topic_id in any_uuid(), partitions: i32, created_ms: i64, internal: bool,
            configs in btree_map(any_name(), any_name(), 0..4), name in any_name(),
        ) {
            check_encoding(&TopicRecord { topic_id, partitions, configs, created_ms, internal });
            prop_assert_eq!(keyspace().parse_topic(&keyspace().topic(&name)), Some(name));
        }
    }

    #[test]
    fn bytes() {
        let record = TopicRecord {
            topic_id: Uuid::from_u128(1),
            partitions: 3,
            configs: [("retention.ms".into(), "1000".into())].into(),
            created_ms: 1,
            internal: false,
        };
        check_bytes(
            &record,
            concat!(
                r#"{"v":1,"topic_id":"AAAAAAAAAAAAAAAAAAAAAQ","partitions":3,"#,
                r#""configs":{"retention.ms":"1000"},"created_ms":1,"internal":false}"#
            ),
        );
    }
}
