//! DescribeProducers (61), version 0: the idempotent producers that partitions remember (KIP-664).
//!
//! Differs from Apache Kafka: no producer has a transaction, as there are none yet.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse, ProducerId};
use kafka_protocol::protocol::StrBytes;
use kafscale_core::producer::SeenBatch;

use super::{RequestContext, lookup};
use crate::node::Node;
use crate::wire::TopicRef;

/// The memory for one producer in an answer.
const PRODUCER_BYTES: usize = 128;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    // Each partition once: it may remember thousands of producers.
    let mut seen = HashSet::new();
    let (max_bytes, mut bytes) = (ctx.answer_max_bytes(node), 0);
    // The memory of all that fit is taken before anything is built, and that of others is not needed.
    let mut fits = HashSet::new();
    for topic in &request.topics {
        let Ok(found) = lookup::topic(node, &TopicRef::Name(topic.name.0.clone())) else { continue };
        for &index in &topic.partition_indexes {
            let Ok(partition) = lookup::partition(node, &found, index) else { continue };
            let needed = partition.producer_count() * PRODUCER_BYTES;
            if fits.contains(&partition.id()) || bytes + needed > max_bytes {
                continue;
            }
            bytes += needed;
            fits.insert(partition.id());
        }
    }
    let _ = ctx.make_room(node, bytes).await;
    let topics = request.topics.into_iter().map(|topic| {
        let found = lookup::topic(node, &TopicRef::Name(topic.name.0.clone()));
        let distinct =
            topic.partition_indexes.iter().filter(|index| seen.insert((topic.name.clone(), **index)));
        let partitions = distinct.map(|&index| {
            let response = PartitionResponse::default().with_partition_index(index);
            let partition = found.clone().and_then(|topic| lookup::partition(node, &topic, index));
            match partition {
                Ok(partition) if !fits.contains(&partition.id()) => {
                    let error = ResponseError::PolicyViolation;
                    let message = "The producers do not fit into the memory for one answer.";
                    response
                        .with_error_code(ctx.fail(error))
                        .with_error_message(Some(StrBytes::from_static_str(message)))
                }
                Ok(partition) => {
                    let producers = partition.producers().into_iter().map(|(id, last)| state(id.0, last));
                    response.with_active_producers(producers.collect())
                }
                Err(error) => response
                    .with_error_code(ctx.fail(error))
                    .with_error_message(Some(StrBytes::from_string(error.to_string()))),
            }
        });
        let partitions = partitions.collect();
        TopicResponse::default().with_partitions(partitions).with_name(topic.name)
    });
    DescribeProducersResponse::default().with_topics(topics.collect())
}

fn state(producer_id: i64, last: SeenBatch) -> ProducerState {
    ProducerState::default()
        .with_producer_id(ProducerId(producer_id))
        .with_producer_epoch(i32::from(last.epoch))
        .with_last_sequence(last.last_sequence)
        .with_last_timestamp(last.timestamp_ms)
        .with_coordinator_epoch(-1)
        .with_current_txn_start_offset(-1)
}
