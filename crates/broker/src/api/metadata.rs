//! Metadata (3), versions 0–13: brokers, topics, and who leads each partition.
//!
//! No list of topics means all of them, as does the empty list of version 0. A topic that does not exist is created when both the
//! request and the broker allow it (`auto.create.topics.enable`).
//!
//! A partition whose owner is gone has no leader (LEADER_NOT_AVAILABLE) until it has another. Brokers are told by the addresses that they have
//! for the listener that the client came in by; a leader that has none there is LISTENER_NOT_FOUND.
//!
//! Differs from Apache Kafka: a topic that is created here is answered with its leaders as soon as it has them instead of
//! LEADER_NOT_AVAILABLE. Every partition has one replica, its owner: durability is the object store's.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use kafscale_core::ids::TopicId;
use kafscale_core::names::check_topic_name;
use kafscale_meta::records::PartitionAssignment;
use tokio::time::Instant;

use super::{RequestContext, str_bytes};
use crate::admin::{AdminError, TopicSpec, until_led};
use crate::cluster::{Brokers, LiveBroker};
use crate::node::Node;
use crate::topics::Topic;

/// A topic that was just created is told of as it is after this time.
const LED_WITHIN: Duration = Duration::from_secs(2);

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
        let described = describe_topic(&node.cluster.brokers(), ctx, topic);
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
    let brokers = node.cluster.brokers();
    let controller = brokers.live_controller().filter(|_| ctx.version >= 1);
    let response = MetadataResponse::default()
        .with_brokers(brokers.all().filter_map(|broker| describe_broker(ctx, broker)).collect())
        .with_controller_id(BrokerId(controller.map_or(-1, |node_id| node_id.0)))
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

fn describe_broker(ctx: &RequestContext, broker: &LiveBroker) -> Option<MetadataResponseBroker> {
    let endpoint = broker.endpoint(&ctx.peer.listener)?;
    let described = MetadataResponseBroker::default()
        .with_node_id(BrokerId(broker.id.node_id.0))
        .with_host(str_bytes(&endpoint.host))
        .with_port(i32::from(endpoint.port))
        .with_rack(broker.rack.as_deref().filter(|_| ctx.version >= 1).map(str_bytes));
    Some(described)
}

/// The leader of a partition as a client sees it who came in by this listener. Without one, -1 and the reason.
pub fn leader(
    brokers: &Brokers,
    listener: &str,
    assigned: &PartitionAssignment,
) -> (BrokerId, Option<ResponseError>) {
    match brokers.owner(assigned) {
        None => (BrokerId(-1), Some(ResponseError::LeaderNotAvailable)),
        Some(owner) if owner.endpoint(listener).is_none() => {
            (BrokerId(-1), Some(ResponseError::ListenerNotFound))
        }
        Some(owner) => (BrokerId(owner.id.node_id.0), None),
    }
}

/// The one replica: the owner, alive or not.
pub fn replicas(assigned: &PartitionAssignment) -> Vec<BrokerId> {
    assigned.owner.map(BrokerId).into_iter().collect()
}

fn describe_topic(brokers: &Brokers, ctx: &RequestContext, topic: &Topic) -> MetadataResponseTopic {
    let version = ctx.version;
    let partition = |index| {
        let assigned = topic.assigned(index);
        let (leader, why) = leader(brokers, &ctx.peer.listener, &assigned);
        // Older clients do not know the other error.
        let why = why.map(|why| if version >= 6 { why } else { ResponseError::LeaderNotAvailable });
        MetadataResponsePartition::default()
            .with_error_code(why.map_or(0, |why| ctx.fail(why)))
            .with_partition_index(index)
            .with_leader_id(leader)
            .with_leader_epoch(if version >= 7 { assigned.leader_epoch } else { -1 })
            .with_replica_nodes(replicas(&assigned))
            .with_isr_nodes(replicas(&assigned))
            .with_offline_replicas(if leader.0 < 0 && version >= 5 {
                replicas(&assigned)
            } else {
                Vec::new()
            })
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
    let mut exist_now = Vec::new();
    for name in named.iter().filter_map(|asked| asked.name.as_ref()) {
        // Another request may have created it while this one waited for the lock.
        if !is_missing(name) {
            continue;
        }
        let partitions = node.config.num_partitions;
        let spec =
            TopicSpec { name: name.to_string(), partitions, owners: Vec::new(), configs: Default::default() };
        let created = match admin.check(node, &spec, 0) {
            Ok(_) => admin.create(node, vec![spec]).await.and_then(|mut all| all.remove(0)),
            Err(error) => Err(error),
        };
        match created {
            Ok(_) => {
                tracing::info!(topic = %name.as_str(), partitions, "created a topic that a client asked for");
                exist_now.push(name.to_string());
            }
            // Somebody else was asked as well, and it has not come in yet.
            Err(AdminError { error: ResponseError::TopicAlreadyExists, .. }) => {
                exist_now.push(name.to_string())
            }
            Err(AdminError { message, .. }) => {
                tracing::warn!(topic = %name.as_str(), message, "a topic cannot be created automatically");
            }
        }
    }
    drop(admin);
    until_led(node, &exist_now, Instant::now() + LED_WITHIN).await;
}
