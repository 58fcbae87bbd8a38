//! Lag: the end of a partition's log, from its broker's metrics, less the group's committed offset, from the metadata; less the start
//! of the log where that is later, since nobody can read what was deleted before. How much of that a group has missed is told beside it.
//!
//! Invariant: what is unknown is None, never 0: a partition without a committed offset (where a consumer starts there is its
//! own setting), and one whose broker could not be asked. An offset that was committed for a deleted topic of the same
//! name does not count.

use std::collections::BTreeSet;

use kafscale_core::ids::Offset;
use kafscale_meta::records::{GroupMember, OffsetRecord};

use super::metrics::Metrics;
use super::{Group, Topic, Topics};

/// A partition as a group sees it.
#[derive(Clone, Debug)]
pub struct PartitionLag<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub committed: Option<&'a OffsetRecord>,
    pub start: Option<i64>,
    pub end: Option<i64>,
    /// Index of the member that reads it.
    pub member: Option<usize>,
}

impl PartitionLag<'_> {
    /// Records that the group can still read.
    pub fn lag(&self) -> Option<i64> {
        let next = self.committed?.offset.max(self.start.unwrap_or(0));
        Some(Offset(next).count_to(Offset(self.end?)))
    }

    /// Whether the group has read what is not there: records were lost, or metadata is newer than the log.
    pub fn is_beyond_end(&self) -> bool {
        self.end.zip(self.committed).is_some_and(|(end, committed)| committed.offset > end)
    }

    /// Offsets between the commit and the start of the log: records that were deleted before the group read them.
    pub fn missed(&self) -> i64 {
        let known = self.start.zip(self.committed);
        known.map_or(0, |(start, committed)| Offset(committed.offset).count_to(Offset(start)))
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
    /// Over all partitions.
    pub missed: i64,
    /// Partitions whose log ends before what was committed.
    pub beyond_end: usize,
    /// Of all commits: it grows while the group makes progress.
    pub committed: i64,
    pub last_commit_ms: Option<i64>,
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
            let gauges = metrics.partition(name, partition, topic.owner(partition)).unwrap_or_default();
            let (start, end) = (gauges.start, gauges.end);
            lags.push(PartitionLag { topic: name, partition, committed, start, end, member });
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
        summary.missed = summary.missed.saturating_add(partition.missed());
        summary.beyond_end += usize::from(partition.is_beyond_end());
        if let Some(committed) = partition.committed {
            summary.committed = summary.committed.saturating_add(committed.offset);
            summary.last_commit_ms = summary.last_commit_ms.max(Some(committed.commit_time_ms));
        }
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn committed(offset: i64) -> OffsetRecord {
        OffsetRecord {
            offset,
            leader_epoch: -1,
            metadata: String::new(),
            commit_time_ms: 5,
            expires_at_ms: None,
            topic_id: Uuid::nil(),
        }
    }

    #[test]
    fn what_was_deleted_does_not_lag_but_was_missed() {
        for (commit, start, end, lag, missed) in [
            (Some(10), Some(0), Some(25), Some(15), 0),
            (Some(10), Some(100), Some(100), Some(0), 90),
            (Some(10), Some(20), Some(25), Some(5), 10),
            (Some(30), Some(0), Some(25), Some(0), 0),
            (Some(10), None, Some(25), Some(15), 0),
            (Some(10), Some(5), None, None, 0),
            (None, Some(5), Some(25), None, 0),
            (Some(-1), Some(5), Some(25), Some(20), 5),
            (Some(i64::MIN), Some(5), Some(25), Some(20), 5),
            (Some(i64::MIN), None, Some(25), Some(25), 0),
        ] {
            let record = commit.map(committed);
            let partition = PartitionLag {
                topic: "t",
                partition: 0,
                committed: record.as_ref(),
                start,
                end,
                member: None,
            };
            assert_eq!((partition.lag(), partition.missed()), (lag, missed), "{commit:?} {start:?} {end:?}");
            let summary = summary(&[partition]);
            assert_eq!((summary.total, summary.missed), (lag, missed));
            assert_eq!(summary.beyond_end, usize::from(commit == Some(30)), "{commit:?} {end:?}");
        }
    }
}
