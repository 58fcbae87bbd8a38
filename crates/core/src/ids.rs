//! Newtypes for the identifiers of the Kafka protocol, so that an offset is never taken for a partition.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! integer_id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

integer_id! {
    /// The place of a record in its partition; the first record of a partition has offset 0.
    Offset(i64)
}
integer_id! {
    /// `node.id` of a broker.
    NodeId(i32)
}
integer_id! {
    /// Counts the ownership changes of a partition (KIP-101).
    LeaderEpoch(i32)
}
integer_id! {
    /// Identifies an idempotent producer (KIP-98).
    ProducerId(i64)
}

impl Offset {
    pub const ZERO: Offset = Offset(0);

    /// The offset `count` records further on.
    #[must_use]
    pub fn plus(self, count: i64) -> Offset {
        Offset(self.0 + count)
    }

    /// How many offsets there are from this one to `end`, which may be before it. Clients commit any number, negative ones too; who goes
    /// on from those begins at the start of the log.
    pub fn count_to(self, end: Offset) -> i64 {
        end.0.saturating_sub(self.0.max(0)).max(0)
    }
}

/// A topic incarnation: a topic that was deleted and created again under the same name has another id (KIP-516).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(pub Uuid);

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition of one topic incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId {
    pub topic: TopicId,
    pub index: i32,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_hold_for_whatever_clients_commit() {
        for (from, end, count) in [
            (3, 10, 7),
            (10, 3, 0),
            (-1, 10, 10),
            (i64::MIN, 10, 10),
            (i64::MIN, i64::MAX, i64::MAX),
            (i64::MAX, 10, 0),
            (5, -1, 0),
        ] {
            assert_eq!(Offset(from).count_to(Offset(end)), count, "{from} to {end}");
        }
    }
}
