//! Topics with their assignments, and the durable state of their partitions.

use uuid::Uuid;

use super::{Guarded, Metadata, Records, Versioned};
use crate::{
    Compare, Op, Result, Revision, Txn,
    records::{AssignmentRecord, DeletedTopicRecord, PartitionRecord, ProducersRecord, Record, TopicRecord},
};

/// A topic to create.
#[derive(Clone, Debug)]
pub struct NewTopic {
    pub name: String,
    pub topic: TopicRecord,
    pub assignment: AssignmentRecord,
}

impl Metadata {
    pub async fn list_topics(&self) -> Result<Records<String, TopicRecord>> {
        self.list(&self.keys.topics_prefix(), |key| self.keys.parse_topic(key)).await
    }

    pub async fn load_topic(&self, name: &str) -> Result<Option<Versioned<TopicRecord>>> {
        self.load(&self.keys.topic(name)).await
    }

    /// Creates a topic with its assignment. `None` means that a topic of this name exists.
    pub async fn create_topic(&self, new: &NewTopic) -> Result<Option<Revision>> {
        let created = self.create_topics(std::slice::from_ref(new)).await?;
        Ok(created.into_iter().next().flatten())
    }

    /// Creates many topics in few transactions; each for itself is created or not, as [`Metadata::create_topic`] says.
    /// Their names must differ.
    pub async fn create_topics(&self, new: &[NewTopic]) -> Result<Vec<Option<Revision>>> {
        let guarded = new.iter().map(|NewTopic { name, topic, assignment }| {
            let key = self.keys.topic(name);
            let assigned = Op::put(self.keys.assignment(topic.topic_id), assignment.encode());
            let then = vec![Op::put(&key, topic.encode()), assigned];
            Guarded { when: Compare::absent(key), then }
        });
        self.apply_guarded(None, guarded.collect()).await
    }

    /// Replaces a topic's record, say its configs. `None` means that it was changed or deleted meanwhile.
    pub async fn swap_topic(
        &self,
        name: &str,
        expected: Revision,
        record: &TopicRecord,
    ) -> Result<Option<Revision>> {
        self.swap(&self.keys.topic(name), Some(expected), record).await
    }

    /// Replaces a topic's record and its assignment together, to add partitions. `None` means that one of them was changed
    /// meanwhile.
    pub async fn swap_topic_and_assignment(
        &self,
        name: &str,
        (topic_expected, topic): (Revision, &TopicRecord),
        (assignment_expected, assignment): (Revision, &AssignmentRecord),
    ) -> Result<Option<Revision>> {
        let (topic_key, assignment_key) = (self.keys.topic(name), self.keys.assignment(topic.topic_id));
        let txn = Txn::new()
            .when(Compare::mod_revision(&topic_key, topic_expected))
            .when(Compare::mod_revision(&assignment_key, assignment_expected))
            .and_then(Op::put(topic_key, topic.encode()))
            .and_then(Op::put(assignment_key, assignment.encode()));
        let outcome = self.store.txn(txn).await?;
        Ok(outcome.succeeded.then_some(outcome.revision))
    }

    /// Deletes the topic that was read, with everything that belongs to it. `false` means that it was changed or deleted
    /// meanwhile, and nothing was done.
    ///
    /// The topic, its assignment and its partitions vanish at once. Committed offsets are left to the coordinators of their
    /// groups; they carry the id of a topic that is gone. What is left is a note that it was there.
    pub async fn delete_topic(&self, name: &str, read: &Versioned<TopicRecord>) -> Result<bool> {
        let topic_id = read.record.topic_id;
        let key = self.keys.topic(name);
        let deleted = DeletedTopicRecord { name: name.to_owned() };
        let txn = Txn::new()
            .when(Compare::mod_revision(&key, read.mod_revision))
            .and_then(Op::delete(key))
            .and_then(Op::delete(self.keys.assignment(topic_id)))
            .and_then(Op::delete_prefix(self.keys.partitions_of_topic_prefix(topic_id)))
            .and_then(Op::delete_prefix(self.keys.producers_of_topic_prefix(topic_id)))
            .and_then(Op::put(self.keys.deleted_topic(topic_id), deleted.encode()));
        Ok(self.store.txn(txn).await?.succeeded)
    }

    pub async fn list_assignments(&self) -> Result<Records<Uuid, AssignmentRecord>> {
        self.list(&self.keys.assignments_prefix(), |key| self.keys.parse_assignment(key)).await
    }

    pub async fn load_assignment(&self, topic_id: Uuid) -> Result<Option<Versioned<AssignmentRecord>>> {
        self.load(&self.keys.assignment(topic_id)).await
    }

    /// See [`Metadata::swap`].
    pub async fn swap_assignment(
        &self,
        topic_id: Uuid,
        expected: Revision,
        record: &AssignmentRecord,
    ) -> Result<Option<Revision>> {
        self.swap(&self.keys.assignment(topic_id), Some(expected), record).await
    }

    pub async fn list_partitions(&self) -> Result<Records<(Uuid, i32), PartitionRecord>> {
        self.list(&self.keys.partitions_prefix(), |key| self.keys.parse_partition(key)).await
    }

    pub async fn load_partition(
        &self,
        topic_id: Uuid,
        partition: i32,
    ) -> Result<Option<Versioned<PartitionRecord>>> {
        self.load(&self.keys.partition(topic_id, partition)).await
    }

    pub async fn list_producers(&self) -> Result<Records<(Uuid, i32), ProducersRecord>> {
        self.list(&self.keys.producers_prefix(), |key| self.keys.parse_producers(key)).await
    }

    pub async fn load_producers(
        &self,
        topic_id: Uuid,
        partition: i32,
    ) -> Result<Option<Versioned<ProducersRecord>>> {
        self.load(&self.keys.producers(topic_id, partition)).await
    }

    /// Replaces a partition's state and its producers together. `None` means that somebody else wrote it meanwhile.
    pub async fn swap_partition(
        &self,
        topic_id: Uuid,
        partition: i32,
        expected: Option<Revision>,
        (record, producers): (&PartitionRecord, &ProducersRecord),
    ) -> Result<Option<Revision>> {
        let key = self.keys.partition(topic_id, partition);
        let compare = match expected {
            Some(revision) => Compare::mod_revision(&key, revision),
            None => Compare::absent(&key),
        };
        let txn = Txn::new()
            .when(compare)
            .and_then(Op::put(key, record.encode()))
            .and_then(Op::put(self.keys.producers(topic_id, partition), producers.encode()));
        let outcome = self.store.txn(txn).await?;
        Ok(outcome.succeeded.then_some(outcome.revision))
    }
}
