//! Changes of topics: written to the metadata store, by whichever broker is asked, and answered when they have come back to it.
//!
//! One change at a time on this broker, so that a topic that many clients ask for is created once; the guards of the metadata
//! transactions hold against other brokers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::BrokerId;
use kafscale_core::ids::{LeaderEpoch, NodeId, TopicId};
use kafscale_core::names::check_topic_name;
use kafscale_core::placement::{Incarnation, Loads, Slot};
use kafscale_core::topic_config::{ConfigError, TopicConfig, check_changes, check_overrides};
use kafscale_meta::records::{AssignmentRecord, PartitionAssignment, TopicRecord};
use kafscale_meta::{Metadata, NewTopic, Versioned};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use crate::api::named_twice;
use crate::controller::{assignment_of, slot_of};
use crate::node::Node;
use crate::topics::Topic;

/// How long a change may take to come back from the metadata store. It is made already, so that clients are told so in any case.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(5);

/// Deletions that are under way at a time.
const DELETED_AT_ONCE: usize = 16;

/// Why an admin operation failed: the code, and a sentence for the person who asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AdminError {
    pub error: ResponseError,
    pub message: String,
}

/// Messages repeat what was asked for, which may be as long as a request. Longer ones are cut.
const MESSAGE_MAX_BYTES: usize = 500;

impl AdminError {
    pub fn new(error: ResponseError, message: impl Into<String>) -> AdminError {
        let mut message = message.into();
        if message.len() > MESSAGE_MAX_BYTES {
            message.truncate(message.floor_char_boundary(MESSAGE_MAX_BYTES));
            message.push('…');
        }
        AdminError { error, message }
    }
}

impl AdminError {
    /// Of what was asked for and not begun, because the broker stops or the time of the request is over. Clients may ask again.
    pub fn not_begun() -> AdminError {
        AdminError::new(ResponseError::RequestTimedOut, "The request was not carried out in time.")
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
    /// Owners that the client chose for the partitions, by number; empty where it leaves that to the cluster.
    pub owners: Vec<NodeId>,
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
        let TopicSpec { name, partitions, configs, .. } = spec;
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

    /// Creates topics that passed [`TopicAdmin::check`]; each for itself succeeds or fails. Gives their ids. They have not come in
    /// yet: see [`until_led`].
    pub async fn create(
        &self,
        node: &Node,
        specs: Vec<TopicSpec>,
    ) -> Result<Vec<Result<TopicId, AdminError>>, AdminError> {
        let mut loads = loads(node);
        let new: Vec<NewTopic> = specs.into_iter().map(|spec| new_topic(node, &mut loads, spec)).collect();
        let created = self.metadata.create_topics(&new).await?;
        let mut outcomes = Vec::with_capacity(new.len());
        for (topic, revision) in new.into_iter().zip(created) {
            let id = TopicId(topic.topic.topic_id);
            outcomes.push(match revision {
                Some(_) => Ok(id),
                None => self.created_by(&topic.name, id).await,
            });
        }
        Ok(outcomes)
    }

    /// A topic of this name exists. It may be the one that was to be created: the transaction was done, and its answer lost.
    async fn created_by(&self, name: &str, id: TopicId) -> Result<TopicId, AdminError> {
        if self.metadata.load_topic(name).await?.is_some_and(|read| read.record.topic_id == id.0) {
            return Ok(id);
        }
        let message = format!("Topic '{name}' already exists.");
        Err(AdminError::new(ResponseError::TopicAlreadyExists, message))
    }

    /// Deletes topics with their records and the offsets that groups committed for them; each for itself succeeds or fails.
    pub async fn delete(&self, node: &Node, topics: &[Arc<Topic>]) -> Vec<Result<(), AdminError>> {
        let lost = || AdminError::new(ResponseError::UnknownServerError, "the deletion ended early");
        let mut outcomes: Vec<Result<(), AdminError>> = topics.iter().map(|_| Err(lost())).collect();
        // Several at once, so that the store can commit them together.
        let mut deleting = JoinSet::new();
        let mut waiting = topics.iter().cloned().enumerate();
        loop {
            while deleting.len() < DELETED_AT_ONCE
                && let Some((place, topic)) = waiting.next()
            {
                let metadata = self.metadata.clone();
                deleting.spawn(async move { (place, delete(&metadata, &topic).await) });
            }
            match deleting.join_next().await {
                Some(Ok((place, outcome))) => outcomes[place] = outcome,
                Some(Err(error)) => tracing::error!(%error, "deleting a topic failed"),
                None => break,
            }
        }
        let deleted: Vec<_> = topics.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok()).collect();
        let mut first = 0;
        comes_back(node, || {
            while deleted.get(first).is_some_and(|(topic, _)| node.topics.get_by_id(topic.id).is_none()) {
                first += 1;
            }
            first == deleted.len()
        })
        .await;
        outcomes
    }

    /// Grows a topic to `count` partitions, and gives the new ones to these owners, if the client chose them.
    pub async fn add_partitions(
        &self,
        node: &Node,
        topic: &Topic,
        count: i32,
        owners: &[NodeId],
    ) -> Result<(), AdminError> {
        let mut read = self.read(topic).await?;
        let assigned = self.metadata.load_assignment(topic.id.0).await?;
        let mut assigned = assigned.ok_or_else(|| changed_meanwhile(&topic.name))?;
        let partitions = &mut assigned.record.partitions;
        let added = (count.unsigned_abs() as usize).saturating_sub(partitions.len());
        let present: Vec<Slot> = partitions.iter().map(slot_of).collect();
        // What the topic has is counted among all already.
        let mut of_topic = Loads::new(live(node)).add_group(&present);
        partitions.extend(place_new(node, &mut loads(node), &mut of_topic, added, owners));
        read.record.partitions = count;
        let topic_part = (read.mod_revision, &read.record);
        let assignment_part = (assigned.mod_revision, &assigned.record);
        let swapped =
            self.metadata.swap_topic_and_assignment(&topic.name, topic_part, assignment_part).await?;
        let revision = swapped.ok_or_else(|| changed_meanwhile(&topic.name))?;
        comes_back(node, || {
            let known = node.topics.get_by_id(topic.id);
            known.is_none_or(|known| known.revision >= revision && is_led(node, &known))
        })
        .await;
        Ok(())
    }

    /// Replaces the settings of a topic that differ from the defaults.
    pub async fn set_configs(
        &self,
        node: &Node,
        topic: &Topic,
        configs: BTreeMap<String, String>,
    ) -> Result<(), AdminError> {
        let mut read = self.read(topic).await?;
        check_changes(&configs, &read.record.configs)?;
        read.record.configs = configs;
        let swapped = self.metadata.swap_topic(&topic.name, read.mod_revision, &read.record).await?;
        let revision = swapped.ok_or_else(|| changed_meanwhile(&topic.name))?;
        comes_back(node, || node.topics.get_by_id(topic.id).is_none_or(|known| known.revision >= revision))
            .await;
        Ok(())
    }

    async fn read(&self, topic: &Topic) -> Result<Versioned<TopicRecord>, AdminError> {
        read(&self.metadata, topic).await
    }
}

async fn read(metadata: &Metadata, topic: &Topic) -> Result<Versioned<TopicRecord>, AdminError> {
    let read = metadata.load_topic(&topic.name).await?;
    read.filter(|read| read.record.topic_id == topic.id.0).ok_or_else(|| changed_meanwhile(&topic.name))
}

async fn delete(metadata: &Metadata, topic: &Topic) -> Result<(), AdminError> {
    let read = read(metadata, topic).await?;
    if metadata.delete_topic(&topic.name, &read).await? {
        Ok(())
    } else {
        Err(changed_meanwhile(&topic.name))
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

/// The broker that a client chose for a partition, by the only or first of its replicas.
pub fn chosen_owner(node: &Node, replicas: &[BrokerId]) -> Result<NodeId, AdminError> {
    let invalid = |message: String| Err(AdminError::new(ResponseError::InvalidReplicaAssignment, message));
    let Some(first) = replicas.first() else {
        return invalid("A partition was assigned to no broker.".into());
    };
    if let Some(twice) = named_twice(replicas).into_iter().next() {
        return invalid(format!(
            "The manual partition assignment includes the broker {} more than once.",
            twice.0
        ));
    }
    let brokers = node.cluster.brokers();
    match replicas.iter().find(|id| brokers.get(NodeId(id.0)).is_none()) {
        Some(other) => invalid(format!(
            "The manual partition assignment includes broker {}, but no such broker is registered.",
            other.0
        )),
        None => Ok(NodeId(first.0)),
    }
}

fn changed_meanwhile(name: &str) -> AdminError {
    let message = format!("Topic '{name}' was changed or deleted at the same time.");
    AdminError::new(ResponseError::UnknownTopicOrPartition, message)
}

/// The live brokers.
fn live(node: &Node) -> Vec<Incarnation> {
    node.cluster.brokers().all().map(|broker| broker.id).collect()
}

/// How many partitions each live broker has.
fn loads(node: &Node) -> Loads {
    let mut loads = Loads::new(live(node));
    for topic in node.topics.all() {
        let slots: Vec<Slot> = topic.assignment.iter().filter(|a| !a.release).map(slot_of).collect();
        loads.add_group(&slots);
    }
    loads
}

/// Owners for new partitions: those that the client chose, or the least loaded ones.
fn place_new(
    node: &Node,
    loads: &mut Loads,
    of_topic: &mut Loads,
    count: usize,
    owners: &[NodeId],
) -> Vec<PartitionAssignment> {
    if owners.is_empty() {
        return loads.place_new(of_topic, count).iter().map(assignment_of).collect();
    }
    let brokers = node.cluster.brokers();
    let to = |owner: &NodeId| {
        let owner = brokers.get(*owner).map(|broker| broker.id);
        assignment_of(&Slot { owner, leader_epoch: LeaderEpoch(0), release: false })
    };
    owners.iter().map(to).collect()
}

fn new_topic(node: &Node, loads: &mut Loads, spec: TopicSpec) -> NewTopic {
    let count = spec.partitions.unsigned_abs() as usize;
    let partitions = place_new(node, loads, &mut Loads::new(live(node)), count, &spec.owners);
    NewTopic {
        name: spec.name,
        assignment: AssignmentRecord { partitions },
        topic: TopicRecord {
            topic_id: Uuid::new_v4(),
            partitions: spec.partitions,
            configs: spec.configs,
            created_ms: node.clock.now_ms(),
            internal: false,
        },
    }
}

/// Waits until a change that was made has come in.
pub async fn comes_back(node: &Node, holds: impl FnMut() -> bool) {
    if !wait_until(node, Instant::now() + COMES_BACK_WITHIN, holds).await {
        tracing::warn!("a change of the metadata was made, but has not come back yet");
    }
}

/// Waits until these topics have come in, and their partitions have leaders. `false` when the deadline passed before.
pub async fn until_led(node: &Node, topics: &[String], deadline: Instant) -> bool {
    // Those before `first` were found to be.
    let mut first = 0;
    let holds = || {
        while let Some(name) = topics.get(first) {
            if !node.topics.get(name).is_some_and(|topic| is_led(node, &topic)) {
                return false;
            }
            first += 1;
        }
        true
    };
    wait_until(node, deadline, holds).await
}

/// A broker that stops does not wait.
async fn wait_until(node: &Node, deadline: Instant, holds: impl FnMut() -> bool) -> bool {
    let waited = node.stopping.run_until_cancelled(node.cluster.until(deadline, holds)).await;
    waited.unwrap_or(false)
}

/// Whether every partition has a live owner; those that this broker owns are to be served.
fn is_led(node: &Node, topic: &Topic) -> bool {
    let brokers = node.cluster.brokers();
    (0..topic.partitions).all(|index| {
        let assigned = topic.assigned(index);
        if node.cluster.is_own(&assigned) {
            return topic.partition_id(index).is_some_and(|id| node.log.partition(id).is_some());
        }
        brokers.owner(&assigned).is_some()
    })
}
