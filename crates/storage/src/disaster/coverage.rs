//! What segments hold already, and what nobody needs: by it an object of a chain tells whether its owner needed it still.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use kafscale_core::ids::{Offset, PartitionId, TopicId};
use kafscale_meta::records::PartitionRecord;

use super::error::RestoreError;
use super::manifests::last_offset_of;
use super::plan::Plan;
use super::survey::{Object, Segments};
use crate::wal::object::IndexEntry;

const READS_AT_ONCE: usize = 16;

#[derive(Debug, Default)]
pub struct Coverage {
    /// Where the segments of partitions end, or their logs begin.
    ends: HashMap<PartitionId, Offset>,
    /// Topics that were deleted.
    deleted: HashSet<TopicId>,
}

impl Coverage {
    /// Reads the ends of the segments that the snapshot does not know.
    pub async fn of(plan: &Plan<'_>) -> Result<Coverage, RestoreError> {
        let segments = Segments::of(&*plan.store).await?;
        let mut ends = HashMap::new();
        for (key, (topic, index)) in plan.keys_of(|key| plan.keys.parse_partition(key)) {
            if let Some(record) = plan.get::<PartitionRecord>(&key)? {
                let end = record.segments.last().map_or(0, |segment| segment.last_offset + 1);
                let id = PartitionId { topic: TopicId(topic), index };
                ends.insert(id, Offset(end.max(record.log_start_offset)));
            }
        }
        let newest = newest(&segments.by_partition);
        let newer = newest
            .into_iter()
            .filter(|(id, object)| ends.get(id).is_none_or(|end| object.base_offset >= *end));
        let read = stream::iter(newer).map(|(id, object)| async move {
            Ok::<_, RestoreError>((id, last_offset_of(&*plan.store, object).await?.plus(1)))
        });
        let read: Vec<_> = read.buffered(READS_AT_ONCE).try_collect().await?;
        ends.extend(read);
        let deleted = plan.keys_of(|key| plan.keys.parse_deleted_topic(key));
        let deleted = deleted.into_iter().map(|(_, topic)| TopicId(topic)).collect();
        Ok(Coverage { ends, deleted })
    }

    /// Whether a batch may be freed.
    pub fn has(&self, entry: &IndexEntry) -> bool {
        let id = entry.partition;
        self.deleted.contains(&id.topic) || self.ends.get(&id).is_some_and(|end| entry.last_offset < *end)
    }
}

fn newest(by_partition: &BTreeMap<PartitionId, Vec<Object>>) -> Vec<(PartitionId, &Object)> {
    let order = |object: &&Object| (object.base_offset, object.number);
    by_partition.iter().filter_map(|(id, objects)| Some((*id, objects.iter().max_by_key(order)?))).collect()
}
