//! `assignments/{topic_id}`: which incarnation of which broker owns each partition of a topic, in which leader epoch. Written
//! with the topic, then by the controller: on failover, on balance, and when partitions are added. An owner writes it only to
//! release what the controller asked it to release (ADR 0007).

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

/// The owner of a partition. Encoded as `[owner, leader_epoch, incarnation]`, and `[owner, leader_epoch, incarnation, true]` while
/// it is asked to release the partition, since a topic may have many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Encoded", into = "Encoded")]
pub struct PartitionAssignment {
    /// The broker that serves it; none after a release, and while there is no live broker to give it to.
    pub owner: Option<i32>,
    /// Grows with every change of the owner.
    pub leader_epoch: i32,
    /// The epoch of the owner's incarnation; 0 where there is no owner, and in records of early releases.
    pub incarnation: u64,
    /// Whether the controller wants the owner to release it.
    pub release: bool,
}

impl PartitionAssignment {
    pub fn new(owner: i32, incarnation: u64, leader_epoch: i32) -> Self {
        Self { owner: Some(owner), leader_epoch, incarnation, release: false }
    }

    /// Without an owner; the next one gets a higher epoch.
    pub fn released(leader_epoch: i32) -> Self {
        Self { leader_epoch, ..Self::default() }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Encoded {
    Releasing(Option<i32>, i32, u64, bool),
    Owned(Option<i32>, i32, u64),
    /// Of early releases.
    Early(Option<i32>, i32),
}

impl From<Encoded> for PartitionAssignment {
    fn from(encoded: Encoded) -> Self {
        let (owner, leader_epoch, incarnation, release) = match encoded {
            Encoded::Releasing(owner, leader_epoch, incarnation, release) => {
                (owner, leader_epoch, incarnation, release)
            }
            Encoded::Owned(owner, leader_epoch, incarnation) => (owner, leader_epoch, incarnation, false),
            Encoded::Early(owner, leader_epoch) => (owner, leader_epoch, 0, false),
        };
        Self { owner, leader_epoch, incarnation, release }
    }
}

impl From<PartitionAssignment> for Encoded {
    fn from(a: PartitionAssignment) -> Self {
        match a.release {
            true => Self::Releasing(a.owner, a.leader_epoch, a.incarnation, true),
            false => Self::Owned(a.owner, a.leader_epoch, a.incarnation),
        }
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
            partitions in vec((option::of(any::<i32>()), any::<(i32, u64, bool)>()), 0..5), topic_id in any_uuid(),
        ) {
            let assignment = |(owner, (leader_epoch, incarnation, release))| {
                PartitionAssignment { owner, leader_epoch, incarnation, release }
            };
            check_encoding(&AssignmentRecord { partitions: partitions.into_iter().map(assignment).collect() });
            prop_assert_eq!(keyspace().parse_assignment(&keyspace().assignment(topic_id)), Some(topic_id));
        }
    }

    #[test]
    fn fifty_thousand_partitions_fit_into_one_transaction() {
        let one = PartitionAssignment::new(1000, 1_000_000, 10);
        let record = AssignmentRecord { partitions: vec![one; 50_000] };
        assert!(record.encode().len() < crate::MAX_TXN_BYTES);
    }

    #[test]
    fn bytes() {
        let releasing = PartitionAssignment { release: true, ..PartitionAssignment::new(2, 9, 6) };
        let partitions = vec![PartitionAssignment::new(1, 7, 4), PartitionAssignment::released(5), releasing];
        let bytes = r#"{"v":1,"partitions":[[1,4,7],[null,5,0],[2,6,9,true]]}"#;
        check_bytes(&AssignmentRecord { partitions }, bytes);
    }

    #[test]
    fn records_of_early_releases_have_no_incarnation() {
        let read = AssignmentRecord::decode("k", br#"{"v":1,"partitions":[[1,4],[null,5]]}"#).unwrap();
        let of_nobody = PartitionAssignment::new(1, 0, 4);
        assert_eq!(read.partitions, [of_nobody, PartitionAssignment::released(5)]);
    }
}
