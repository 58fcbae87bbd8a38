//! CreateTopics (19), versions 2–7.
//!
//! Each topic succeeds or fails for itself, with a message. `validate_only` checks everything and creates nothing. Any broker creates topics, and
//! answers when the partitions have leaders, or when the time of the request is over: the topics exist then all the same. Many topics
//! are created in batches, between which others get their turn; when the time is over, or the client gone, no further batch is begun.
//!
//! Differs from Apache Kafka: any replication factor from 1 on is accepted, and one replica is reported, because durability is the
//! object store's; scripts that ask for 3 work unchanged. A manual assignment names live brokers, of which the first of each partition owns
//! it; it may move later, when load is evened out.
//! The number of partitions of a topic and of the cluster is limited by configuration.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse, TopicName};
use kafscale_core::ids::NodeId;
use tokio::time::Instant;
use uuid::Uuid;

use super::{CHANGES_AT_ONCE, RequestContext, message_bytes, named_twice, request_deadline, str_bytes};
use crate::admin::{AdminError, TopicAdmin, TopicSpec, chosen_owner, until_led};
use crate::node::Node;
use crate::settings::ConfigEntry;

/// An answer describes each topic in some kilobytes.
const TOPICS_MAX: usize = 10_000;
/// The memory for the settings of a topic in the answer.
const SETTINGS_BYTES: usize = 8 << 10;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let deadline = request_deadline(request.timeout_ms);
    let twice = named_twice(request.topics.iter().map(|topic| &topic.name));
    let described = if ctx.version >= 5 { request.topics.len().min(TOPICS_MAX) } else { 0 };
    let fits = ctx.make_room(node, described * SETTINGS_BYTES).await;
    let mut plan = Plan { twice, made: Vec::new(), validate_only: request.validate_only };
    let mut outcomes = Vec::with_capacity(request.topics.len());
    for batch in request.topics.chunks(CHANGES_AT_ONCE) {
        let in_time = outcomes.is_empty() || Instant::now() < deadline;
        let refused = if let Err(error) = &fits {
            Some(AdminError::new(ResponseError::PolicyViolation, error.to_string()))
        } else if outcomes.len() >= TOPICS_MAX {
            let message = format!("A request may create {TOPICS_MAX} topics.");
            Some(AdminError::new(ResponseError::PolicyViolation, message))
        } else {
            (!in_time).then(AdminError::not_begun)
        };
        outcomes.extend(match refused {
            Some(error) => batch.iter().map(|_| Err(error.clone())).collect(),
            None => plan.carry_out(node, ctx, batch).await,
        });
    }
    let exist: Vec<String> = plan.made.into_iter().map(|(name, _)| name).collect();
    // Nobody who is gone is waited for.
    if ctx.while_wanted(node, until_led(node, &exist, deadline)).await != Some(true) {
        let topics = exist.len();
        tracing::debug!(topics, "new topics have no leaders yet, and the client waits no longer");
    }
    let results = request.topics.iter().zip(outcomes).map(|(topic, outcome)| {
        let result = CreatableTopicResult::default().with_name(topic.name.clone()).with_error_message(None);
        match outcome {
            Ok((spec, id)) => succeeded(node, ctx.version, result, &spec, id),
            Err(error) => failed(ctx, result, &error),
        }
    });
    CreateTopicsResponse::default().with_topics(results.collect())
}

fn failed(ctx: &RequestContext, result: CreatableTopicResult, error: &AdminError) -> CreatableTopicResult {
    let message = Some(message_bytes(&error.message));
    let result = result.with_error_code(ctx.fail(error.error)).with_error_message(message);
    if ctx.version >= 5 { result.with_num_partitions(-1).with_replication_factor(-1) } else { result }
}

/// A request under way, batch by batch.
struct Plan<'a> {
    /// Topics that are named twice.
    twice: HashSet<&'a TopicName>,
    /// What was created so far, with the numbers of partitions.
    made: Vec<(String, i32)>,
    validate_only: bool,
}

/// A topic that was created, or could be, with its id.
type Outcome = Result<(TopicSpec, Uuid), AdminError>;

impl Plan<'_> {
    async fn carry_out(
        &mut self,
        node: &Node,
        ctx: &RequestContext,
        batch: &[CreatableTopic],
    ) -> Vec<Outcome> {
        let Some(admin) = ctx.turn(node).await else {
            return batch.iter().map(|_| Err(AdminError::not_begun())).collect();
        };
        // What has not come in yet is not counted among all.
        let new = self.made.iter().filter(|(name, _)| node.topics.get(name).is_none());
        let mut planned: i64 = new.map(|(_, partitions)| i64::from(*partitions)).sum();
        let checked: Vec<_> = batch
            .iter()
            .map(|topic| {
                let spec = self.check(node, &admin, topic, planned);
                planned += spec.as_ref().map_or(0, |spec| i64::from(spec.partitions));
                spec
            })
            .collect();
        let wanted: Vec<TopicSpec> = checked.iter().flatten().cloned().collect();
        if self.validate_only || wanted.is_empty() {
            return checked.into_iter().map(|spec| Ok((spec?, Uuid::nil()))).collect();
        }
        let failed = |error: AdminError| wanted.iter().map(|_| Err(error.clone())).collect();
        let mut created = admin.create(node, wanted.clone()).await.unwrap_or_else(failed).into_iter();
        let outcomes = checked.into_iter().map(|spec| {
            let spec = spec?;
            let id = created.next().unwrap_or_else(|| Err(AdminError::not_begun()))?;
            self.made.push((spec.name.clone(), spec.partitions));
            Ok((spec, id.0))
        });
        outcomes.collect()
    }

    fn check(
        &self,
        node: &Node,
        admin: &TopicAdmin,
        topic: &CreatableTopic,
        planned: i64,
    ) -> Result<TopicSpec, AdminError> {
        if self.twice.contains(&topic.name) {
            return Err(AdminError::new(ResponseError::InvalidRequest, "Duplicate topic name."));
        }
        let spec = read_spec(node, topic)?;
        admin.check(node, &spec, planned)?;
        Ok(spec)
    }
}

fn read_spec(node: &Node, topic: &CreatableTopic) -> Result<TopicSpec, AdminError> {
    let (partitions, owners) = if topic.assignments.is_empty() {
        if topic.replication_factor == 0 || topic.replication_factor < -1 {
            let message = "Replication factor must be larger than 0, or -1 to use the default value.";
            return Err(AdminError::new(ResponseError::InvalidReplicationFactor, message));
        }
        let count =
            if topic.num_partitions == -1 { node.config.num_partitions } else { topic.num_partitions };
        (count, Vec::new())
    } else {
        let owners = assigned_owners(node, topic)?;
        (owners.len() as i32, owners)
    };
    let mut configs = BTreeMap::new();
    for config in &topic.configs {
        let value = config.value.as_ref().ok_or_else(|| {
            let message = format!("Null value not supported for topic configs: {}", config.name.as_str());
            AdminError::new(ResponseError::InvalidConfig, message)
        })?;
        configs.insert(config.name.to_string(), value.to_string());
    }
    Ok(TopicSpec { name: topic.name.to_string(), partitions, owners, configs })
}

fn assigned_owners(node: &Node, topic: &CreatableTopic) -> Result<Vec<NodeId>, AdminError> {
    if topic.num_partitions != -1 || topic.replication_factor != -1 {
        let message = "A manual partition assignment was specified, but numPartitions or replicationFactor was not set to -1.";
        return Err(AdminError::new(ResponseError::InvalidRequest, message));
    }
    let mut assignments: Vec<_> = topic.assignments.iter().collect();
    assignments.sort_unstable_by_key(|assignment| assignment.partition_index);
    if !assignments.iter().map(|a| a.partition_index).eq(0..assignments.len() as i32) {
        let message = "Partitions should be a consecutive 0-based integer sequence.";
        return Err(AdminError::new(ResponseError::InvalidReplicaAssignment, message));
    }
    assignments.iter().map(|assignment| chosen_owner(node, &assignment.broker_ids)).collect()
}

fn succeeded(
    node: &Node,
    version: i16,
    result: CreatableTopicResult,
    spec: &TopicSpec,
    id: Uuid,
) -> CreatableTopicResult {
    if version < 5 {
        return result;
    }
    let described = node.settings.describe_topic(&spec.configs);
    let result = result
        .with_num_partitions(spec.partitions)
        .with_replication_factor(1)
        .with_configs(Some(described.into_iter().map(config).collect()));
    if version >= 7 { result.with_topic_id(id) } else { result }
}

fn config(entry: ConfigEntry) -> CreatableTopicConfigs {
    CreatableTopicConfigs::default()
        .with_name(str_bytes(entry.name))
        .with_value(entry.value.as_deref().map(str_bytes))
        .with_read_only(entry.read_only)
        .with_config_source(entry.source as i8)
        .with_is_sensitive(false)
}
