//! From what a request names to the partition that this broker serves, with the error that says why not.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafscale_core::ids::{LeaderEpoch, NodeId, TopicId};
use kafscale_core::producer::SequenceError;
use kafscale_storage::{AppendError, Partition, ReadError};

use crate::node::Node;
use crate::topics::Topic;
use crate::wire::TopicRef;

/// The topic that a request means.
pub fn topic(node: &Node, topic: &TopicRef) -> Result<Arc<Topic>, ResponseError> {
    match topic {
        TopicRef::Name(name) => node.topics.get(name).ok_or(ResponseError::UnknownTopicOrPartition),
        TopicRef::Id(id) => node.topics.get_by_id(TopicId(*id)).ok_or(ResponseError::UnknownTopicId),
    }
}

/// A partition that this broker serves.
pub fn partition(node: &Node, topic: &Topic, index: i32) -> Result<Partition, ResponseError> {
    let id = topic.partition_id(index).ok_or(ResponseError::UnknownTopicOrPartition)?;
    node.log.partition(id).ok_or(ResponseError::NotLeaderOrFollower)
}

/// A leader that clients are told of when they ask the wrong broker (KIP-951).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentLeader {
    pub node_id: NodeId,
    pub leader_epoch: i32,
}

/// Who leads a partition now, where that helps a client that got this error.
pub fn current_leader(
    node: &Node,
    listener: &str,
    topic: &TopicRef,
    index: i32,
    error: ResponseError,
) -> Option<CurrentLeader> {
    if !matches!(error, ResponseError::NotLeaderOrFollower | ResponseError::FencedLeaderEpoch) {
        return None;
    }
    let assigned = self::topic(node, topic).ok()?.assigned(index);
    let brokers = node.cluster.brokers();
    let owner = brokers.owner(&assigned).filter(|owner| owner.endpoint(listener).is_some())?;
    Some(CurrentLeader { node_id: owner.id.node_id, leader_epoch: assigned.leader_epoch })
}

/// Compares the epoch that a client believes in with the partition's (KIP-320). -1 is no belief.
pub fn check_leader_epoch(partition: &Partition, believed: i32) -> Result<(), ResponseError> {
    let LeaderEpoch(current) = partition.leader_epoch();
    match believed {
        ..0 => Ok(()),
        _ if believed < current => Err(ResponseError::FencedLeaderEpoch),
        _ if believed > current => Err(ResponseError::UnknownLeaderEpoch),
        _ => Ok(()),
    }
}

/// The code for a failed read.
pub fn read_error(error: &ReadError) -> ResponseError {
    match error {
        ReadError::OutOfRange { .. } => ResponseError::OffsetOutOfRange,
        ReadError::Unavailable(_) => ResponseError::KafkaStorageError,
        // As Apache Kafka does: a consumer is told at which offset, and gets past it by seeking.
        ReadError::Corrupt(_) => ResponseError::CorruptMessage,
        ReadError::Gone => ResponseError::NotLeaderOrFollower,
    }
}

/// The code for a failed append.
pub fn append_error(error: &AppendError) -> ResponseError {
    match error {
        AppendError::Sequence(SequenceError::Fenced { .. }) => ResponseError::InvalidProducerEpoch,
        AppendError::Sequence(SequenceError::OutOfOrder { .. }) => ResponseError::OutOfOrderSequenceNumber,
        AppendError::Unavailable(_) => ResponseError::KafkaStorageError,
        AppendError::Gone | AppendError::Fenced => ResponseError::NotLeaderOrFollower,
    }
}
