//! `partitions/{topic_id}/{partition}`: the durable state of a partition's log. Written by the owner of the partition
//! when segments are published or deleted, when records are deleted and when its epoch begins: by compare-and-swap, per
//! rewrite, never per produce. Absent until the first of these.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Keyspace, Record,
    codec::{decode_number, uuid_from_text, uuid_to_text},
};

/// The durable state of a partition's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRecord {
    pub log_start_offset: i64,
    /// Each leader epoch with its first offset, ascending in both.
    pub leader_epochs: Vec<(i32, i64)>,
    /// The incarnation of the broker that wrote this: after a write with an unknown outcome, the writer recognises
    /// its own record by it.
    pub writer_epoch: u64,
    /// Ascending in their offsets.
    pub segments: Vec<SegmentRecord>,
}

/// A published segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRecord {
    pub base_offset: i64,
    pub last_offset: i64,
    pub size_bytes: u64,
    pub max_timestamp_ms: i64,
    /// The smallest timestamp of its records. Absent where nobody looked at them all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_timestamp_ms: Option<i64>,
    /// No record of it is older by more than this than one before it in the segment. Absent as the smallest timestamp is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disorder_ms: Option<i64>,
    pub records: u64,
    /// The name of the object that holds it.
    pub object: String,
    /// Whether records that later ones supersede were taken out already. Absent in records of early releases.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compacted: bool,
}

impl Record for PartitionRecord {
    const KIND: &'static str = "partition";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn partitions_prefix(&self) -> String {
        self.key(format_args!("partitions/"))
    }

    pub fn partitions_of_topic_prefix(&self, topic_id: Uuid) -> String {
        self.key(format_args!("partitions/{}/", uuid_to_text(topic_id)))
    }

    pub fn partition(&self, topic_id: Uuid, partition: i32) -> String {
        self.key(format_args!("partitions/{}/{partition}", uuid_to_text(topic_id)))
    }

    pub fn parse_partition(&self, key: &str) -> Option<(Uuid, i32)> {
        let [topic_id, partition] = self.components(key, "partitions")?;
        Some((uuid_from_text(topic_id)?, decode_number(partition)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::records::codec::tests::{any_name, any_uuid, check_bytes, check_encoding, keyspace};

    fn any_segment() -> impl Strategy<Value = SegmentRecord> {
        (any::<(i64, i64, u64, i64, u64, bool)>(), any::<Option<(i64, i64)>>(), any_name()).prop_map(
            |(
                (base_offset, last_offset, size_bytes, max_timestamp_ms, records, compacted),
                times,
                object,
            )| {
                SegmentRecord {
                    base_offset,
                    last_offset,
                    size_bytes,
                    max_timestamp_ms,
                    min_timestamp_ms: times.map(|(min, _)| min),
                    disorder_ms: times.map(|(_, disorder)| disorder),
                    records,
                    object,
                    compacted,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn round_trip(
            log_start_offset: i64, leader_epochs in vec(any::<(i32, i64)>(), 0..4), writer_epoch: u64,
            segments in vec(any_segment(), 0..4), topic_id in any_uuid(), partition: i32,
        ) {
            check_encoding(&PartitionRecord { log_start_offset, leader_epochs, writer_epoch, segments });
            let key = keyspace().partition(topic_id, partition);
            prop_assert_eq!(keyspace().parse_partition(&key), Some((topic_id, partition)));
            prop_assert!(key.starts_with(&keyspace().partitions_of_topic_prefix(topic_id)));
        }
    }

    #[test]
    fn bytes() {
        let record = PartitionRecord {
            log_start_offset: 5,
            leader_epochs: vec![(0, 0), (1, 7)],
            writer_epoch: 3,
            segments: vec![SegmentRecord {
                base_offset: 5,
                last_offset: 9,
                size_bytes: 1000,
                max_timestamp_ms: 2,
                min_timestamp_ms: None,
                disorder_ms: None,
                records: 5,
                object: "a/segment-5.kfs".into(),
                compacted: false,
            }],
        };
        check_bytes(
            &record,
            concat!(
                r#"{"v":1,"log_start_offset":5,"leader_epochs":[[0,0],[1,7]],"writer_epoch":3,"#,
                r#""segments":[{"base_offset":5,"last_offset":9,"size_bytes":1000,"max_timestamp_ms":2,"#,
                r#""records":5,"object":"a/segment-5.kfs"}]}"#
            ),
        );
    }
}
