//! DeleteRecords (21), versions 0–2: moves the start of partitions; -1 means the high watermark.
//!
//! Answered when the new start is durable. Does not differ from Apache Kafka.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use kafscale_core::ids::Offset;

use super::{RequestContext, lookup};
use crate::node::Node;
use crate::wire::TopicRef;

const HIGH_WATERMARK: i64 = -1;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let reference = TopicRef::Name(topic.name.0.clone());
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            let result = DeleteRecordsPartitionResult::default().with_partition_index(asked.partition_index);
            // What has begun is finished; nothing is begun for a peer that is gone.
            let wanted = ctx.while_wanted(node, std::future::ready(())).await;
            let deleted = match wanted {
                Some(()) => delete(node, &reference, asked.partition_index, asked.offset).await,
                None => Err(ResponseError::RequestTimedOut),
            };
            partitions.push(match deleted {
                Ok(log_start) => result.with_low_watermark(log_start.0),
                Err(error) => result.with_low_watermark(-1).with_error_code(ctx.fail(error)),
            });
        }
        topics.push(DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions));
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

async fn delete(node: &Node, topic: &TopicRef, index: i32, offset: i64) -> Result<Offset, ResponseError> {
    let topic = lookup::topic(node, topic)?;
    let partition = lookup::partition(node, &topic, index)?;
    if !topic.config.cleanup_delete {
        return Err(ResponseError::PolicyViolation);
    }
    let high_watermark = partition.offsets().high_watermark;
    let before = if offset == HIGH_WATERMARK { high_watermark } else { Offset(offset) };
    if before.0 < 0 || before > high_watermark {
        return Err(ResponseError::OffsetOutOfRange);
    }
    partition.delete_records(before).await.map_err(|e| lookup::read_error(&e))
}
