//! OffsetDelete (47), version 0: forget what a group has committed (KIP-496).
//!
//! Offsets of topics that the group's consumers are subscribed to stay: GROUP_SUBSCRIBED_TO_TOPIC.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use super::RequestContext;
use super::group_error::code_of;
use crate::coordinator::NamedPartition;
use crate::node::Node;
use crate::topics::Topic;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    let known: Vec<Option<Arc<Topic>>> =
        request.topics.iter().map(|topic| node.topics.get(&topic.name)).collect();
    let mut asked: Vec<NamedPartition> = Vec::new();
    for (topic, known) in request.topics.iter().zip(&known) {
        if let Some(known) = known {
            asked.extend(topic.partitions.iter().map(|p| (Arc::clone(&known.name), p.partition_index)));
        }
    }
    let results = match node.coordinator.delete_offsets(&request.group_id, asked).await {
        Ok(results) => results,
        Err(error) => return OffsetDeleteResponse::default().with_error_code(ctx.fail(code_of(error))),
    };
    let mut results = results.into_iter();
    let mut topics = Vec::with_capacity(request.topics.len());
    for (topic, known) in request.topics.into_iter().zip(known) {
        let partition = |index: i32| {
            let error = if known.is_some() {
                results.next().and_then(Result::err).map(code_of)
            } else {
                Some(ResponseError::UnknownTopicOrPartition)
            };
            OffsetDeleteResponsePartition::default()
                .with_partition_index(index)
                .with_error_code(error.map_or(0, |error| ctx.fail(error)))
        };
        let partitions = topic.partitions.iter().map(|p| p.partition_index).map(partition).collect();
        topics.push(OffsetDeleteResponseTopic::default().with_name(topic.name).with_partitions(partitions));
    }
    OffsetDeleteResponse::default().with_topics(topics)
}
