//! `coordinators/{slot}`: which incarnation of which broker coordinates the groups of a slot. Written by the controller, like an
//! assignment; by an owner only to release what it was asked to, and as it is, so that an earlier write of which it lost sight cannot
//! happen any more. Every write of a coordinator is guarded by the revision of this record (ADR 0007).

use serde::{Deserialize, Serialize};

use super::{Keyspace, PartitionAssignment, Record, codec::decode_number};

/// How many slots there are: as many as Apache Kafka gives its offsets topic partitions.
pub const COORDINATOR_SLOTS: i32 = 50;

/// The coordinator of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorRecord {
    /// The leader epoch is the coordinator's epoch.
    pub slot: PartitionAssignment,
}

impl Record for CoordinatorRecord {
    const KIND: &'static str = "coordinator";
    const VERSION: u32 = 1;
}

impl Keyspace {
    pub fn coordinators_prefix(&self) -> String {
        self.key(format_args!("coordinators/"))
    }

    pub fn coordinator(&self, slot: i32) -> String {
        self.key(format_args!("coordinators/{slot}"))
    }

    pub fn parse_coordinator(&self, key: &str) -> Option<i32> {
        let [slot] = self.components(key, "coordinators")?;
        decode_number(slot)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::codec::tests::{check_bytes, check_encoding, keyspace};

    proptest! {
        #[test]
        fn round_trip(owner: i32, incarnation: u64, epoch: i32, slot: i32) {
            check_encoding(&CoordinatorRecord { slot: PartitionAssignment::new(owner, incarnation, epoch) });
            prop_assert_eq!(keyspace().parse_coordinator(&keyspace().coordinator(slot)), Some(slot));
        }
    }

    #[test]
    fn bytes() {
        let record = CoordinatorRecord { slot: PartitionAssignment::new(1, 7, 4) };
        check_bytes(&record, r#"{"v":1,"slot":[1,4,7]}"#);
    }
}
