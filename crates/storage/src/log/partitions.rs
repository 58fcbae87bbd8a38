//! The partitions that this broker owns, by topic.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kafscale_core::ids::{PartitionId, TopicId};
use parking_lot::RwLock;

use super::partition::PartitionInner;

type ByTopic = HashMap<TopicId, BTreeMap<i32, Arc<PartitionInner>>>;

/// A map of two steps, so that what concerns a topic does not look at all others.
#[derive(Debug, Default)]
pub struct Partitions {
    by_topic: RwLock<ByTopic>,
}

impl Partitions {
    pub fn get(&self, id: PartitionId) -> Option<Arc<PartitionInner>> {
        self.by_topic.read().get(&id.topic)?.get(&id.index).cloned()
    }

    pub fn all(&self) -> Vec<Arc<PartitionInner>> {
        self.by_topic.read().values().flat_map(BTreeMap::values).cloned().collect()
    }

    /// Those whose topic keeps the last record of each key (`cleanup.policy=compact`).
    pub fn compacted(&self) -> Vec<Arc<PartitionInner>> {
        let by_topic = self.by_topic.read();
        let partitions = by_topic.values().flat_map(BTreeMap::values);
        partitions.filter(|p| p.config.read().cleanup_compact).cloned().collect()
    }

    pub fn of_topic(&self, topic: TopicId) -> Vec<Arc<PartitionInner>> {
        self.by_topic.read().get(&topic).map_or_else(Vec::new, |of| of.values().cloned().collect())
    }

    /// Adds a partition, unless it is there already.
    pub fn insert(&self, partition: Arc<PartitionInner>) {
        let id = partition.id;
        self.by_topic.write().entry(id.topic).or_default().entry(id.index).or_insert(partition);
    }

    pub fn remove(&self, id: PartitionId) -> Option<Arc<PartitionInner>> {
        let mut by_topic = self.by_topic.write();
        let of_topic = by_topic.get_mut(&id.topic)?;
        let removed = of_topic.remove(&id.index);
        if of_topic.is_empty() {
            by_topic.remove(&id.topic);
        }
        removed
    }

    pub fn remove_topic(&self, topic: TopicId) -> Vec<Arc<PartitionInner>> {
        self.by_topic.write().remove(&topic).unwrap_or_default().into_values().collect()
    }
}
