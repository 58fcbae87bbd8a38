//! `assignments/{topic_id}`: which broker owns each partition of a topic, in which leader epoch. Written with the topic,
//! then by the controller only: on failover, on balance, and when partitions are added.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Keyspace, Record,
    codec::{uuid_from_text, uuid_to_text},
};

/// The owners of all partitions of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentRecord {
    /// One entry per partition, by number.
    pub partitions: Vec<PartitionAssignment>,
}

/// The owner of a partition. Encoded as `[owner, leader_epoch]`, since a topic may have many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(Option<i32>, i32)", into = "(Option<i32>, i32)")]
pub struct PartitionAssignment {
    /// The broker that serves it; none while there is no live broker to give it to.
    pub owner: Option<i32>,
    /// Grows with every change of the owner.
    pub leader_epoch: i32,
}

impl From<(Option<i32>, i32)> for PartitionAssignment {
    fn from((owner, leader_epoch): (Option<i32>, i32)) -> Self {
        Self { owner, leader_epoch }
    }
}

impl From<PartitionAssignment> for (Option<i32>, i32) {
    fn from(a: PartitionAssignment) -> Self {
        (a.owner, a.leader_epoch)
    }
}

impl Record for AssignmentRecord {
    const KIND: &'static str = "assignment";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn assignments_prefix(&self) -> String {
        self.key(format_args!("assignments/"))
    }

    pub fn assignment(&self, topic_id: Uuid) -> String {
        self.key(format_args!("assignments/{}", uuid_to_text(topic_id)))
    }

    pub fn parse_assignment(&self, key: &str) -> Option<Uuid> {
        let [topic_id] = self.components(key, "assignments")?;
        uuid_from_text(topic_id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::records::codec::tests::{any_uuid, check_bytes, check_encoding, keyspace};

    proptest! {
        #[test]
        fn round_trip(
            partitions in vec((option::of(any::<i32>()), any::<i32>()), 0..5), topic_id in any_uuid(),
        ) {
            check_encoding(&AssignmentRecord { partitions: partitions.into_iter().map(Into::into).collect() });
            prop_assert_eq!(keyspace().parse_assignment(&keyspace().assignment(topic_id)), Some(topic_id));
        }
    }

    #[test]
    fn a_hundred_thousand_partitions_fit_into_one_transaction() {
        let one = PartitionAssignment { owner: Some(1000), leader_epoch: 10 };
        let record = AssignmentRecord { partitions: vec![one; 100_000] };
        assert!(record.encode().len() < crate::MAX_TXN_BYTES);
    }

    #[test]
    fn bytes() {
        let record = AssignmentRecord { partitions: vec![(Some(1), 4).into(), (None, 5).into()] };
        check_bytes(&record, r#"{"v":1,"partitions":[[1,4],[null,5]]}"#);
    }
}
