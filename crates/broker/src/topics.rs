//! The topics of the cluster as this broker knows them: names and ids to partition counts and settings.
//!
//! Kept up to date by the follower of the metadata store. Readers take a topic as one immutable value; a changed topic is a new
//! value.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use kafscale_core::ids::{LeaderEpoch, PartitionId, TopicId};
use kafscale_core::topic_config::{ConfigError, TopicConfig};
use kafscale_meta::records::{PartitionAssignment, TopicRecord};
use kafscale_meta::{Revision, Versioned};
use kafscale_storage::HostedPartition;
use parking_lot::RwLock;

/// One topic at one moment.
#[derive(Debug, Clone)]
pub struct Topic {
    pub name: Arc<str>,
    pub id: TopicId,
    pub partitions: i32,
    /// Who owns each partition; shorter than their number while it has not come in.
    pub assignment: Arc<[PartitionAssignment]>,
    /// Of the topic's record.
    pub revision: Revision,
    /// Settings that differ from the broker's defaults.
    pub overrides: BTreeMap<String, String>,
    pub config: Arc<TopicConfig>,
    pub internal: bool,
}

impl Topic {
    /// What a broker knows of a topic, from its records.
    pub fn resolve(
        name: &str,
        read: &Versioned<TopicRecord>,
        assignment: Arc<[PartitionAssignment]>,
        defaults: &BTreeMap<String, String>,
    ) -> Result<Topic, ConfigError> {
        let record = &read.record;
        Ok(Topic {
            name: name.into(),
            id: TopicId(record.topic_id),
            partitions: record.partitions,
            assignment,
            revision: read.mod_revision,
            config: Arc::new(TopicConfig::resolve(&record.configs, defaults)?),
            overrides: record.configs.clone(),
            internal: record.internal,
        })
    }

    /// Who owns a partition; nobody while the assignment has not come in.
    pub fn assigned(&self, index: i32) -> PartitionAssignment {
        let assigned = usize::try_from(index).ok().and_then(|index| self.assignment.get(index));
        assigned.copied().unwrap_or_else(|| PartitionAssignment::released(0))
    }

    /// What the log must know of a partition to serve it.
    pub fn hosted(&self, index: i32) -> HostedPartition {
        HostedPartition {
            topic_name: Arc::clone(&self.name),
            id: PartitionId { topic: self.id, index },
            leader_epoch: LeaderEpoch(self.assigned(index).leader_epoch),
            config: Arc::clone(&self.config),
        }
    }

    /// The partition of this number, if the topic has it.
    pub fn partition_id(&self, index: i32) -> Option<PartitionId> {
        (0..self.partitions).contains(&index).then_some(PartitionId { topic: self.id, index })
    }
}

/// All topics. Reading takes a lock for the time of a look-up.
#[derive(Debug, Default)]
pub struct Topics {
    maps: RwLock<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    by_id: HashMap<TopicId, Arc<Topic>>,
    /// Names with '.' replaced by '_': metrics cannot tell such topics apart.
    by_metric_name: HashMap<String, Arc<str>>,
    partitions_total: i64,
}

impl Topics {
    pub fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.maps.read().by_name.get(name).cloned()
    }

    pub fn get_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.maps.read().by_id.get(&id).cloned()
    }

    /// Every topic, ordered by name.
    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.maps.read().by_name.values().cloned().collect()
    }

    /// Up to `limit` topics from `first` on, ordered by name.
    pub fn page_from(&self, first: &str, limit: usize) -> Vec<Arc<Topic>> {
        let maps = self.maps.read();
        let range = maps.by_name.range::<str, _>((Bound::Included(first), Bound::Unbounded));
        range.take(limit).map(|(_, topic)| Arc::clone(topic)).collect()
    }

    /// An existing topic whose name differs from `name` only in '.' and '_'.
    pub fn colliding(&self, name: &str) -> Option<Arc<str>> {
        let maps = self.maps.read();
        maps.by_metric_name.get(&metric_name(name)).filter(|other| other.as_ref() != name).cloned()
    }

    /// Partitions of all topics together.
    pub fn partitions_total(&self) -> i64 {
        self.maps.read().partitions_total
    }

    /// Adds a topic or replaces what was known of it.
    pub fn put(&self, topic: Topic) -> Arc<Topic> {
        let topic = Arc::new(topic);
        let mut maps = self.maps.write();
        maps.forget(&topic.name);
        maps.partitions_total += i64::from(topic.partitions);
        maps.by_metric_name.insert(metric_name(&topic.name), Arc::clone(&topic.name));
        maps.by_id.insert(topic.id, Arc::clone(&topic));
        maps.by_name.insert(Arc::clone(&topic.name), Arc::clone(&topic));
        topic
    }

    /// Forgets a deleted topic, unless its name was taken by a newer one.
    pub fn remove(&self, name: &str, id: TopicId) {
        let mut maps = self.maps.write();
        if maps.by_name.get(name).is_some_and(|topic| topic.id == id) {
            maps.forget(name);
        }
    }
}

impl Maps {
    fn forget(&mut self, name: &str) {
        if let Some(old) = self.by_name.remove(name) {
            self.by_id.remove(&old.id);
            self.by_metric_name.remove(&metric_name(name));
            self.partitions_total -= i64::from(old.partitions);
        }
    }
}

fn metric_name(name: &str) -> String {
    name.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn topic(name: &str, id: u128, partitions: i32) -> Topic {
        Topic {
            name: name.into(),
            id: TopicId(Uuid::from_u128(id)),
            partitions,
            assignment: Arc::default(),
            revision: Revision(0),
            overrides: BTreeMap::new(),
            config: Arc::default(),
            internal: false,
        }
    }

    #[test]
    fn a_topic_is_found_by_both_names_until_it_is_removed() {
        let topics = Topics::default();
        topics.put(topic("a.b", 1, 3));
        topics.put(topic("a.b", 2, 5));
        assert_eq!(topics.partitions_total(), 5);
        assert!(topics.get_by_id(TopicId(Uuid::from_u128(1))).is_none());
        assert_eq!(topics.colliding("a_b").as_deref(), Some("a.b"));
        assert_eq!(topics.colliding("a.b"), None);
        topics.remove("a.b", TopicId(Uuid::from_u128(1)));
        assert!(topics.get("a.b").is_some(), "an older incarnation must not remove a newer one");
        topics.remove("a.b", TopicId(Uuid::from_u128(2)));
        assert!(topics.get("a.b").is_none() && topics.partitions_total() == 0);
    }

    #[test]
    fn pages_are_ordered() {
        let topics = Topics::default();
        for (i, name) in ["c", "a", "b"].into_iter().enumerate() {
            topics.put(topic(name, i as u128, 1));
        }
        let names: Vec<_> = topics.page_from("b", 10).iter().map(|t| t.name.to_string()).collect();
        assert_eq!(names, ["b", "c"]);
    }
}
