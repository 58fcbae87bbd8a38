//! `offsets/{group}/{topic}/{partition}`: a committed offset. Written by the group's coordinator for OffsetCommit,
//! coalesced into few transactions; removed by OffsetDelete, DeleteGroups, after its topic was deleted, and when it expires.
//!
//! Every write of a coordinator, here and in `groups/`, is guarded by the revision of its slot's record.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Keyspace, Record,
    codec::{decode_name, decode_number, encode_name, uuid_text},
};

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetRecord {
    pub offset: i64,
    /// The leader epoch that the client gave; -1 for none.
    pub leader_epoch: i32,
    /// The client's note.
    pub metadata: String,
    pub commit_time_ms: i64,
    /// Set by clients that ask for a retention of their own (OffsetCommit 2 to 4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<i64>,
    /// The topic that was meant, so that the offset of a deleted topic is not taken for one of its successor's.
    #[serde(with = "uuid_text")]
    pub topic_id: Uuid,
}

/// What a committed offset is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OffsetKey {
    pub group: String,
    pub topic: String,
    pub partition: i32,
}

impl Record for OffsetRecord {
    const KIND: &'static str = "offset";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn offsets_prefix(&self) -> String {
        self.key(format_args!("offsets/"))
    }

    pub fn offsets_of_group_prefix(&self, group: &str) -> String {
        self.key(format_args!("offsets/{}/", encode_name(group)))
    }

    pub fn offsets_of_topic_prefix(&self, group: &str, topic: &str) -> String {
        self.key(format_args!("offsets/{}/{}/", encode_name(group), encode_name(topic)))
    }

    pub fn offset(&self, key: &OffsetKey) -> String {
        let OffsetKey { group, topic, partition } = key;
        self.key(format_args!("offsets/{}/{}/{partition}", encode_name(group), encode_name(topic)))
    }

    pub fn parse_offset(&self, key: &str) -> Option<OffsetKey> {
        let [group, topic, partition] = self.components(key, "offsets")?;
        Some(OffsetKey {
            group: decode_name(group)?,
            topic: decode_name(topic)?,
            partition: decode_number(partition)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::codec::tests::{any_name, any_uuid, check_bytes, check_encoding, keyspace};

    proptest! {
        #[test]
        fn round_trip(
            offset: i64, leader_epoch: i32, metadata in any_name(), commit_time_ms: i64, topic_id in any_uuid(),
            expires_at_ms: Option<i64>,
            (group, topic) in (any_name(), any_name()), partition: i32,
        ) {
            check_encoding(&OffsetRecord {
                offset, leader_epoch, metadata, commit_time_ms, expires_at_ms, topic_id,
            });
            let keys = keyspace();
            let key = OffsetKey { group, topic, partition };
            let text = keys.offset(&key);
            prop_assert!(text.starts_with(&keys.offsets_of_topic_prefix(&key.group, &key.topic)));
            prop_assert!(text.starts_with(&keys.offsets_of_group_prefix(&key.group)));
            prop_assert_eq!(keys.parse_offset(&text), Some(key));
        }
    }

    #[test]
    fn bytes() {
        let record = OffsetRecord {
            offset: 42,
            leader_epoch: -1,
            metadata: "note".into(),
            commit_time_ms: 1,
            expires_at_ms: None,
            topic_id: Uuid::from_u128(1),
        };
        check_bytes(
            &record,
            concat!(
                r#"{"v":1,"offset":42,"leader_epoch":-1,"metadata":"note","commit_time_ms":1,"#,
                r#""topic_id":"AAAAAAAAAAAAAAAAAAAAAQ"}"#
            ),
        );
    }
}
