//! Lag: the end of a partition's log, from its broker's metrics, less the group's committed offset, from the metadata.
//!
//! Invariant: what is unknown is None, never 0: a partition without a committed offset (where a consumer starts there is its
//! own setting), and one whose broker could not be asked. An offset that was committed for a deleted topic of the same
//! name does not count.

use std::collections::BTreeSet;

use kafscale_meta::records::{GroupMember, OffsetRecord};

use super::metrics::Metrics;
use super::{Group, Topic, Topics};

/// A partition as a group sees it.
#[derive(Clone, Debug)]
pub struct PartitionLag<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub committed: Option<&'a OffsetRecord>,
    pub end: Option<i64>,
    /// Index of the member that reads it.
    pub member: Option<usize>,
}

impl PartitionLag<'_> {
    pub fn lag(&self) -> Option<i64> {
        Some((self.end? - self.committed?.offset).max(0))
    }
}

/// The lag of a group, added up.
#[derive(Clone, Debug, Default)]
pub struct LagSummary {
    /// Over the partitions whose lag is known; None if there are none.
    pub total: Option<i64>,
    pub max: Option<i64>,
    pub worst: Option<(String, i32)>,
    pub unknown_partitions: usize,
    /// Some partition has a committed offset and no known end: it might well be behind. What was never committed has no lag.
    pub undecided: bool,
}

/// `Stable` or `Empty`: what the metadata shows of a group at rest. Rebalances under way are their coordinator's.
pub fn state(group: &Group) -> &'static str {
    match &group.record {
        Some(record) if !record.members.is_empty() => "Stable",
        Some(_) | None => "Empty",
    }
}

pub fn members(group: &Group) -> &[GroupMember] {
    group.record.as_ref().map_or(&[], |record| &record.members)
}

/// Every partition that the group committed an offset for or has assigned to a member, by topic and number.
pub fn partitions<'a>(group: &'a Group, topics: &'a Topics, metrics: &Metrics) -> Vec<PartitionLag<'a>> {
    let mut lags = Vec::new();
    let names: BTreeSet<&String> = group.offsets.keys().chain(group.readers.keys()).collect();
    for name in names {
        // A topic that is gone has nothing left to read.
        let Some((name, topic)) = topics.by_name.get_key_value(name) else { continue };
        let offsets = group.offsets.get(name);
        let assigned = group.readers.get(name);
        for partition in 0..topic.record.partitions {
            let committed = offsets.and_then(|o| o.get(&partition)).filter(|o| is_of(o, topic));
            let member = assigned.and_then(|a| a.get(&partition)).copied();
            if committed.is_none() && member.is_none() {
                continue;
            }
            let end = metrics.partition(name, partition, topic.owner(partition)).and_then(|g| g.end);
            lags.push(PartitionLag { topic: name, partition, committed, end, member });
        }
    }
    lags
}

/// The lag of a whole group.
pub fn of_group(group: &Group, topics: &Topics, metrics: &Metrics) -> LagSummary {
    summary(&partitions(group, topics, metrics))
}

pub fn summary(partitions: &[PartitionLag<'_>]) -> LagSummary {
    let mut summary = LagSummary::default();
    for partition in partitions {
        let Some(lag) = partition.lag() else {
            summary.unknown_partitions += 1;
            summary.undecided |= partition.committed.is_some();
            continue;
        };
        summary.total = Some(summary.total.unwrap_or(0).saturating_add(lag));
        if summary.max.is_none_or(|max| lag > max) {
            summary.max = Some(lag);
            summary.worst = Some((partition.topic.to_owned(), partition.partition));
        }
    }
    summary
}

/// Whether an offset was committed for this topic, and not for a deleted one of the same name.
pub fn is_of(offset: &OffsetRecord, topic: &Topic) -> bool {
    offset.topic_id == topic.record.topic_id
}
