//! What lists and metrics show of the groups, without asking their tasks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kafscale_core::group::offsets::CommittedOffset;
use kafscale_core::group::{GroupError, GroupState};
use kafscale_core::ids::Offset;

use super::cell::Status;
use super::tenure::Phase;
use super::{Coordinator, gone};

/// A group as ListGroups shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedGroup {
    pub group: Arc<str>,
    pub state: GroupState,
    /// Empty for a group that only stores offsets.
    pub protocol_type: String,
}

/// A group's part of the metrics. With the log end offsets it gives the lag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStats {
    pub group: Arc<str>,
    pub state: GroupState,
    pub members: usize,
    pub committed: Vec<(Arc<str>, i32, Offset)>,
}

/// What the committed offsets of this broker's groups take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OffsetsStats {
    pub bytes: usize,
    /// The most of one group.
    pub largest_group_bytes: usize,
    pub refused_commits: u64,
}

/// How many slots this broker coordinates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlotStats {
    pub serving: usize,
    pub loading: usize,
    /// Slots that were found to be another broker's when something was to be written.
    pub fenced: u64,
}

impl Coordinator {
    pub fn slot_stats(&self) -> SlotStats {
        let slots = &self.shared.slots;
        let mut stats = SlotStats { fenced: slots.fenced(), ..SlotStats::default() };
        for tenure in slots.tenures() {
            match tenure.phase() {
                Phase::Serving => stats.serving += 1,
                Phase::Loading => stats.loading += 1,
                Phase::Ended | Phase::Deposed => {}
            }
        }
        stats
    }

    pub fn offsets_stats(&self) -> OffsetsStats {
        let cells = gone::cells(&self.shared.slots.tenures());
        let largest = cells.iter().map(|cell| cell.offsets.read().weight_bytes()).max();
        OffsetsStats {
            bytes: self.shared.slots.offsets_bytes.load(Ordering::Relaxed),
            largest_group_bytes: largest.unwrap_or(0),
            refused_commits: self.shared.offsets_refused.load(Ordering::Relaxed),
        }
    }

    /// The groups that this broker coordinates, in the order of their ids. [`GroupError::Loading`] while some of them are being
    /// read, and [`GroupError::CoordinatorNotAvailable`] when it may not be their coordinator any more.
    pub fn list(&self) -> Result<Vec<ListedGroup>, GroupError> {
        let tenures = self.shared.slots.tenures();
        if tenures.iter().any(|tenure| tenure.phase() == Phase::Loading) {
            return Err(GroupError::Loading);
        }
        if !self.shared.slots.holds_lease() {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        let cells = gone::cells(&tenures);
        let listed = cells.iter().map(|cell| {
            let status = cell.status.lock();
            ListedGroup {
                group: Arc::clone(&cell.id),
                state: status.state,
                protocol_type: status.protocol_type.clone(),
            }
        });
        let mut listed: Vec<ListedGroup> = listed.collect();
        listed.sort_by(|a, b| a.group.cmp(&b.group));
        Ok(listed)
    }

    /// What is to be said of the committed offsets of this broker's groups: called with the group, the topic and the partition.
    pub fn find_committed<T>(
        &self,
        found: impl Fn(&Arc<str>, &Arc<str>, i32, &CommittedOffset) -> Option<T>,
    ) -> Vec<T> {
        let mut all = Vec::new();
        if !self.shared.slots.holds_lease() {
            return all;
        }
        for cell in gone::cells(&self.shared.slots.tenures()) {
            let offsets = cell.offsets.read();
            let found = |(topic, p, committed)| found(&cell.id, topic, p, committed);
            all.extend(offsets.iter().filter_map(found));
        }
        all
    }

    /// The groups that this broker coordinates with their committed offsets, in the order of their ids. Empty when it may not
    /// be their coordinator any more.
    pub fn stats(&self) -> Vec<GroupStats> {
        if !self.shared.slots.holds_lease() {
            return Vec::new();
        }
        let cells = gone::cells(&self.shared.slots.tenures());
        let stats = cells.iter().map(|cell| {
            let Status { state, members, .. } = cell.status.lock().clone();
            let offsets = cell.offsets.read();
            let committed =
                offsets.iter().map(|(topic, partition, c)| (Arc::clone(topic), partition, c.offset));
            GroupStats { group: Arc::clone(&cell.id), state, members, committed: committed.collect() }
        });
        let mut stats: Vec<GroupStats> = stats.collect();
        stats.sort_by(|a, b| a.group.cmp(&b.group));
        stats
    }
}
