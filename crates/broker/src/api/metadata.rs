//! Metadata (3), versions 0–13: brokers, topics, and who leads each partition.
//!
//! No list of topics means all of them, as does the empty list of version 0. A topic that does not exist is created when both the
//! request and the broker allow it (`auto.create.topics.enable`).
//!
//! Differs from Apache Kafka: a topic that is created here is answered with its partitions at once instead of
//! LEADER_NOT_AVAILABLE. Every partition has one replica, its owner: durability is the object store's.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use kafscale_core::ids::TopicId;
use kafscale_core::names::check_topic_name;

use super::{RequestContext, str_bytes};
use crate::admin::{AdminError, TopicSpec};
use crate::node::Node;
use crate::topics::Topic;

/// The bits of the operations that Apache Kafka knows for a topic; without an authorizer all are allowed.
pub const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// The same for the cluster.
pub const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;
/// The operations were not asked for.
pub const OPERATIONS_OMITTED: i32 = i32::MIN;

pub async fn handle(node: &Arc<Node>, ctx: &RequestContext, request: MetadataRequest) -> MetadataResponse {
    let topic_operations =
        if request.include_topic_authorized_operations { TOPIC_OPERATIONS } else { OPERATIONS_OMITTED };
    let describe = |topic: &Arc<Topic>| {
        let described = describe_topic(node, ctx.version, topic);
        if ctx.version >= 8 {
            described.with_topic_authorized_operations(topic_operations)
        } else {
            described
        }
    };
    let topics = match &request.topics {
        None => node.topics.all().iter().map(describe).collect(),
        Some(named) if named.is_empty() && ctx.version == 0 => {
            node.topics.all().iter().map(describe).collect()
        }
        Some(named) => {
            let named = &distinct(named);
            // Versions before 4 cannot say that they do not want a topic to be created.
            let may_create = request.allow_auto_topic_creation || ctx.version < 4;
            if may_create && node.config.auto_create_topics {
                create_missing(node, named).await;
            }
            named
                .iter()
                .map(|asked| find(node, asked).map_or_else(|e| missing(ctx, asked, e), |t| describe(&t)))
                .collect()
        }
    };
    let response = MetadataResponse::default()
        .with_brokers(vec![this_broker(node, ctx.version)])
        .with_controller_id(BrokerId(if ctx.version >= 1 { node.config.node_id.0 } else { -1 }))
        .with_topics(topics);
    let response = if ctx.version >= 2 {
        response.with_cluster_id(Some(str_bytes(&node.config.cluster_id)))
    } else {
        response
    };
    if (8..=10).contains(&ctx.version) && request.include_cluster_authorized_operations {
        return response.with_cluster_authorized_operations(CLUSTER_OPERATIONS);
    }
    response
}

/// Each topic once, as Apache Kafka answers; a topic of many partitions that is named a million times would fill the memory.
fn distinct(named: &[MetadataRequestTopic]) -> Vec<MetadataRequestTopic> {
    let mut seen = HashSet::with_capacity(named.len());
    named.iter().filter(|asked| seen.insert((asked.name.clone(), asked.topic_id))).cloned().collect()
}

fn this_broker(node: &Node, version: i16) -> MetadataResponseBroker {
    let rack = node.config.rack.as_deref().filter(|_| version >= 1).map(str_bytes);
    MetadataResponseBroker::default()
        .with_node_id(BrokerId(node.config.node_id.0))
        .with_host(str_bytes(&node.advertised.host))
        .with_port(i32::from(node.advertised.port))
        .with_rack(rack)
}

fn describe_topic(node: &Node, version: i16, topic: &Topic) -> MetadataResponseTopic {
    let owner = BrokerId(node.config.node_id.0);
    let partition = |index| {
        MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_id(owner)
            .with_leader_epoch(if version >= 7 { topic.leader_epoch.0 } else { -1 })
            .with_replica_nodes(vec![owner])
            .with_isr_nodes(vec![owner])
    };
    let described = MetadataResponseTopic::default()
        .with_name(Some(TopicName(str_bytes(&topic.name))))
        .with_is_internal(topic.internal)
        .with_partitions((0..topic.partitions).map(partition).collect());
    if version >= 10 { described.with_topic_id(topic.id.0) } else { described }
}

fn find(node: &Node, asked: &MetadataRequestTopic) -> Result<Arc<Topic>, ResponseError> {
    // The Java client asks by id with an empty name, not with a null one.
    match &asked.name {
        Some(name) if asked.topic_id.is_nil() => {
            let unknown = || match check_topic_name(name) {
                Ok(()) => ResponseError::UnknownTopicOrPartition,
                Err(_) => ResponseError::InvalidTopicException,
            };
            node.topics.get(name).ok_or_else(unknown)
        }
        _ => node.topics.get_by_id(TopicId(asked.topic_id)).ok_or(ResponseError::UnknownTopicId),
    }
}

fn missing(
    ctx: &RequestContext,
    asked: &MetadataRequestTopic,
    error: ResponseError,
) -> MetadataResponseTopic {
    // Only newer versions may leave the name out.
    let by_name = asked.name.clone().filter(|_| asked.topic_id.is_nil());
    let name = by_name.or_else(|| (ctx.version < 12).then(|| TopicName(StrBytes::default())));
    MetadataResponseTopic::default()
        .with_error_code(ctx.fail(error))
        .with_name(name)
        .with_topic_id(asked.topic_id)
}

/// Creates the topics that are named and do not exist. What fails is logged; the answer then says that the topic is unknown.
async fn create_missing(node: &Arc<Node>, named: &[MetadataRequestTopic]) {
    let is_missing = |name: &str| node.topics.get(name).is_none() && check_topic_name(name).is_ok();
    if !named.iter().filter_map(|asked| asked.name.as_ref()).any(|name| is_missing(name)) {
        return;
    }
    let admin = node.admin.lock().await;
    for name in named.iter().filter_map(|asked| asked.name.as_ref()) {
        // Another request may have created it while this one waited for the lock.
        if !is_missing(name) {
            continue;
        }
        let partitions = node.config.num_partitions;
        let spec = TopicSpec { name: name.to_string(), partitions, configs: Default::default() };
        let created = match admin.check(node, &spec, 0) {
            Ok(_) => admin.create(node, vec![spec]).await.and_then(|mut all| all.remove(0)),
            Err(error) => Err(error),
        };
        match created {
            Ok(topic) => {
                tracing::info!(topic = %topic.name, partitions, "created a topic that a client asked for")
            }
            Err(AdminError { message, .. }) => {
                tracing::warn!(topic = %name.as_str(), message, "a topic cannot be created automatically");
            }
        }
    }
}
