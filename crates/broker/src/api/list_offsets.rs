//! ListOffsets (2), versions 1–11: offsets by time, and the ends of a partition.
//!
//! -1 is the high watermark, -2 the log start, -3 the record with the largest timestamp (KIP-734, since version 7), -4 the
//! earliest local offset (KIP-405, since version 8) and -5 the latest tiered one (KIP-1005, since version 9). Any other negative time
//! is UNSUPPORTED_VERSION, and a partition that is named twice INVALID_REQUEST.
//!
//! A search by time reads a batch and may inflate all of it: clients take turns for that, and it is not done on the event loop.
//!
//! -6 is the earliest offset that waits to be tiered (KIP-1023, since version 11).
//!
//! Differs from Apache Kafka: all records are equally near, so that -4 is the log start; as on a Kafka broker without tiered
//! storage, -5 and -6 are unknown.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};
use kafka_protocol::protocol::StrBytes;
use kafscale_core::ids::{LeaderEpoch, Offset};
use tokio::task::coop::consume_budget;

use super::{RequestContext, lookup};
use crate::cluster::reads;
use crate::node::Node;
use crate::wire::TopicRef;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

/// Offset, timestamp, epoch; -1 is unknown.
type Found = (i64, i64, i32);

const NOTHING: Found = (-1, -1, -1);

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let repeated = repeated(&request);
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let reference = TopicRef::Name(topic.name.0.clone());
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            // There may be many, and most need no wait.
            consume_budget().await;
            let answer = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            let found = if repeated.contains(&(topic.name.0.clone(), asked.partition_index)) {
                Err(ResponseError::InvalidRequest)
            } else {
                find(node, ctx, &reference, asked).await
            };
            partitions.push(match found {
                Ok((offset, timestamp, epoch)) => answer
                    .with_offset(offset)
                    .with_timestamp(timestamp)
                    .with_leader_epoch(if ctx.version >= 4 { epoch } else { -1 }),
                Err(error) => answer.with_error_code(ctx.fail(error)),
            });
        }
        topics.push(ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions));
    }
    ListOffsetsResponse::default().with_topics(topics)
}

/// The partitions that are named more than once.
fn repeated(request: &ListOffsetsRequest) -> HashSet<(StrBytes, i32)> {
    let (mut seen, mut repeated) = (HashSet::new(), HashSet::new());
    for topic in &request.topics {
        for asked in &topic.partitions {
            if !seen.insert((&topic.name.0, asked.partition_index)) {
                repeated.insert((topic.name.0.clone(), asked.partition_index));
            }
        }
    }
    repeated
}

async fn find(
    node: &Node,
    ctx: &RequestContext,
    topic: &TopicRef,
    asked: &ListOffsetsPartition,
) -> Result<Found, ResponseError> {
    let found = look(node, ctx, topic, asked).await?;
    if reads::are_current(node).await { Ok(found) } else { Err(ResponseError::NotLeaderOrFollower) }
}

async fn look(
    node: &Node,
    ctx: &RequestContext,
    topic: &TopicRef,
    asked: &ListOffsetsPartition,
) -> Result<Found, ResponseError> {
    let (version, requester) = (ctx.version, ctx.peer.requester());
    let topic = lookup::topic(node, topic)?;
    let partition = lookup::partition(node, &topic, asked.partition_index)?;
    lookup::check_leader_epoch(&partition, asked.current_leader_epoch)?;
    let offsets = partition.offsets();
    let epoch_or_unknown = |epoch: Option<LeaderEpoch>| epoch.map_or(-1, |e| e.0);
    let record = |found: Option<(Offset, i64, LeaderEpoch)>| {
        found.map_or(NOTHING, |(offset, timestamp, epoch)| (offset.0, timestamp, epoch.0))
    };
    match asked.timestamp {
        LATEST => Ok((offsets.high_watermark.0, -1, partition.leader_epoch().0)),
        EARLIEST => Ok((offsets.log_start.0, -1, epoch_or_unknown(partition.epoch_at(offsets.log_start)))),
        EARLIEST_LOCAL if version >= 8 => {
            Ok((offsets.log_start.0, -1, epoch_or_unknown(partition.epoch_at(offsets.log_start))))
        }
        LATEST_TIERED if version >= 9 => Ok(NOTHING),
        // Version 11 is handled as version 10, whose form it has.
        EARLIEST_PENDING_UPLOAD if version >= 10 => Ok(NOTHING),
        MAX_TIMESTAMP if version >= 7 => {
            partition.max_timestamp(requester).await.map(record).map_err(|e| lookup::read_error(&e))
        }
        ..0 => Err(ResponseError::UnsupportedVersion),
        target => {
            let found = partition.offset_for_timestamp(requester, target).await;
            found.map(record).map_err(|e| lookup::read_error(&e))
        }
    }
}
