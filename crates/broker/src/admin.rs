//! Changes of topics: in the metadata store first, then in what this broker serves.
//!
//! One change at a time on this broker, so that a topic that many clients ask for is created once; the guards of the metadata
//! transactions hold against other brokers.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafscale_core::ids::{LeaderEpoch, PartitionId, TopicId};
use kafscale_core::names::check_topic_name;
use kafscale_core::topic_config::{ConfigError, TopicConfig, check_overrides};
use kafscale_meta::records::{AssignmentRecord, PartitionAssignment, TopicRecord};
use kafscale_meta::{Metadata, NewTopic, Versioned};
use kafscale_storage::HostedPartition;
use uuid::Uuid;

use crate::node::Node;
use crate::topics::Topic;

/// Why an admin operation failed: the code, and a sentence for the person who asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AdminError {
    pub error: ResponseError,
    pub message: String,
}

impl AdminError {
    pub fn new(error: ResponseError, message: impl Into<String>) -> AdminError {
        AdminError { error, message: message.into() }
    }
}

impl From<ConfigError> for AdminError {
    fn from(error: ConfigError) -> AdminError {
        AdminError::new(ResponseError::InvalidConfig, error.to_string())
    }
}

impl From<kafscale_meta::Error> for AdminError {
    fn from(error: kafscale_meta::Error) -> AdminError {
        // Clients retry a request that timed out; the guards make that safe.
        let code = if error.kind().is_retriable() {
            ResponseError::RequestTimedOut
        } else {
            ResponseError::UnknownServerError
        };
        AdminError::new(code, format!("the metadata store: {error}"))
    }
}

/// A topic to create.
#[derive(Debug, Clone)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
    pub configs: BTreeMap<String, String>,
}

/// Changes topics. Behind a lock in [`Node`]: holding it is the right to change.
#[derive(Debug)]
pub struct TopicAdmin {
    metadata: Metadata,
}

impl TopicAdmin {
    pub fn new(metadata: Metadata) -> TopicAdmin {
        TopicAdmin { metadata }
    }

    /// Checks a topic without creating it; `planned` partitions are about to be created beside it.
    pub fn check(&self, node: &Node, spec: &TopicSpec, planned: i64) -> Result<TopicConfig, AdminError> {
        let TopicSpec { name, partitions, configs } = spec;
        check_topic_name(name)
            .map_err(|e| AdminError::new(ResponseError::InvalidTopicException, e.to_string()))?;
        if node.topics.get(name).is_some() {
            let message = format!("Topic '{name}' already exists.");
            return Err(AdminError::new(ResponseError::TopicAlreadyExists, message));
        }
        if let Some(other) = node.topics.colliding(name) {
            let message = format!("Topic '{name}' collides with existing topic: {other}");
            return Err(AdminError::new(ResponseError::InvalidTopicException, message));
        }
        check_partition_count(node, *partitions, planned + i64::from(*partitions))?;
        check_overrides(configs)?;
        Ok(TopicConfig::resolve(configs, &node.settings.topic_defaults())?)
    }

    /// Creates topics that passed [`TopicAdmin::check`]; each for itself succeeds or fails.
    pub async fn create(
        &self,
        node: &Node,
        specs: Vec<TopicSpec>,
    ) -> Result<Vec<Result<Arc<Topic>, AdminError>>, AdminError> {
        let new: Vec<NewTopic> = specs.into_iter().map(|spec| new_topic(node, spec)).collect();
        let created = self.metadata.create_topics(&new).await?;
        let mut outcomes = Vec::with_capacity(new.len());
        for (topic, revision) in new.into_iter().zip(created) {
            outcomes.push(match revision {
                Some(_) => serve(node, &topic.name, &topic.topic, LeaderEpoch(0)).await,
                None => Err(self.adopt(node, &topic.name).await),
            });
        }
        Ok(outcomes)
    }

    /// Serves a topic that exists in the metadata store, but not here: the transaction that created it seemed to fail.
    async fn adopt(&self, node: &Node, name: &str) -> AdminError {
        match self.metadata.load_topic(name).await {
            Ok(Some(read)) if node.topics.get(name).is_none() => {
                if let Err(error) = serve(node, name, &read.record, LeaderEpoch(0)).await {
                    return error;
                }
            }
            Ok(_) => {}
            Err(error) => return error.into(),
        }
        let message = format!("Topic '{name}' already exists.");
        AdminError::new(ResponseError::TopicAlreadyExists, message)
    }

    /// Deletes a topic with its records and the offsets that groups committed for it.
    pub async fn delete(&self, node: &Node, topic: &Topic) -> Result<(), AdminError> {
        let read = self.read(topic).await?;
        if !self.metadata.delete_topic(&topic.name, &read).await? {
            return Err(changed_meanwhile(&topic.name));
        }
        node.topics.remove(&topic.name, topic.id);
        node.coordinator.topic_deleted(&topic.name, topic.id).await;
        node.metrics.forget_topic(&topic.name);
        node.log.drop_topic(topic.id).await;
        Ok(())
    }

    /// Grows a topic to `count` partitions.
    pub async fn add_partitions(&self, node: &Node, topic: &Topic, count: i32) -> Result<(), AdminError> {
        let mut read = self.read(topic).await?;
        let assigned = self.metadata.load_assignment(topic.id.0).await?;
        let mut assigned = assigned.ok_or_else(|| changed_meanwhile(&topic.name))?;
        let leader_epoch = topic.leader_epoch.0;
        let added = PartitionAssignment::new(node.config.node_id.0, 0, leader_epoch);
        assigned.record.partitions.resize(count.unsigned_abs() as usize, added);
        read.record.partitions = count;
        let topic_part = (read.mod_revision, &read.record);
        let assignment_part = (assigned.mod_revision, &assigned.record);
        let swapped =
            self.metadata.swap_topic_and_assignment(&topic.name, topic_part, assignment_part).await?;
        if swapped.is_none() {
            return Err(changed_meanwhile(&topic.name));
        }
        serve(node, &topic.name, &read.record, topic.leader_epoch).await.map(drop)
    }

    /// Replaces the settings of a topic that differ from the defaults.
    pub async fn set_configs(
        &self,
        node: &Node,
        topic: &Topic,
        configs: BTreeMap<String, String>,
    ) -> Result<(), AdminError> {
        let config = Arc::new(TopicConfig::resolve(&configs, &node.settings.topic_defaults())?);
        let mut read = self.read(topic).await?;
        read.record.configs.clone_from(&configs);
        if self.metadata.swap_topic(&topic.name, read.mod_revision, &read.record).await?.is_none() {
            return Err(changed_meanwhile(&topic.name));
        }
        node.log.set_config(topic.id, &config);
        node.topics.put(Topic { overrides: configs, config, ..topic.clone() });
        Ok(())
    }

    /// Resolves the settings of all topics anew, after the defaults have changed.
    pub fn refresh_defaults(&self, node: &Node) {
        let defaults = node.settings.topic_defaults();
        for topic in node.topics.all() {
            match TopicConfig::resolve(&topic.overrides, &defaults) {
                Ok(config) if config != *topic.config => {
                    let config = Arc::new(config);
                    node.log.set_config(topic.id, &config);
                    node.topics.put(Topic { config, ..Topic::clone(&topic) });
                }
                Ok(_) => {}
                Err(error) => tracing::error!(topic = %topic.name, %error, "settings cannot be resolved"),
            }
        }
    }

    async fn read(&self, topic: &Topic) -> Result<Versioned<TopicRecord>, AdminError> {
        let read = self.metadata.load_topic(&topic.name).await?;
        read.filter(|read| read.record.topic_id == topic.id.0).ok_or_else(|| changed_meanwhile(&topic.name))
    }
}

/// Checks a topic's partition count against the limits; `added` is what the cluster gains.
pub fn check_partition_count(node: &Node, count: i32, added: i64) -> Result<(), AdminError> {
    if count < 1 {
        let message = format!("Number of partitions must be larger than 0, but was {count}.");
        return Err(AdminError::new(ResponseError::InvalidPartitions, message));
    }
    let per_topic = node.config.max_partitions_per_topic;
    if count > per_topic {
        let message = format!("{count} partitions are more than the {per_topic} that a topic may have here.");
        return Err(AdminError::new(ResponseError::InvalidPartitions, message));
    }
    let total = i64::from(node.config.max_partitions);
    if node.topics.partitions_total() + added > total {
        let message = format!("The cluster may have {total} partitions; this would exceed it.");
        return Err(AdminError::new(ResponseError::PolicyViolation, message));
    }
    Ok(())
}

fn changed_meanwhile(name: &str) -> AdminError {
    let message = format!("Topic '{name}' was changed or deleted at the same time.");
    AdminError::new(ResponseError::UnknownTopicOrPartition, message)
}

fn new_topic(node: &Node, spec: TopicSpec) -> NewTopic {
    let here = PartitionAssignment::new(node.config.node_id.0, 0, 0);
    NewTopic {
        name: spec.name,
        assignment: AssignmentRecord { partitions: vec![here; spec.partitions.unsigned_abs() as usize] },
        topic: TopicRecord {
            topic_id: Uuid::new_v4(),
            partitions: spec.partitions,
            configs: spec.configs,
            created_ms: node.clock.now_ms(),
            internal: false,
        },
    }
}

/// Begins to serve a topic, or the partitions that it gained.
async fn serve(
    node: &Node,
    name: &str,
    record: &TopicRecord,
    leader_epoch: LeaderEpoch,
) -> Result<Arc<Topic>, AdminError> {
    let topic = resolve(name, record, leader_epoch, &node.settings.topic_defaults())?;
    let served =
        node.topics.get(name).filter(|served| served.id == topic.id).map_or(0, |served| served.partitions);
    for (id, outcome) in node.log.acquire(hosted(&topic, served)).await {
        outcome
            .map_err(|e| AdminError::new(ResponseError::KafkaStorageError, format!("Partition {id}: {e}")))?;
    }
    Ok(node.topics.put(topic))
}

/// What the broker knows of a topic, from its record.
pub fn resolve(
    name: &str,
    record: &TopicRecord,
    leader_epoch: LeaderEpoch,
    defaults: &BTreeMap<String, String>,
) -> Result<Topic, ConfigError> {
    Ok(Topic {
        name: name.into(),
        id: TopicId(record.topic_id),
        partitions: record.partitions,
        leader_epoch,
        config: Arc::new(TopicConfig::resolve(&record.configs, defaults)?),
        overrides: record.configs.clone(),
        internal: record.internal,
    })
}

/// What the log must know of a topic's partitions from `first` on.
pub fn hosted(topic: &Topic, first: i32) -> Vec<HostedPartition> {
    let partition = |index| HostedPartition {
        topic_name: Arc::clone(&topic.name),
        id: PartitionId { topic: topic.id, index },
        leader_epoch: topic.leader_epoch,
        config: Arc::clone(&topic.config),
    };
    (first..topic.partitions).map(partition).collect()
}
