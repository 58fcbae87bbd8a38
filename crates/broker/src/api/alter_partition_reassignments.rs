//! AlterPartitionReassignments (45), versions 0–1: who is to have replicas of a partition (KIP-455).
//!
//! The store has the records, and one broker serves a partition at a time. So a reassignment is done at once where the owner is among
//! the brokers that it names, for any number of them, as CreateTopics accepts any replication factor. There is none to be cancelled.
//!
//! Differs from Apache Kafka: a reassignment to other brokers is INVALID_REPLICA_ASSIGNMENT: the controller decides by load who
//! owns a partition.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, BrokerId,
};

use super::{RequestContext, message_bytes};
use crate::admin::{AdminError, chosen_owner};
use crate::node::Node;
use crate::topics::Topic;

pub async fn handle(
    node: &Arc<Node>,
    ctx: &RequestContext,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let mut seen = HashSet::new();
    let topics = request.topics.iter().map(|asked| {
        let topic = node.topics.get(&asked.name);
        let distinct =
            asked.partitions.iter().filter(|p| seen.insert((asked.name.clone(), p.partition_index)));
        let partitions = distinct.map(|partition| {
            let response = ReassignablePartitionResponse::default()
                .with_partition_index(partition.partition_index)
                .with_error_message(None);
            match check(node, topic.as_deref(), partition) {
                Ok(()) => response,
                Err(AdminError { error, message }) => response
                    .with_error_code(ctx.fail(error))
                    .with_error_message(Some(message_bytes(&message))),
            }
        });
        let partitions = partitions.collect();
        ReassignableTopicResponse::default().with_name(asked.name.clone()).with_partitions(partitions)
    });
    let response = AlterPartitionReassignmentsResponse::default()
        .with_error_message(None)
        .with_responses(topics.collect());
    if ctx.version < 1 {
        return response;
    }
    response.with_allow_replication_factor_change(request.allow_replication_factor_change)
}

/// Whether what is asked for is so already.
fn check(node: &Node, topic: Option<&Topic>, asked: &ReassignablePartition) -> Result<(), AdminError> {
    let index = asked.partition_index;
    let topic = topic.filter(|topic| topic.partition_id(index).is_some()).ok_or_else(|| {
        let message = "The topic or the partition does not exist.";
        AdminError::new(ResponseError::UnknownTopicOrPartition, message)
    })?;
    let replicas: &[BrokerId] = asked.replicas.as_deref().ok_or_else(|| {
        AdminError::new(ResponseError::NoReassignmentInProgress, "No partition reassignment is in progress.")
    })?;
    chosen_owner(node, replicas)?;
    let distinct: HashSet<i32> = replicas.iter().map(|id| id.0).collect();
    if distinct.len() < replicas.len() {
        let message = "The manual partition assignment includes a broker more than once.";
        return Err(AdminError::new(ResponseError::InvalidReplicaAssignment, message));
    }
    match topic.assigned(index).owner {
        Some(owner) if distinct.contains(&owner) => Ok(()),
        owner => {
            let owner = owner.map_or("no broker at the moment".into(), |id| format!("broker {id}"));
            let message =
                format!("Served by {owner}; the controller decides by load who serves a partition.");
            Err(AdminError::new(ResponseError::InvalidReplicaAssignment, message))
        }
    }
}
