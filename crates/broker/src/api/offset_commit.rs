//! OffsetCommit (8), versions 2–9: how far a group has come.
//!
//! Answered once the offsets are durable. Versions 2 to 4 may ask for a retention of their own.
//!
//! Version 10, which names topics by id, is not offered because the message crate does not have it.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse, TopicName};
use kafscale_core::group::offsets::CommittedOffset;
use kafscale_core::group::{Generation, GroupError, MemberIdentity};
use kafscale_core::ids::{LeaderEpoch, Offset};
use tokio::time::Instant;

use super::RequestContext;
use super::answer_size::{COMMITTED_PARTITION_BYTES, STRUCTURE_BYTES};
use super::describe_groups::CLASSIC_STRING_MAX_BYTES;
use super::group_error::code_of;
use crate::coordinator::PartitionCommit;
use crate::node::Node;
use crate::topics::Topic;

/// How long a topic that exists may take to come in.
const COMES_IN_WITHIN: Duration = Duration::from_secs(2);

/// What becomes of a partition before the group is asked.
enum Checked {
    /// Stays as it is, whatever the group says.
    Unknown,
    TooLarge,
    /// The request asks for more than fits into memory.
    Unfit,
    Commit(CommittedOffset),
}

/// Times that hold for the whole request.
#[derive(Clone, Copy)]
struct Times {
    commit_ms: i64,
    expires_ms: Option<i64>,
}

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let partitions: usize = request.topics.iter().map(|topic| topic.partitions.len()).sum();
    let bytes = request.topics.len() * STRUCTURE_BYTES + partitions * COMMITTED_PARTITION_BYTES;
    if ctx.make_room(node, bytes).await.is_err() {
        // All partitions that there may be fit. Topics without any, which take most of the rest, say nothing.
        let named = request.topics.into_iter().filter(|topic| !topic.partitions.is_empty());
        let topics = named.map(|topic| {
            let partitions = topic.partitions.into_iter().map(|p| (p.partition_index, Checked::Unfit));
            answer(ctx, topic.name, partitions.collect(), Ok(()))
        });
        return OffsetCommitResponse::default().with_topics(topics.collect());
    }
    let commit_ms = node.clock.now_ms();
    let retention_ms = Some(request.retention_time_ms).filter(|ms| *ms >= 0);
    let times = Times { commit_ms, expires_ms: retention_ms.map(|ms| commit_ms.saturating_add(ms)) };
    let mut commits = Vec::new();
    let mut checked: Vec<(TopicName, Vec<(i32, Checked)>)> = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let topic = find(node, &asked.name).await;
        let partitions: Vec<(i32, Checked)> = asked
            .partitions
            .into_iter()
            .map(|p| (p.partition_index, check(node, topic.as_deref(), p, times)))
            .collect();
        if let Some(topic) = &topic {
            commits.extend(partitions.iter().filter_map(|(index, c)| commit(topic, *index, c)));
        }
        checked.push((asked.name, partitions));
    }
    let asks = checked.iter().flat_map(|(_, p)| p).any(|(_, c)| !matches!(c, Checked::Unknown));
    let result = if asks {
        let identity = MemberIdentity {
            member_id: request.member_id.as_str().into(),
            instance_id: request.group_instance_id.map(|id| id.as_str().into()),
            generation: Generation(request.generation_id_or_member_epoch),
        };
        node.coordinator.commit(&request.group_id, identity, commits).await
    } else {
        Ok(())
    };
    let topics = checked.into_iter().map(|(name, partitions)| answer(ctx, name, partitions, result));
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// A topic that was just created may not have come in here yet, and clients take a topic that is not known for gone.
async fn find(node: &Node, name: &str) -> Option<Arc<Topic>> {
    if let Some(topic) = node.topics.get(name) {
        return Some(topic);
    }
    let stored = node.metadata.load_topic(name).await;
    if matches!(stored, Ok(Some(_))) {
        node.cluster.until(Instant::now() + COMES_IN_WITHIN, || node.topics.get(name).is_some()).await;
    }
    node.topics.get(name)
}

fn check(node: &Node, topic: Option<&Topic>, asked: OffsetCommitRequestPartition, times: Times) -> Checked {
    let Some(topic) = topic.filter(|topic| topic.partition_id(asked.partition_index).is_some()) else {
        return Checked::Unknown;
    };
    let metadata = asked.committed_metadata.unwrap_or_default();
    // Java counts the UTF-16 units of a string. Answers of versions before KIP-482 have no room for more than they say.
    let max_units = node.coordinator.config().offset_metadata_max_bytes;
    if metadata.encode_utf16().count() > max_units || metadata.len() > CLASSIC_STRING_MAX_BYTES {
        return Checked::TooLarge;
    }
    let leader_epoch = Some(LeaderEpoch(asked.committed_leader_epoch)).filter(|epoch| epoch.0 >= 0);
    Checked::Commit(CommittedOffset {
        offset: Offset(asked.committed_offset),
        topic_id: topic.id,
        leader_epoch,
        metadata: metadata.to_string(),
        commit_time_ms: times.commit_ms,
        expires_at_ms: times.expires_ms,
    })
}

fn commit(topic: &Topic, partition: i32, checked: &Checked) -> Option<PartitionCommit> {
    match checked {
        Checked::Commit(committed) => {
            Some(PartitionCommit { topic: Arc::clone(&topic.name), partition, committed: committed.clone() })
        }
        Checked::Unknown | Checked::TooLarge | Checked::Unfit => None,
    }
}

fn answer(
    ctx: &RequestContext,
    name: TopicName,
    partitions: Vec<(i32, Checked)>,
    result: Result<(), GroupError>,
) -> OffsetCommitResponseTopic {
    let group_error = result.err().map(|error| match error {
        // Older clients take an unknown group for a generation of the past.
        GroupError::NotFound if ctx.version < 9 => ResponseError::IllegalGeneration,
        error => code_of(error),
    });
    let partition = |(index, checked): (i32, Checked)| {
        let error = match checked {
            Checked::Unknown => Some(ResponseError::UnknownTopicOrPartition),
            Checked::Unfit => Some(ResponseError::InvalidCommitOffsetSize),
            Checked::TooLarge => Some(group_error.unwrap_or(ResponseError::OffsetMetadataTooLarge)),
            Checked::Commit(_) => group_error,
        };
        OffsetCommitResponsePartition::default()
            .with_partition_index(index)
            .with_error_code(error.map_or(0, |error| ctx.fail(error)))
    };
    let partitions = partitions.into_iter().map(partition).collect();
    OffsetCommitResponseTopic::default().with_name(name).with_partitions(partitions)
}
