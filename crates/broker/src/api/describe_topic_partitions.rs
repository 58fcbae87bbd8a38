//! DescribeTopicPartitions (75), version 0: topics in pages of partitions (KIP-966).
//!
//! A response holds at most 2000 partitions, or what the request wants if that is less, and a cursor to go on from.
//! Differs from Apache Kafka in what Metadata says.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicName};
use kafscale_core::names::check_topic_name;

use super::answer_size::{DESCRIBED_PARTITION_BYTES, STRUCTURE_BYTES};
use super::metadata::{TOPIC_OPERATIONS, leader, replicas};
use super::{RequestContext, str_bytes};
use crate::node::Node;
use crate::topics::Topic;

/// `max.request.partition.size.limit`
const PARTITIONS_MAX: i32 = 2000;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let cursor = request.cursor.as_ref();
    let from = cursor.map_or("", |cursor| cursor.topic_name.as_str());
    // So few fit beside anything that the request may ask for.
    let partitions = PARTITIONS_MAX.unsigned_abs() as usize * DESCRIBED_PARTITION_BYTES;
    let topics = (request.topics.len() * STRUCTURE_BYTES).min(ctx.answer_max_bytes(node) / 2);
    let _ = ctx.make_room(node, partitions + topics).await;
    let mut left = request.response_partition_limit.clamp(1, PARTITIONS_MAX);
    let mut response = DescribeTopicPartitionsResponse::default();
    for found in wanted(node, &request, from, left) {
        if left == 0 {
            return response.with_next_cursor(Some(cursor_at(found.name(), 0)));
        }
        let topic = match found {
            Found::Topic(topic) => topic,
            Found::Missing(name) => {
                response.topics.push(missing(ctx, &name));
                continue;
            }
        };
        let resumed = cursor.filter(|cursor| cursor.topic_name.as_str() == topic.name.as_ref());
        let first = resumed.map_or(0, |cursor| cursor.partition_index.clamp(0, topic.partitions));
        let end = topic.partitions.min(first + left);
        response.topics.push(describe(node, ctx, &topic, first..end));
        left -= end - first;
        if end < topic.partitions {
            return response.with_next_cursor(Some(cursor_at(&topic.name, end)));
        }
    }
    response
}

enum Found {
    Topic(Arc<Topic>),
    Missing(String),
}

impl Found {
    fn name(&self) -> &str {
        match self {
            Found::Topic(topic) => &topic.name,
            Found::Missing(name) => name,
        }
    }
}

/// The topics from the cursor on, ordered by name; one more than fit, to know where to go on.
fn wanted(node: &Node, request: &DescribeTopicPartitionsRequest, from: &str, limit: i32) -> Vec<Found> {
    if request.topics.is_empty() {
        let page = node.topics.page_from(from, limit.unsigned_abs() as usize + 1);
        return page.into_iter().map(Found::Topic).collect();
    }
    let mut names: Vec<&str> = request.topics.iter().map(|topic| topic.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let find =
        |name: &str| node.topics.get(name).map_or_else(|| Found::Missing(name.to_owned()), Found::Topic);
    names.into_iter().filter(|name| *name >= from).map(find).collect()
}

fn cursor_at(topic: &str, partition: i32) -> Cursor {
    Cursor::default().with_topic_name(TopicName(str_bytes(topic))).with_partition_index(partition)
}

fn missing(ctx: &RequestContext, name: &str) -> DescribeTopicPartitionsResponseTopic {
    let error = match check_topic_name(name) {
        Ok(()) => ResponseError::UnknownTopicOrPartition,
        Err(_) => ResponseError::InvalidTopicException,
    };
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(ctx.fail(error))
        .with_name(Some(TopicName(str_bytes(name))))
}

fn describe(
    node: &Node,
    ctx: &RequestContext,
    topic: &Topic,
    partitions: std::ops::Range<i32>,
) -> DescribeTopicPartitionsResponseTopic {
    let brokers = node.cluster.brokers();
    let partition = |index| {
        let assigned = topic.assigned(index);
        let (leader, why) = leader(&brokers, &ctx.peer.listener, &assigned);
        let offline = if leader.0 < 0 { replicas(&assigned) } else { Vec::new() };
        DescribeTopicPartitionsResponsePartition::default()
            .with_error_code(why.map_or(0, |why| ctx.fail(why)))
            .with_partition_index(index)
            .with_leader_id(leader)
            .with_leader_epoch(assigned.leader_epoch)
            .with_replica_nodes(replicas(&assigned))
            .with_isr_nodes(replicas(&assigned))
            .with_eligible_leader_replicas(Some(Vec::new()))
            .with_last_known_elr(Some(Vec::new()))
            .with_offline_replicas(offline)
    };
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(TopicName(str_bytes(&topic.name))))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic.internal)
        .with_partitions(partitions.map(partition).collect())
        .with_topic_authorized_operations(TOPIC_OPERATIONS)
}
