//! CreateTopics (19), versions 2–7.
//!
//! Each topic succeeds or fails for itself, with a message. `validate_only` checks everything and creates nothing. Any broker creates topics, and
//! answers when the partitions have leaders, or when the time of the request is over: the topics exist then all the same.
//!
//! Differs from Apache Kafka: any replication factor from 1 on is accepted, and one replica is reported, because durability is the
//! object store's; scripts that ask for 3 work unchanged. A manual assignment names live brokers, of which the first of each partition owns
//! it; it may move later, when load is evened out.
//! The number of partitions of a topic and of the cluster is limited by configuration.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};
use kafscale_core::ids::NodeId;
use tokio::time::Instant;
use uuid::Uuid;

use super::{RequestContext, str_bytes};
use crate::admin::{AdminError, TopicSpec, chosen_owner, until_led};
use crate::node::Node;
use crate::settings::ConfigEntry;

/// An answer describes each topic in some kilobytes.
const TOPICS_MAX: usize = 10_000;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let started = Instant::now();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for topic in &request.topics {
        *seen.entry(&topic.name).or_default() += 1;
    }
    let admin = node.admin.lock().await;
    let mut planned = 0;
    let mut checked = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let spec = if seen[topic.name.as_str()] > 1 {
            Err(AdminError::new(ResponseError::InvalidRequest, "Duplicate topic name."))
        } else if checked.len() >= TOPICS_MAX {
            let message = format!("A request may create {TOPICS_MAX} topics.");
            Err(AdminError::new(ResponseError::PolicyViolation, message))
        } else {
            read_spec(node, topic).and_then(|spec| admin.check(node, &spec, planned).map(|_| spec))
        };
        planned += spec.as_ref().map_or(0, |spec| i64::from(spec.partitions));
        checked.push(spec);
    }
    let wanted: Vec<TopicSpec> = checked.iter().filter_map(|spec| spec.as_ref().ok()).cloned().collect();
    let mut created: Vec<_> = if request.validate_only || wanted.is_empty() {
        Vec::new()
    } else {
        let failed = |error: AdminError| wanted.iter().map(|_| Err(error.clone())).collect();
        admin.create(node, wanted.clone()).await.unwrap_or_else(failed)
    };
    drop(admin);
    let exist = wanted.iter().zip(&created).filter(|(_, created)| created.is_ok());
    let exist: Vec<String> = exist.map(|(spec, _)| spec.name.clone()).collect();
    let wait = Duration::from_millis(request.timeout_ms.max(0).unsigned_abs().into());
    if !until_led(node, &exist, started + wait).await {
        tracing::debug!(
            topics = exist.len(),
            "new topics have no leaders yet, and the client waits no longer"
        );
    }
    let mut created = created.drain(..);
    let results = request.topics.iter().zip(checked).map(|(topic, spec)| {
        let outcome = spec.and_then(|spec| match created.next() {
            Some(created) => created.map(|id| (spec, id.0)),
            None => Ok((spec, Uuid::nil())),
        });
        let result = CreatableTopicResult::default().with_name(topic.name.clone()).with_error_message(None);
        match outcome {
            Ok((spec, id)) => succeeded(node, ctx.version, result, &spec, id),
            Err(AdminError { error, message }) => {
                let result =
                    result.with_error_code(ctx.fail(error)).with_error_message(Some(str_bytes(&message)));
                if ctx.version >= 5 {
                    result.with_num_partitions(-1).with_replication_factor(-1)
                } else {
                    result
                }
            }
        }
    });
    CreateTopicsResponse::default().with_topics(results.collect())
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
