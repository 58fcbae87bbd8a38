//! `producers/{topic_id}/{partition}`: the idempotence windows of a partition's producers. Written by the owner of the
//! partition together with its partition record, covering what is in segments; what came later is read from the WAL.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Keyspace, Record,
    codec::{decode_number, uuid_from_text, uuid_to_text},
};

/// The producers of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducersRecord {
    pub producers: Vec<ProducerEntry>,
    /// Records below this offset are lost: producers whose last batch here stands before it may have written more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_below: Option<i64>,
}

/// What is remembered of one producer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerEntry {
    pub producer_id: i64,
    pub epoch: i16,
    pub last_timestamp_ms: i64,
    /// Its last batches, oldest first: Kafka keeps five.
    pub batches: Vec<ProducerBatch>,
}

/// A batch that a retry must find again. Encoded as an array, in the order of the fields, since there are many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i32, i32, i64, i64, i64)", into = "(i32, i32, i64, i64, i64)")]
pub struct ProducerBatch {
    pub first_seq: i32,
    pub last_seq: i32,
    pub base_offset: i64,
    pub last_offset: i64,
    pub timestamp_ms: i64,
}

impl From<(i32, i32, i64, i64, i64)> for ProducerBatch {
    fn from(
        (first_seq, last_seq, base_offset, last_offset, timestamp_ms): (i32, i32, i64, i64, i64),
    ) -> Self {
        Self { first_seq, last_seq, base_offset, last_offset, timestamp_ms }
    }
}

impl From<ProducerBatch> for (i32, i32, i64, i64, i64) {
    fn from(b: ProducerBatch) -> Self {
        (b.first_seq, b.last_seq, b.base_offset, b.last_offset, b.timestamp_ms)
    }
}

impl Record for ProducersRecord {
    const KIND: &'static str = "producers";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn producers_prefix(&self) -> String {
        self.key(format_args!("producers/"))
    }

    pub fn producers_of_topic_prefix(&self, topic_id: Uuid) -> String {
        self.key(format_args!("producers/{}/", uuid_to_text(topic_id)))
    }

    pub fn producers(&self, topic_id: Uuid, partition: i32) -> String {
        self.key(format_args!("producers/{}/{partition}", uuid_to_text(topic_id)))
    }

    pub fn parse_producers(&self, key: &str) -> Option<(Uuid, i32)> {
        let [topic_id, partition] = self.components(key, "producers")?;
        Some((uuid_from_text(topic_id)?, decode_number(partition)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::records::codec::tests::{any_uuid, check_bytes, check_encoding, keyspace};

    fn any_producer() -> impl Strategy<Value = ProducerEntry> {
        (any::<(i64, i16, i64)>(), vec(any::<(i32, i32, i64, i64, i64)>(), 0..6)).prop_map(
            |((producer_id, epoch, last_timestamp_ms), batches)| ProducerEntry {
                producer_id,
                epoch,
                last_timestamp_ms,
                batches: batches.into_iter().map(Into::into).collect(),
            },
        )
    }

    proptest! {
        #[test]
        fn round_trip(
            producers in vec(any_producer(), 0..4),
            lost_below: Option<i64>,
            topic_id in any_uuid(),
            partition: i32,
        ) {
            check_encoding(&ProducersRecord { producers, lost_below });
            let key = keyspace().producers(topic_id, partition);
            prop_assert_eq!(keyspace().parse_producers(&key), Some((topic_id, partition)));
            prop_assert!(key.starts_with(&keyspace().producers_of_topic_prefix(topic_id)));
        }
    }

    #[test]
    fn bytes() {
        let record = ProducersRecord {
            producers: vec![ProducerEntry {
                producer_id: 1000,
                epoch: 0,
                last_timestamp_ms: 2,
                batches: vec![(0, 9, 100, 109, 2).into()],
            }],
            lost_below: None,
        };
        check_bytes(
            &record,
            concat!(
                r#"{"v":1,"producers":[{"producer_id":1000,"epoch":0,"last_timestamp_ms":2,"#,
                r#""batches":[[0,9,100,109,2]]}]}"#
            ),
        );
        let behind_a_loss = ProducersRecord { lost_below: Some(37), ..ProducersRecord::default() };
        check_bytes(&behind_a_loss, r#"{"v":1,"producers":[],"lost_below":37}"#);
    }
}
