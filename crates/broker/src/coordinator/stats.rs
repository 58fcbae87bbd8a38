//! What lists and metrics show of the groups, without asking their tasks.

use std::sync::Arc;

use kafscale_core::group::GroupState;
use kafscale_core::ids::Offset;

use super::Coordinator;
use super::cell::Status;

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

impl Coordinator {
    /// All groups, in the order of their ids.
    pub fn list(&self) -> Vec<ListedGroup> {
        let cells: Vec<_> = self.shared.cells.lock().values().cloned().collect();
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
        listed
    }

    /// All groups with their committed offsets, in the order of their ids.
    pub fn stats(&self) -> Vec<GroupStats> {
        let cells: Vec<_> = self.shared.cells.lock().values().cloned().collect();
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
