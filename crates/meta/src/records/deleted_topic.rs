//! `deleted-topics/{topic_id}`: a topic that was deleted lately. Written in the transaction that deletes it; who rebuilds metadata knows by it that
//! records of the topic, which may be in the store still, are not of one that was created since. The oldest of many are forgotten with the
//! next snapshot of the metadata.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::codec::{uuid_from_text, uuid_to_text};
use super::{Keyspace, Record};

/// See the file's comment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedTopicRecord {
    pub name: String,
}

impl Record for DeletedTopicRecord {
    const KIND: &'static str = "deleted topic";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn deleted_topics_prefix(&self) -> String {
        self.key(format_args!("deleted-topics/"))
    }

    pub fn deleted_topic(&self, topic_id: Uuid) -> String {
        self.key(format_args!("deleted-topics/{}", uuid_to_text(topic_id)))
    }

    pub fn parse_deleted_topic(&self, key: &str) -> Option<Uuid> {
        let [topic_id] = self.components(key, "deleted-topics")?;
        uuid_from_text(topic_id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::codec::tests::{any_name, any_uuid, check_bytes, check_encoding, keyspace};

    proptest! {
        #[test]
        fn round_trip(name in any_name(), topic_id in any_uuid()) {
            check_encoding(&DeletedTopicRecord { name });
            let key = keyspace().deleted_topic(topic_id);
            prop_assert_eq!(keyspace().parse_deleted_topic(&key), Some(topic_id));
        }
    }

    #[test]
    fn bytes() {
        check_bytes(&DeletedTopicRecord { name: "orders".into() }, r#"{"v":1,"name":"orders"}"#);
    }
}
