//! Metadata (3), versions 0–13: brokers, topics, and who leads each partition.
//!
//! No list of topics means all of them, as does the empty list of version 0. A topic that does not exist is created when both the
//! request and the broker allow it (`auto.create.topics.enable`).
//!
//! A partition whose owner is gone has no leader (LEADER_NOT_AVAILABLE) until it has another. Brokers are told by the addresses that they have
//! for the listener that the client came in by; a leader that has none there is LISTENER_NOT_FOUND.
//!
//! Differs from Apache Kafka: one request creates at most 1,000 topics. A topic that does not fit into the memory for one answer is
//! POLICY_VIOLATION. A topic that is created here is answered with its leaders as soon as it has them instead of
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

use super::answer_size::{DESCRIBED_PARTITION_BYTES, STRUCTURE_BYTES};
use super::{CHANGES_AT_ONCE, RequestContext, breathe, str_bytes};
use crate::admin::{AdminError, TopicAdmin, TopicSpec, until_led};
use crate::cluster::{Brokers, LiveBroker};
use crate::log_limit::Line;
use crate::node::Node;
use crate::topics::Topic;

/// A topic that was just created is told of as it is after this time.
const LED_WITHIN: Duration = Duration::from_secs(2);

/// The most topics that one request brings into being.
const CREATED_MAX: usize = 1000;

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
    let found: Vec<Found> = match request.topics.filter(|named| ctx.version > 0 || !named.is_empty()) {
        None => node.topics.all().into_iter().map(Ok).collect(),
        Some(named) => {
            let named = distinct(named);
            // Versions before 4 cannot say that they do not want a topic to be created.
            let may_create = request.allow_auto_topic_creation || ctx.version < 4;
            if may_create && node.config.auto_create_topics {
                create_missing(node, ctx, &named).await;
            }
            let (mut found, mut looked_up) = (Vec::with_capacity(named.len()), 0);
            for asked in named {
                looked_up += 1;
                breathe(&mut looked_up).await;
                found.push(find(node, &asked).map_err(|error| (asked, error)));
            }
            found
        }
    };
    let found = if ctx.is_abandoned() { Vec::new() } else { within_room(node, ctx, found).await };
    let mut topics = Vec::with_capacity(found.len());
    let mut described = 0;
    for found in found {
        described += found.as_ref().map_or(1, |topic| topic.partitions.unsigned_abs() as usize);
        topics.push(match found {
            Ok(topic) => describe(&topic),
            Err((asked, error)) => missing(ctx, &asked, error),
        });
        breathe(&mut described).await;
    }
    let brokers = node.cluster.brokers();
    let controller = brokers.controller_for_clients(node.config.node_id).filter(|_| ctx.version >= 1);
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

/// A topic, or what was asked for and why it is not described.
type Found = Result<Arc<Topic>, (MetadataRequestTopic, ResponseError)>;

/// Each topic once, as Apache Kafka answers; a topic of many partitions that is named a million times would fill the memory.
fn distinct(mut named: Vec<MetadataRequestTopic>) -> Vec<MetadataRequestTopic> {
    let mut seen = HashSet::with_capacity(named.len());
    let first = named.iter().map(|asked| seen.insert((asked.name.clone(), asked.topic_id)));
    let mut first = first.collect::<Vec<bool>>().into_iter();
    named.retain(|_| first.next().unwrap_or(false));
    named
}

/// Makes room for the answer. Topics that do not fit into the memory for one are refused.
async fn within_room(node: &Node, ctx: &RequestContext, mut found: Vec<Found>) -> Vec<Found> {
    let (max_bytes, mut bytes) = (ctx.answer_max_bytes(node), found.len() * STRUCTURE_BYTES);
    for topic in &mut found {
        let Ok(described) = &*topic else { continue };
        let partitions = described.partitions.unsigned_abs() as usize;
        let needed = 2 * described.name.len() + partitions * DESCRIBED_PARTITION_BYTES;
        if bytes + needed <= max_bytes {
            bytes += needed;
            continue;
        }
        ctx.note_refused_answer(node, bytes + needed);
        let name = Some(TopicName(str_bytes(&described.name)));
        let asked = MetadataRequestTopic::default().with_name(name);
        *topic = Err((asked, ResponseError::PolicyViolation));
    }
    // That there is enough was just made sure of.
    let _ = ctx.make_room(node, bytes).await;
    found
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

/// Creates the topics that are named and do not exist, in batches, between which others get their turn. What fails is logged; the answer
/// then says that the topic is unknown, and so it is of topics beyond [`CREATED_MAX`]: clients ask again.
async fn create_missing(node: &Arc<Node>, ctx: &RequestContext, named: &[MetadataRequestTopic]) {
    let is_missing = |name: &&str| node.topics.get(name).is_none() && check_topic_name(name).is_ok();
    let names = named.iter().filter_map(|asked| asked.name.as_ref()).map(|name| name.as_str());
    let missing: Vec<&str> = names.filter(is_missing).take(CREATED_MAX).collect();
    if missing.is_empty() {
        return;
    }
    let mut exist_now = Vec::new();
    for batch in missing.chunks(CHANGES_AT_ONCE) {
        // Nothing more is begun for a client that is gone.
        let Some(admin) = ctx.turn(node).await else { return };
        // Another request may have created some of them while this one waited for its turn.
        let batch = batch.iter().copied().filter(is_missing);
        create_batch(node, &admin, batch, &mut exist_now).await;
    }
    let led = until_led(node, &exist_now, Instant::now() + LED_WITHIN);
    let _ = ctx.while_wanted(node, led).await;
}

async fn create_batch<'a>(
    node: &Node,
    admin: &TopicAdmin,
    names: impl Iterator<Item = &'a str>,
    exist_now: &mut Vec<String>,
) {
    let partitions = node.config.num_partitions;
    let new = exist_now.iter().filter(|name| node.topics.get(name).is_none()).count();
    let mut planned = i64::from(partitions) * new as i64;
    let (mut specs, mut failures) = (Vec::new(), Vec::new());
    for name in names {
        let spec =
            TopicSpec { name: name.to_owned(), partitions, owners: Vec::new(), configs: Default::default() };
        match admin.check(node, &spec, planned) {
            Ok(_) => {
                planned += i64::from(partitions);
                specs.push(spec);
            }
            Err(error) => failures.push((spec.name, error)),
        }
    }
    let names: Vec<String> = specs.iter().map(|spec| spec.name.clone()).collect();
    if !specs.is_empty() {
        match admin.create(node, specs).await {
            Ok(created) => {
                for (name, created) in names.into_iter().zip(created) {
                    match created {
                        Ok(_) => exist_now.push(name),
                        Err(error) => failures.push((name, error)),
                    }
                }
            }
            Err(error) => failures.extend(names.into_iter().map(|name| (name, error.clone()))),
        }
    }
    // Somebody else was asked as well, and it has not come in yet.
    let there = |(_, failure): &(String, AdminError)| failure.error == ResponseError::TopicAlreadyExists;
    let (there, failed): (Vec<_>, Vec<_>) = failures.into_iter().partition(there);
    exist_now.extend(there.into_iter().map(|(name, _)| name));
    log_created(node, exist_now, &failed);
}

/// A line for each batch: how many topics, and one of them.
fn log_created(node: &Node, exist_now: &[String], failed: &[(String, AdminError)]) {
    if let Some(topic) = exist_now.last()
        && node.lines.allow(Line::TopicsCreated)
    {
        let topics = exist_now.len();
        tracing::info!(topics, topic, "created topics that a client asked for");
    }
    if let Some((topic, AdminError { message, .. })) = failed.first()
        && node.lines.allow(Line::TopicsNotCreated)
    {
        let topics = failed.len();
        tracing::warn!(topics, topic, message, "topics cannot be created automatically");
    }
}
