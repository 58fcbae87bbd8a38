//! Forgets the offsets of topics that were deleted.
//!
//! Invariant: an offset is removed only when its topic is gone for good. The id of the topic is noted before the store is asked which
//! topics there are, so that one that is created meanwhile is not taken for one that is gone.

use std::collections::HashSet;
use std::sync::Arc;

use kafscale_core::ids::TopicId;
use kafscale_meta::{Metadata, Result};
use tokio::sync::oneshot;

use super::Shared;
use super::cell::Cell;
use super::plan::Change;
use super::tenure::Tenure;
use super::writer::Written;

/// A topic that offsets were committed for.
type NamedTopic = (Arc<str>, TopicId);

/// Removes the offsets of all topics that are gone from the groups of these slots.
pub(super) async fn forget(shared: &Shared, metadata: &Metadata, tenures: &[Arc<Tenure>]) -> Result<()> {
    let cells = cells(tenures);
    let mut noted = named_topics(&cells);
    if noted.is_empty() {
        return Ok(());
    }
    let listed = metadata.list_topics().await?.items;
    let there: HashSet<TopicId> = listed.into_iter().map(|(_, read)| TopicId(read.record.topic_id)).collect();
    noted.retain(|(_, id)| !there.contains(id));
    drop(remove(shared, &cells, &noted));
    Ok(())
}

/// Removes the offsets of topics, and returns what becomes of the writes, by group.
pub(super) fn remove(
    shared: &Shared,
    cells: &[Arc<Cell>],
    gone: &HashSet<NamedTopic>,
) -> Vec<(Arc<str>, oneshot::Receiver<Written>)> {
    let mut written = Vec::new();
    for cell in cells.iter().filter(|_| !gone.is_empty()) {
        let offsets = cell.offsets.read();
        let of_gone = offsets.iter().filter(|(topic, _, c)| gone.contains(&(Arc::clone(topic), c.topic_id)));
        let removal =
            |(topic, partition, c): (&Arc<str>, i32, &kafscale_core::group::offsets::CommittedOffset)| {
                Change::RemoveOffset { topic: Arc::clone(topic), partition, of: Some(c.topic_id) }
            };
        let removals: Vec<Change> = of_gone.map(removal).collect();
        drop(offsets);
        if removals.is_empty() {
            continue;
        }
        let (done, outcome) = oneshot::channel();
        shared.writes.enqueue(&shared.keys, cell, removals, Some(done));
        written.push((Arc::clone(&cell.id), outcome));
    }
    written
}

pub(super) fn cells(tenures: &[Arc<Tenure>]) -> Vec<Arc<Cell>> {
    tenures.iter().flat_map(|tenure| tenure.cells.lock().values().cloned().collect::<Vec<_>>()).collect()
}

fn named_topics(cells: &[Arc<Cell>]) -> HashSet<NamedTopic> {
    let mut noted = HashSet::new();
    for cell in cells {
        for (topic, partitions) in cell.offsets.read().topics() {
            let ids: HashSet<TopicId> = partitions.values().map(|committed| committed.topic_id).collect();
            noted.extend(ids.into_iter().map(|id| (Arc::clone(topic), id)));
        }
    }
    noted
}
