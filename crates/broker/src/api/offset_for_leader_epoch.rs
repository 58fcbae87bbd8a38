//! OffsetForLeaderEpoch (23), versions 2–4: where an epoch ended, so that a consumer finds out whether the log was cut
//! below it (KIP-101, KIP-320).
//!
//! An epoch that the log does not know is answered with epoch -1 and offset -1. Does not differ from Apache Kafka.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use kafscale_core::ids::LeaderEpoch;

use super::{RequestContext, lookup};
use crate::cluster::reads;
use crate::node::Node;
use crate::wire::TopicRef;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let reference = TopicRef::Name(topic.topic.0.clone());
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            let answer = EpochEndOffset::default()
                .with_partition(asked.partition)
                .with_leader_epoch(-1)
                .with_end_offset(-1);
            let mut found = find(node, &reference, asked);
            if found.is_ok() && !reads::are_current(node).await {
                found = Err(ResponseError::NotLeaderOrFollower);
            }
            partitions.push(match found {
                Ok(Some((epoch, end))) => answer.with_leader_epoch(epoch).with_end_offset(end),
                Ok(None) => answer,
                Err(error) => answer.with_error_code(ctx.fail(error)),
            });
        }
        topics
            .push(OffsetForLeaderTopicResult::default().with_partitions(partitions).with_topic(topic.topic));
    }
    OffsetForLeaderEpochResponse::default().with_topics(topics)
}

fn find(
    node: &Node,
    topic: &TopicRef,
    asked: &OffsetForLeaderPartition,
) -> Result<Option<(i32, i64)>, ResponseError> {
    let topic = lookup::topic(node, topic)?;
    let partition = lookup::partition(node, &topic, asked.partition)?;
    lookup::check_leader_epoch(&partition, asked.current_leader_epoch)?;
    let end = partition.end_of_epoch(LeaderEpoch(asked.leader_epoch));
    Ok(end.map(|(epoch, offset)| (epoch.0, offset.0)))
}
