//! DescribeProducers (61), version 0: the idempotent producers that partitions remember (KIP-664).
//!
//! Differs from Apache Kafka: no producer has a transaction, as there are none yet.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse, ProducerId};
use kafka_protocol::protocol::StrBytes;
use kafscale_core::producer::SeenBatch;

use super::{RequestContext, lookup};
use crate::node::Node;
use crate::wire::TopicRef;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    // Each partition once: it may remember thousands of producers.
    let mut seen = HashSet::new();
    let topics = request.topics.into_iter().map(|topic| {
        let found = lookup::topic(node, &TopicRef::Name(topic.name.0.clone()));
        let distinct =
            topic.partition_indexes.iter().filter(|index| seen.insert((topic.name.clone(), **index)));
        let partitions = distinct.map(|&index| {
            let response = PartitionResponse::default().with_partition_index(index);
            let partition = found.clone().and_then(|topic| lookup::partition(node, &topic, index));
            match partition {
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
