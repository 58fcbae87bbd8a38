//! Committed offsets: who may commit and delete them, and when they expire (KIP-211).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::event::{GroupError, MemberIdentity};
use super::{Generation, Group, GroupState};
use crate::ids::{LeaderEpoch, Offset, TopicId};

/// How far a group has come in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    pub offset: Offset,
    /// The topic that was meant: a topic of the same name that is created later does not inherit the offset.
    pub topic_id: TopicId,
    /// Of the last record consumed, when the client knows it (KIP-320).
    pub leader_epoch: Option<LeaderEpoch>,
    /// The client's own note, given back as it is.
    pub metadata: String,
    pub commit_time_ms: i64,
    /// Set by clients of OffsetCommit 2 to 4 that ask for a retention of their own.
    pub expires_at_ms: Option<i64>,
}

/// What a committed offset takes besides the names of its group and topic and its note, in memory or stored, whichever is more.
const OFFSET_BYTES: usize = 256;

/// All committed offsets of one group, in the order of topic and partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommittedOffsets {
    by_topic: BTreeMap<Arc<str>, BTreeMap<i32, CommittedOffset>>,
    weight_bytes: usize,
    /// The length of the group's id, which is a part of each stored offset's key.
    group_bytes: usize,
}

impl CommittedOffsets {
    /// None yet, of this group.
    pub fn of_group(id: &str) -> CommittedOffsets {
        CommittedOffsets { group_bytes: id.len(), ..CommittedOffsets::default() }
    }

    /// What an offset takes as that of a topic of this name.
    fn weight_of(&self, topic: &str, committed: &CommittedOffset) -> usize {
        OFFSET_BYTES + self.group_bytes + topic.len() + committed.metadata.len()
    }

    /// What all of them take.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// How many bytes more they take once these are committed; 0 if they take less.
    pub fn growth_bytes<'a>(
        &self,
        commits: impl Iterator<Item = (&'a str, i32, &'a CommittedOffset)>,
    ) -> usize {
        let (mut added, mut replaced) = (0, 0);
        for (topic, partition, committed) in commits {
            added += self.weight_of(topic, committed);
            replaced += self.get(topic, partition).map_or(0, |before| self.weight_of(topic, before));
        }
        added.saturating_sub(replaced)
    }

    pub fn is_empty(&self) -> bool {
        self.by_topic.is_empty()
    }

    pub fn len(&self) -> usize {
        self.by_topic.values().map(BTreeMap::len).sum()
    }

    pub fn get(&self, topic: &str, partition: i32) -> Option<&CommittedOffset> {
        self.by_topic.get(topic)?.get(&partition)
    }

    pub fn insert(&mut self, topic: &str, partition: i32, committed: CommittedOffset) {
        self.weight_bytes += self.weight_of(topic, &committed);
        let before = match self.by_topic.get_mut(topic) {
            Some(partitions) => partitions.insert(partition, committed),
            None => self.by_topic.entry(topic.into()).or_default().insert(partition, committed),
        };
        self.weight_bytes -= before.map_or(0, |before| self.weight_of(topic, &before));
    }

    pub fn remove(&mut self, topic: &str, partition: i32) -> Option<CommittedOffset> {
        let partitions = self.by_topic.get_mut(topic)?;
        let removed = partitions.remove(&partition);
        if partitions.is_empty() {
            self.by_topic.remove(topic);
        }
        self.weight_bytes -= removed.as_ref().map_or(0, |removed| self.weight_of(topic, removed));
        removed
    }

    pub fn topics(&self) -> impl Iterator<Item = (&Arc<str>, &BTreeMap<i32, CommittedOffset>)> {
        self.by_topic.iter()
    }

    /// The partitions that have an offset of this topic, and not of another one of the same name.
    pub fn partitions(&self, topic: &str, id: TopicId) -> Vec<i32> {
        let Some(partitions) = self.by_topic.get(topic) else { return Vec::new() };
        partitions.iter().filter(|(_, committed)| committed.topic_id == id).map(|(p, _)| *p).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, i32, &CommittedOffset)> {
        self.by_topic
            .iter()
            .flat_map(|(topic, partitions)| partitions.iter().map(move |(p, o)| (topic, *p, o)))
    }
}

/// What the age of an offset is counted from.
enum RetentionFrom {
    GroupBecameEmpty(i64),
    Commit,
}

impl Group {
    /// Whether a commit is allowed. A member's commit keeps its session alive.
    ///
    /// Without a generation the commit comes from outside of the group protocol, a simple consumer or an admin tool:
    /// those may commit while the group is empty. Members may commit while the others still join, so that nothing is
    /// consumed twice after the rebalance, but not between their join and their assignment.
    pub fn check_commit(&mut self, identity: &MemberIdentity, now_ms: i64) -> Result<(), GroupError> {
        if self.state == GroupState::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        let outside = identity.generation < Generation(0);
        if outside && self.state == GroupState::Empty {
            return Ok(());
        }
        if outside && identity.member_id.is_unknown() && identity.instance_id.is_none() {
            return Err(GroupError::UnknownMember);
        }
        self.check_identity(identity)?;
        match self.state {
            GroupState::CompletingRebalance => Err(GroupError::RebalanceInProgress),
            GroupState::Empty | GroupState::Dead => Err(GroupError::UnknownMember),
            GroupState::PreparingRebalance | GroupState::Stable => {
                self.restart_session(&identity.member_id, now_ms);
                Ok(())
            }
        }
    }

    /// Whether offsets may be deleted at all (KIP-496). What consumers are subscribed to is refused topic by topic.
    pub fn check_offset_delete(&self) -> Result<(), GroupError> {
        match self.state {
            GroupState::Dead => Err(GroupError::NotFound),
            GroupState::Empty => Ok(()),
            GroupState::PreparingRebalance | GroupState::CompletingRebalance | GroupState::Stable => {
                if self.uses_consumer_protocol() { Ok(()) } else { Err(GroupError::NonEmpty) }
            }
        }
    }

    /// The offsets whose retention is over:
    /// - of an empty group, that long after it became empty;
    /// - of a group that only stores offsets, that long after each commit;
    /// - of consumers at work, that long after each commit and only in topics that none of them is subscribed to.
    pub fn expired_offsets(
        &self,
        offsets: &CommittedOffsets,
        now_ms: i64,
        retention_ms: i64,
    ) -> Vec<(Arc<str>, i32)> {
        let Some(from) = self.retention_from() else { return Vec::new() };
        let expired = |committed: &CommittedOffset| match committed.expires_at_ms {
            Some(at) => now_ms >= at,
            None => {
                let since_ms = match from {
                    RetentionFrom::GroupBecameEmpty(since_ms) => since_ms,
                    RetentionFrom::Commit => committed.commit_time_ms,
                };
                now_ms.saturating_sub(since_ms) >= retention_ms
            }
        };
        let unread = offsets.iter().filter(|(topic, _, _)| !self.is_subscribed_to(topic));
        unread
            .filter(|(_, _, committed)| expired(committed))
            .map(|(topic, p, _)| (topic.clone(), p))
            .collect()
    }

    /// None while nothing may expire.
    fn retention_from(&self) -> Option<RetentionFrom> {
        if self.protocol_type.is_none() {
            return Some(RetentionFrom::Commit);
        }
        match self.state {
            GroupState::Empty => Some(RetentionFrom::GroupBecameEmpty(self.state_since_ms)),
            GroupState::Stable if self.uses_consumer_protocol() && self.subscribed_topics.is_some() => {
                Some(RetentionFrom::Commit)
            }
            GroupState::Stable
            | GroupState::PreparingRebalance
            | GroupState::CompletingRebalance
            | GroupState::Dead => None,
        }
    }
}
